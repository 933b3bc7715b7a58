# kernels: stable
# Phases and reconcile that come at the wrong time do no harm, and one of two rivals wins.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'
gate=/run/phases/gate

case_cleanup() { ln -sfn qemu-system-x86_64 /usr/bin/kvm; rm -rf /run/phases; }

# QEMU's start waits until somebody opens the gate.
hold_qemu() {
    mkdir -p /run/phases
    mkfifo $gate
    rm /usr/bin/kvm
    printf '#!/bin/bash\nread -r _ < %s\nexec -a /usr/bin/kvm qemu-system-x86_64 "$@"\n' $gate > /usr/bin/kvm
    chmod +x /usr/bin/kvm
}

let_qemu_go() { echo > $gate; ln -sfn qemu-system-x86_64 /usr/bin/kvm; }
scope_exists() { [ -d "$(scope "$1")" ]; }

hooked_vm 100 'cpus = "2-5"'
hooked_vm 101 'cpus = "4-7"'
capture_before
qm start 100 > /dev/null
snapshot "$work/before-stale"
pin-hook 100 post-stop > "$work/stale"
snapshot "$work/after-stale"
check 'a late post-stop says that the VM runs' has "$work/stale" 'vm 100: nothing restored: it is running'
check 'and changes nothing' cmp "$work/before-stale" "$work/after-stale"
equal 'the VM is still isolated' "$isolated" "$(standing 100)"
qm stop 100 > /dev/null

wait_until 60 'PVE has cleaned up' cleaned_up
hold_qemu
task qm start 100
wait_until 30 'QEMU is about to start' scope_exists 100
kept=0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    pin-hook reconcile > "$work/reconcile" 2>&1
    ! grep -q . "$work/reconcile" || cat "$work/reconcile"
    if [ -s /run/pin-hook/journal ]; then kept=$((kept + 1)); fi
done
equal 'reconciles during a slow start keep the reservation' 10 $kept
pin-hook 100 post-stop > "$work/stale"
check 'a late post-stop during it too' has "$work/stale" 'nothing restored'
refuses 'a rival is refused meanwhile' pin-hook 101 pre-start
check 'because of the reservation' has "$work/refused" 'cpus 4-5 are reserved for a start of vm 100'
let_qemu_go
check 'the slow start succeeds' wait "$task_pid"
units_rest
equal 'and the VM is isolated' "$isolated" "$(standing 100)"
qm stop 100 > /dev/null

qm start 100 > "$work/out-100" 2>&1 &
first=$!
qm start 101 > "$work/out-101" 2>&1 &
second=$!
started=0
if wait $first; then started=$((started + 1)) winner=100; fi
if wait $second; then started=$((started + 1)) winner=101; fi
equal 'of two overlapping VMs started at once one starts' 1 $started
loser=$((201 - winner))
check 'the other is told why' grep -qE "cpus 4-5 are (claimed by|reserved for a start of) vm $winner" "$work/out-$loser"
check 'the winner is isolated' has <(standing $winner) isolated
qm stop $winner > /dev/null
capture_after_equal 'the host is as before'
