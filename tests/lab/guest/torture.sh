# VMs come and go at random, and pin-hook is killed at random, for as many seconds as TORTURE_SECONDS says: what
# 32-pairs, 50-storm and 65-death have a sample of. TORTURE_SEED gives the same events again.
#
# Three VMs with partitions of both types. After each event every VM that runs has its CPUs, by the units if need
# be; after every six of them all VMs are stopped, and the host is as before. Ends with a table of what was done.
. /usr/lib/lab/lib.sh

snippet=/var/lib/vz/snippets/pin-hook
death=/run/lab/death
seed=${TORTURE_SEED:-$RANDOM} seconds=${TORTURE_SECONDS:-300}
RANDOM=$seed
declare -A stands=([100]='isolated 2-3: 2 3' [101]='isolated 4: 4' [102]='root 6-7: 6 7') done=()

case_cleanup() { [ ! -e "$work/snippet" ] || cp -p "$work/snippet" $snippet; rm -f $death; }

# The snippet, but one that is killed in the phase and at the write that the file says, once.
deadly_snippet() {
    cp -p $snippet "$work/snippet"
    cat > $snippet << 'HOOK'
#!/bin/bash
read -r phase n 2> /dev/null < /run/lab/death || true
[ "${phase:-}" = "$2" ] || exec /usr/sbin/pin-hook "$@"
rm /run/lab/death
exec strace -f -qq -o /dev/null -e trace=write,pwrite64 -e "inject=write,pwrite64:signal=KILL:when=$n" /usr/sbin/pin-hook "$@"
HOOK
}

# note WHAT: counts for the table.
note() { done[$1]=$((${done[$1]:-0} + 1)); }

# die_in PHASE...: in one of three cases, at any of its first writes.
die_in() {
    [ $((RANDOM % 3)) -eq 0 ] || return 0
    local phases=("$@")
    local phase=${phases[RANDOM % $#]}
    echo "$phase $((RANDOM % 60 + 1))" > $death
    note "death planned in $phase"
}

# What a random event does to VM $1; a command of PVE may fail because of a death.
event() {
    local id=$1 kinds=(stop shutdown kill9 guest-poweroff reboot release)
    if gone "$id"; then
        die_in pre-start post-start
        note start
        qm start "$id" || true
        return
    fi
    local kind=${kinds[RANDOM % ${#kinds[@]}]}
    note "$kind"
    case $kind in
        stop | shutdown) die_in post-stop; qm "$kind" "$id" || true ;;
        reboot) qm reboot "$id" || true; wait_until 90 'vm is rebooted' rebooted_or_gone "$id" || true ;;
        release) released "$id"; pin-hook post-start "$id" || true ;;
        *) qm "$kind" "$id" || true; wait_until 60 'QEMU ends' gone "$id" ;;
    esac
}

rebooted_or_gone() { [ ! -e "/run/qemu-server/$1.reboot" ] && cleaned_up; }

all_stand() {
    local id
    for id in 100 101 102; do gone "$id" || stands "$id" "${stands[$id]}" || return 1; done
}

say_standings() { local id; for id in 100 101 102; do gone "$id" || echo "#   vm $id: $(standing "$id")"; done; }

round() {
    local n id
    for n in 1 2 3 4 5 6; do
        id=$((100 + RANDOM % 3))
        event "$id" > "$work/event" 2>&1
        rm -f $death
        grep '^not ok' "$work/event" || true
        wait_until 120 "round $1, event $n: every VM that runs has its CPUs" all_stand || { say_standings; said "$work/event"; }
    done
    for id in 100 101 102; do gone "$id" || qm stop "$id" > /dev/null 2>&1 || true; done
    capture_after_equal "round $1 of seed $seed: the host is as before" 120
}

deadly_snippet
hooked_vm 100 'cpus = "2-3"'
hooked_vm 101 'cpus = "4"'
hooked_vm 102 'cpus = "6-7"' '[isolate]' 'backend = "root"'
for id in 100:2 101:1 102:2; do vm_conf "${id%:*}" "cores: ${id#*:}" "$hooked"; done
capture_before
end=$((SECONDS + seconds)) rounds=0
while [ $SECONDS -lt $end ]; do
    rounds=$((rounds + 1))
    round $rounds
done
echo "#   seed $seed: $rounds rounds in $SECONDS s"
for what in "${!done[@]}"; do printf '#   %5d %s\n' "${done[$what]}" "$what"; done | sort -k2
