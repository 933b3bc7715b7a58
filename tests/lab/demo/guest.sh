# In the lab's machine: what pin-hook does for one VM, told for somebody who looks for the first
# time. "make demo" runs it.
. /usr/lib/lab/lib.sh

cpus=4-7
seconds=5
tracing=/sys/kernel/tracing/instances/demo
spin='args: -bios /usr/share/lab/spin.bin'

title() { printf '\n%s. %s\n\n' "$1" "$2"; }
text() { printf '%s\n' "$@"; }
shown() { printf '  $ %s\n' "$*"; }

# What a command prints, indented; true only when the command was.
run() {
    local status=0
    shown "$*"
    "$@" > "$work/out" 2>&1 || status=$?
    fold -s -w 74 "$work/out" | sed 's/ *$//; s/^/    /'
    return $status
}

# Time that the vCPUs of VM 100 have waited for a CPU, in nanoseconds.
waited() {
    local tid
    for tid in $(vcpu_tids 100); do cat "/proc/$(qemu_pid 100)/task/$tid/schedstat"; done |
        awk '{ sum += $2 } END { printf "%d\n", sum }'
}

# Task switches on the VM's CPUs in file $1 to programs that are not its vCPUs.
foreign() {
    local kernel
    kernel=$(ps --ppid 2 -o pid= | xargs)
    awk -v own="$(vcpu_tids 100 | xargs) 0 2 $kernel" '
        BEGIN { split(own, n, " "); for (i in n) mine[n[i]] = 1 }
        match($0, /next_pid=[0-9]+/) && !(substr($0, RSTART + 9, RLENGTH - 9) in mine) { count++ }
        END { print count + 0 }' "$1"
}

pinned() { [ "$(vcpu_masks 100)" = '4 5 6 7' ]; }

# Runs stress-ng on all CPUs and counts; sets switches and delay (percent of the vCPUs' time).
disturb() {
    local before
    mkdir -p $tracing
    echo f0 > $tracing/tracing_cpumask
    echo 16384 > $tracing/buffer_size_kb
    before=$(waited)
    echo 1 > $tracing/events/sched/sched_switch/enable
    stress-ng --quiet --cpu 8 --timer 1 --switch 1 --timeout ${seconds}s > /dev/null 2>&1
    echo 0 > $tracing/events/sched/sched_switch/enable
    delay=$((($(waited) - before) / (4 * seconds * 10000000)))
    switches=$(foreign $tracing/trace)
    rmdir $tracing
}

text '' "This host: $(nproc) CPUs, Linux $(uname -r), $(systemctl --version | head -n 1 | cut -d' ' -f1,2)." \
    'VM 100 has 4 vCPUs; its guest keeps all of them busy.'
systemctl start pin-hook-boot.service

title 1 'The VM without pin-hook'
vm_conf 100 "$spin"
run qm start 100
text ''
"$lab/who-may" $cpus 100
text '' "stress-ng now keeps all CPUs busy for $seconds s ..."
disturb
without=$switches without_delay=$delay
run qm stop 100
text '' 'All that can be read of this host is recorded, for a comparison at the end.'
capture_before

title 2 'The same VM with pin-hook'
hooked_vm 100 "cpus = \"$cpus\""
echo "$spin" >> "$(conf_path 100)"
run cat /etc/pin-hook/100.toml
run cat "$(conf_path 100)"
run qm start 100
text ''
# An emulated host can be too slow for the 9 s that a phase may take; reconcile does the rest then.
wait_until 60 'the vCPUs have their CPUs' pinned
"$lab/who-may" $cpus 100
text '' "stress-ng again, $seconds s ..."
disturb

title 3 "What stress-ng did to the VM, on CPUs $cpus in $seconds s"
printf '  %-44s %10s %10s\n' '' without with \
    '' pin-hook pin-hook \
    "switches to other programs" "$without" "$switches" \
    "vCPUs waiting for a CPU, of their time" "$without_delay %" "$delay %"

title 4 'A second VM wants some of the same CPUs'
hooked_vm 101 'cpus = "2-5"'
run cat /etc/pin-hook/101.toml
if run qm start 101; then text '  VM 101 should not have started.'; exit 1; fi

title 5 'The VM stops'
run qm stop 100
rm -f /etc/pin-hook/*.toml "$(conf_path 100)" "$(conf_path 101)"
text '' 'The host is compared with the record from before step 2: kernel settings, masks' \
    'of all tasks and interrupts, cgroups, CPUs, units, files of systemd.'
if ! wait_until 30 'the host is as before' eval '! capture_differs'; then
    fold -w 78 "$work/differences"
    exit 1
fi
text '' "  $(wc -l < "$work/after") values compared, 0 differ."
