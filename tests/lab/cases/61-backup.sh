# kernels: none
# A backup of a stopped VM (backup-of-stopped-vm): QEMU runs, the guest does not, and nobody loses a CPU.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'
# as UNIT COMMAND...: from the service that does it on a PVE node.
as() { wait_until 60 'PVE has cleaned up' cleaned_up; systemd-run --quiet --wait --pipe --collect --unit="$1" "${@:2}"; }

hooked_vm 100 'cpus = "2-5"'
hooked_vm 102 'cpus = "2-5"' 'start.on-refusal = "abort"'
prepared
capture_before

qm start 100 > /dev/null 2>&1
comes_to 'vm 100 has its CPUs' "$isolated" 100
for how in 'as pvescheduler.service' 'as pvedaemon.service' 'as by-hand.service'; do
    $how qm backup-start 102 > "$work/start" 2>&1 || not_ok "backup by '$how'"
    check "by '$how': no CPUs needed" has "$work/start" 'vm 102: started for a backup, no cpus reserved'
    check 'vm 100 keeps its CPUs' stands 100 "$isolated"
    $how qm backup-end 102 > /dev/null 2>&1
    check 'the backup ends' gone 102
done
qm stop 100 > /dev/null 2>&1
capture_after_equal 'the host is as before'

as pvescheduler.service qm backup-start 102 > "$work/start" 2>&1
check 'a backup without anybody else' has "$work/start" 'it gets its cpus when its guest runs, if they are free then'
pin-hook status > "$work/status"
check 'status: exit status 0, and it stands by' has "$work/status" 'vm 102: standby, started for a backup, would have cpus 2-5'
qm start 100 > "$work/start" 2>&1 || { not_ok 'vm 100 starts'; said "$work/start"; }
comes_to 'vm 100 has the CPUs nevertheless' "$isolated" 100

command qm start 102 > /dev/null
blocked() { ! pin-hook status 102 > "$work/status" 2>&1; }
check 'somebody starts vm 102 during its backup: status says that something is wrong' wait_until 60 'status' blocked
check 'and what' has "$work/status" 'vm 102: cpus 2-5 are claimed by vm 100'
equal 'the journal has it once' 1 "$(journalctl -u pin-hook-reconcile.service -o cat | grep -c 'vm 102: cpus 2-5 are claimed by vm 100; it runs')"
qm backup-end 102 > /dev/null 2>&1
qm stop 100 > /dev/null 2>&1
check 'vm 102 has them once vm 100 has ended' wait_until 90 'isolated' stands 102 "$isolated"
check 'and status is content' wait_until 30 'status' pin-hook status 102
qm stop 102 > /dev/null 2>&1
capture_after_equal 'the host is as before'
