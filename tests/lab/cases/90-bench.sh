# kernels: none
# Prints how long post-start and post-stop take with every knob on, next to the same writes by a program that
# does nothing else, to what reading them back and looking at the host take, and to a hookscript in shell. Fails where a
# phase takes more of that than it should (docs/performance.md has what was measured).
. /usr/lib/lab/lib.sh

rounds=3 failed=0 n_take=0 n_give=0
scrubbed='2 3 4 5'
units='pin-hook-reconcile.timer pin-hook-reconcile.path'

case_cleanup() { knobs_in_use 0; }

now() { echo "${EPOCHREALTIME/./}"; }

# timed NAME COMMAND...: keeps the shortest time, in us.
timed() {
    local name=$1 begin time
    shift
    begin=$(now)
    "$@" > "$work/timed" 2>&1 || said "$work/timed"
    time=$(($(now) - begin))
    keep "$name" $time
}
keep() { [ -n "${times[$1]:-}" ] && [ "${times[$1]}" -le "$2" ] || times[$1]=$2; }

# replayed NAME WAY [CPU ...]
replayed() {
    local name=$1 time read
    shift
    read -r "n_$name" failed time read < <("$lab/replay" "$work/journal" "$@")
    keep "$name" "$time"
    keep "$name-read" $((time + read))
}

qemu_up() {
    qm start 100 > /dev/null
    [ ! -e /etc/pin-hook/100.toml ] || bash -c 'pin-hook 100 pre-start; true' > "$work/pre-start"
}

# Only the phase sees the end: the units would be there first.
qemu_down() {
    # shellcheck disable=SC2086
    systemctl stop $units pin-hook-reconcile.service
    qm stop 100 > /dev/null
}

# One VM's life with pin-hook, and one in which the writes of the first are done again.
round() {
    qemu_up
    timed start pin-hook 100 post-start
    stands 100 "$isolated" || comes_to 'pin-hook isolates the VM' "$isolated" 100
    cp "$work/timed" "$work/post-start"
    cp /run/pin-hook/journal "$work/journal"
    timed look-start pin-hook 100 post-start
    qemu_down
    timed stop pin-hook 100 post-stop
    cp "$work/timed" "$work/post-stop"
    timed look-stop pin-hook 100 post-stop
    timed true /bin/true

    qemu_up
    pin-hook 100 post-start > "$work/second"
    cp /run/pin-hook/journal "$work/journal"
    released 100
    # shellcheck disable=SC2086
    replayed take take $scrubbed
    equal "the bare writes isolate the VM too, $failed of $n_take failed" "$isolated" "$(standing 100)"
    qm stop 100 > /dev/null
    replayed give give
}

# ratio A B: how many times B is in A.
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f\n", a / b }'; }
# at_most TEXT LIMIT A B: A takes at most LIMIT times as long as B. The limits leave room for a busy machine.
at_most() { check "$1: at most $2 times" awk -v a="$3" -v b="$4" -v limit="$2" 'BEGIN { print a / b; exit !(a <= limit * b) }'; }
row() { printf '#   %-40s %12s %12s\n' "$@"; }
ms() { echo "$(($1 / 1000)) ms"; }

# measured TEXT: the table.
measured() {
    row "$1" post-start post-stop
    row 'pin-hook' "$(ms "${times[start]}")" "$(ms "${times[stop]}")"
    row "its $n_take and $n_give writes alone" "$(ms "${times[take]}")" "$(ms "${times[give]}")"
    row 'these writes, each read back' "$(ms "${times[take-read]}")" "$(ms "${times[give-read]}")"
    row 'pin-hook again, with nothing to write' "$(ms "${times[look-start]}")" "$(ms "${times[look-stop]}")"
    row 'a program that does nothing' '' "$(ms "${times[true]}")"
    row 'a hookscript in shell, once' "$(ms "${times[shell-start]}")" "$(ms "${times[shell-stop]}")"
    row 'pin-hook / its writes' "$(ratio "${times[start]}" "${times[take]}")" "$(ratio "${times[stop]}" "${times[give]}")"
    row 'shell / its writes' "$(ratio "${times[shell-start]}" "${times[take]}")" "$(ratio "${times[shell-stop]}" "${times[give]}")"
    row 'shell / pin-hook' "$(ratio "${times[shell-start]}" "${times[start]}")" "$(ratio "${times[shell-stop]}" "${times[stop]}")"
}

declare -A times
isolated='isolated 2-5: 2 3 4 5'
knobs_in_use 1
mapfile -t knobs < <(all_knobs isolated)
hooked_vm 100 'cpus = "2-5"' 'pin.scheduler = "fifo:1"' "${knobs[@]}"
vm_conf 100
prepared
# No captures are compared: the bare writes give back nothing that was born meanwhile.
for ((n = 0; n < rounds; n++)); do round; done
said "$work/post-start"
said "$work/post-stop"

rm /etc/pin-hook/100.toml
qemu_up
timed shell-start "$lab/shell-hook" 100 post-start
qm stop 100 > /dev/null
timed shell-stop "$lab/shell-hook" 100 post-stop
shell_hook_gone
measured 'every knob, 4 vCPUs, shortest of 3'
at_most 'post-start again takes the writes' 0.6 "${times[look-start]}" "${times[take]}"
at_most 'post-stop again takes a program that does nothing' 5 "${times[look-stop]}" "${times[true]}"
at_most 'post-start takes its writes' 4 "${times[start]}" "${times[take]}"
at_most 'post-stop takes its writes' 20 "${times[stop]}" "${times[give]}"
