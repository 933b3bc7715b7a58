# kernels: stable
# What measure says is what a trace of somebody else shows; who disturbs the VM is named, with what helps; nothing
# is left of it, however it ends.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/measuring.sh

trace=$tracing/instances/case
spin='args: -bios /usr/share/lab/spin.bin'

case_cleanup() {
    pkill -KILL '^stress-ng' || true
    [ ! -d $trace ] || { echo 0 > $trace/tracing_on; wait_until 20 'the trace ends' rmdir $trace; }
    rmmod msr 2> /dev/null || true
}

# --- It agrees with a trace of somebody else ---------------------------------------------------

# One vCPU that spins is what this costs: it takes half of the machine.
hooked_vm 100 'cpus = "5"' 'profile = "low-latency"'
printf '%s\n' 'cores: 1' "$spin" >> "$(conf_path 100)"
qm start 100 > /dev/null 2>&1
wait_until 60 'the VM has its CPUs' eval '[ "$(vcpu_masks 100)" = 5 ]'
level() { pin-hook status 100 --json | jq -r '.claims[0].level | "\(.number) \(.next)"'; }
equal 'without a measurement the level is 4' '4 pin-hook measure 100, for 10 s or longer' "$(level)"
stress-ng --cpu 1 --timer 1 --sock 1 --quiet > "$work/stress" 2>&1 &
disown
mkdir $trace
echo 8192 > $trace/buffer_size_kb
echo boot > $trace/trace_clock
echo 20 > $trace/tracing_cpumask
for event in timer/hrtimer_expire_entry csd/csd_function_entry workqueue/workqueue_execute_start; do
    echo 1 > $trace/events/$event/enable
done
measure --duration 10s
echo 0 > $trace/tracing_on
read -r began duration <<< "$(jq -r '"\(.began_ns) \(.duration_ns)"' "$work/json")"
# Seconds with six digits; those of the kernel are cut, not rounded.
awk -v from="$((began / 1000))" -v to="$(((began + duration) / 1000))" '
    match($0, / [0-9]+\.[0-9]+: /) {
        split(substr($0, RSTART + 1, RLENGTH - 3), t, "."); us = t[1] * 1000000 + t[2]
        if (us < from || us >= to) next
        if (/function=tick_(sched_timer|nohz_handler)/) n["tick"]++
        if (/csd_function_entry/) n["call"]++
        if (/workqueue_execute_start/) n["work"]++
    }
    END { print n["tick"] + 0, n["call"] + 0, n["work"] + 0 }' $trace/trace > "$work/counted"
read -r ticks calls works < "$work/counted"
all=$((ticks + calls + works))
ours=$(jq '[.culprits[] | select(.kind | IN("tick", "call", "work")) | .times] | add // 0' "$work/json")
echo "#   the trace has $ticks ticks, $calls calls, $works items of work; measure has $ours of them"
check 'there is something to count' test "$all" -gt 100
check 'its counts are those of the trace, within 1 %' \
    test $(((all - ours) * (all > ours ? 1 : -1) * 100)) -le "$all"
equal 'at least 99 % of the time have a name' true "$(jq '
    ([.culprits[].total_ns] | add) as $all |
    ([.culprits[] | select(.kind != "exit" and (.name | test("^0x|^thread ") | not)) | .total_ns] | add) >= 0.99 * $all' \
    "$work/json")"
equal 'and of the interruptions' true "$(jq '
    ([.culprits[].times] | add) as $all |
    ([.culprits[] | select(.kind != "exit" and (.name | test("^0x|^thread ") | not)) | .times] | add) >= 0.99 * $all' \
    "$work/json")"
equal 'and nothing but what is known to be unseen is missing' 2 "$(jq '.unseen | length' "$work/json")"
check 'the threads of the load are not among them' test "$(by program stress-ng)" -eq 0
rmdir $trace
pkill -KILL '^stress-ng'
check 'no trace is left' no_trace
equal 'and the highest level is earned' '5 null' "$(level)"
table 100 'cpus = "5"' 'profile = "low-latency"' '[power]' 'max-idle-latency = "5us"'
pin-hook apply 100 > /dev/null 2>&1
equal 'until the table changes' '4 pin-hook measure 100, for 10 s or longer' "$(level)"

# --- Who disturbs is named, with what helps ----------------------------------------------------

work_there() { echo 2000 > $tracing/instances/other/per_cpu/cpu5/buffer_size_kb; echo 1400 > $tracing/instances/other/per_cpu/cpu5/buffer_size_kb; }

mkdir $tracing/instances/other
during work_there
rmdir $tracing/instances/other
check 'work of the kernel on a CPU is named by its function' test "$(by work update_pages_handler)" -gt 0
equal 'and by what ends it' 'another tracer runs on these cpus: stop it' "$(help work update_pages_handler)"

modprobe msr
during bash -c 'for n in 1 2 3 4 5 6 7 8; do dd if=/dev/cpu/5/msr of=/dev/null bs=8 count=1 skip=2 iflag=skip_bytes; done'
check 'a call from another CPU is named by its function' test "$(by call __rdmsr_safe_on_cpu)" -gt 0
check 'with the program that asked for it' eval 'jq -e ".culprits[] | select(.kind == \"call\") | .asked_by[] | select(.[0] | startswith(\"dd\") or startswith(\"thread\"))" "$work/json"'

