# kernels: backports
# However a measurement ends, nothing is left of it: refused, interrupted, killed; with a guest of KVM, and with threads
# that never sleep.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/measuring.sh

spin='args: -bios /usr/share/lab/spin.bin'

hooked_vm 100 'cpus = "5"' 'profile = "low-latency"'
printf '%s\n' 'cores: 1' "$spin" >> "$(conf_path 100)"
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