serial=$(awk -F: '/ttyS0/ { print $1 + 0; exit }' /proc/interrupts)
before=$(cat "/proc/irq/$serial/smp_affinity_list")
storm() { echo 5 > "/proc/irq/$serial/smp_affinity_list"; head -c 3000 /dev/zero | tr '\0' '\n' > /dev/ttyS0; }
during storm
check 'an interrupt that was steered there is named by its device' test "$(by interrupt "irq $serial (ttyS0)")" -gt 0
check 'with the key that keeps it off' eval '[[ $(help interrupt irq) = *"irqs = true"* ]]'
pin-hook apply 100 > /dev/null 2>&1
equal 'which it does' "$before" "$(cat "/proc/irq/$serial/smp_affinity_list")"
during eval 'head -c 3000 /dev/zero | tr "\0" "\n" > /dev/ttyS0'
equal 'and it comes no more' 0 "$(by interrupt "irq $serial (ttyS0)")"

# --- However it ends, nothing is left ----------------------------------------------------------

qm stop 100 > /dev/null 2>&1
# One that pin-hook does not know, with KVM.
modprobe kvm_amd
vm_conf 101 'cores: 1' 'kvm: 1' 'affinity: 6' "$spin"
qm start 101 > /dev/null 2>&1
pin-hook measure 101 --json --duration 2s > "$work/json"
equal 'of a VM with KVM it sees the guest leave and enter' true \
    "$(jq '.sees_guest and .own.times > 0 and (.unseen | length) == 1 and .cpus == "6"' "$work/json")"
qm stop 101 > /dev/null 2>&1
refuses 'a VM that does not run is refused' pin-hook measure 100
check 'and what starts it is named' has "$work/refused" 'qm start 100'
refuses 'one that does not exist is refused' pin-hook measure 999
check 'as that' has "$work/refused" 'there is no vm 999'
refuses 'CPUs that are not there are refused' pin-hook measure --cpus 6-9
check 'by what is wrong' has "$work/refused" 'cpus 8-9 are not online'
check 'no trace is left of what was refused' no_trace
# What the tracer is set to for others, in its top level.
settings() { grep -s . $tracing/{tracing_on,trace_clock,tracing_cpumask,current_tracer,buffer_size_kb,set_event,events/enable} $tracing/options/*; }
settings > "$work/settings"
# All that a measurement writes it writes in its first second, and at its end (tests/lifecycle/measured.rs dies at
# each of these writes).
moments=$(seq 0.02 0.02 0.88; seq 1.0 0.2 2.0)
for after in $moments; do
    timeout --foreground -s KILL "$after" pin-hook measure --cpus 6 --duration 1s > /dev/null 2>&1 || true
    no_trace || { began=$after; pin-hook reconcile > /dev/null 2>&1; }
    no_trace || echo "$after" >> "$work/left-behind"
done
equal 'killed at 50 moments' 50 "$(wc -w <<< "$moments")"
check 'with something to remove' test -n "${began:-}"
equal 'nothing is left after reconcile' '' "$(cat "$work/left-behind" 2> /dev/null)"
settings > "$work/settings-now"
check 'and the tracer of others is set as before' diff "$work/settings" "$work/settings-now"
pin-hook measure --cpus 6 --duration 20s --save cut > "$work/two" 2>&1 &
first=$!
wait_until 20 'it is measuring' measuring
refuses 'a second one at once is refused' pin-hook measure --cpus 7 --duration 1s
pin-hook reconcile
check 'and reconcile leaves the first alone' test -d $tracing/instances/pin-hook
kill -INT $first
check 'who interrupts it gets what was measured so far' wait $first
has "$work/two" 'cpu 6: ' && ok 'for as long as that was'
check 'and is told that it is not kept' has "$work/two" 'not kept as cut'
refuses 'nor is it' pin-hook measure --show cut
check 'and nothing is left' no_trace

# --- A thread that never sleeps ----------------------------------------------------------------

pin-hook measure --cpus 6 --spin --duration 2s --json > "$work/json"
check 'a spinning thread sees the tick by its name' test "$(by tick '')" -gt 0
check 'and has seen its gaps itself' jq -e '.spin.times > 0 and .seats[0].thread > 0' "$work/json"
qm start 100 > /dev/null 2>&1
wait_until 60 'the VM has its CPUs' eval '[ "$(vcpu_masks 100)" = 5 ]'
refuses 'CPUs of a VM are refused' pin-hook measure --cpus 5-6 --spin
check 'with its id' has "$work/refused" 'cpu 5 belongs to vm 100'
qm stop 100 > /dev/null 2>&1
refuses 'all CPUs are refused' pin-hook measure --cpus 0-7 --spin
check 'as that' has "$work/refused" 'leave at least one cpu to the host'
refuses 'real-time threads for too long are refused' pin-hook measure --cpus 6 --spin --realtime --duration 61s
pin-hook measure --cpus 6 --spin --realtime --duration 20s > /dev/null 2>&1 &
killed=$!
wait_until 20 'it is measuring' eval '[ "$(cat $tracing/instances/pin-hook/tracing_on)" = 1 ]'
equal 'a real-time thread spins' 1 "$(grep -l '^pin-hook-spin' /proc/$killed/task/*/comm | wc -l)"
kill -KILL $killed
wait $killed || true
pin-hook reconcile
check 'killed, it ends with all of its threads, and nothing is left after reconcile' no_trace
