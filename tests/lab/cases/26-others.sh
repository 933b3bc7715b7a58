# kernels: stable
# What others have of the CPUs is known before anything is promised: cases allowedcpus-of-a-sibling,
# allowedcpus-above and status-offline-exit-0.
. /usr/lib/lab/lib.sh

case_cleanup() {
    echo 1 > /sys/devices/system/cpu/cpu4/online
    systemctl stop rtapp.service 2> /dev/null || true
    rm -rf /run/systemd/system.control/rt.slice.d /run/systemd/system.control/qemu.slice.d
    systemctl daemon-reload
    systemctl stop rt.slice
}

hooked_vm 100 'cpus = "2-5"'
prepared
systemctl set-property --runtime rt.slice AllowedCPUs=3-4
systemd-run --quiet --slice=rt.slice --unit=rtapp sleep infinity
rtapp=$(systemctl show -P MainPID rtapp)
snapshot "$work/snapshot"
starved='unit rt.slice is limited to cpus 3-4, and would have no cpu left'
refuses 'plan refuses CPUs that are all a slice has' pin-hook plan 100
check 'by its name' has "$work/refused" "$starved"
check 'with the command that mends it' has "$work/refused" 'systemctl set-property rt.slice AllowedCPUs=0-1,6-7'
refuses 'so does a check of the table' pin-hook check --table /etc/pin-hook/100.toml
check 'in the same words' has "$work/refused" "$starved"
pin-hook list > "$work/list" 2>&1 || true
check 'and list' has "$work/list" "$starved"
refuses 'and the start' qm start 100
check 'in the same words too' has "$work/refused" "$starved"
snapshot "$work/snapshot-after"
check 'nothing was changed' cmp "$work/snapshot" "$work/snapshot-after"
equal 'the slice has its CPUs' 3-4 "$(allowed "$rtapp")"
systemctl set-property --runtime rt.slice AllowedCPUs=0-1,6-7
check 'the command that was advised mends it' pin-hook plan 100
case_cleanup

# What is above a VM cuts its threads: that is told before, and is no difference afterwards.
systemctl set-property --runtime qemu.slice AllowedCPUs=0-5
capture_before
hooked_vm 100 'cpus = "2-5"' '[pin]' 'emulator = "0-1,6-7"'
pin-hook plan 100 > "$work/plan" 2>&1 || true
check 'plan says what the slice leaves of a pin' has "$work/plan" 'of which unit qemu.slice leaves it cpus 0-1'
qm start 100 > /dev/null
comes_to 'the VM is isolated' 'isolated 2-5: 2 3 4 5' 100
equal 'the emulator has what the slice leaves' 0-1 "$(allowed "$(qemu_pid 100)")"
strayed=$(other_tids 100 | tail -n 1)
echo "$strayed" > "$(scope 100)/vcpu/cgroup.threads"
check 'reconcile sends a thread back that was born among the vCPUs' pin-hook reconcile
equal 'to what the slice leaves' 0-1 "$(allowed "$strayed")"
check 'and has nothing left to do' pin-hook reconcile

# An owned CPU goes offline while the VM runs.
since=$(date +%s)
in_journal() { journalctl -t pin-hook --since "@$since" -o cat | grep -cF 'vm 100: cpu 4 is offline'; }
echo 0 > /sys/devices/system/cpu/cpu4/online
refuses 'status fails while an owned CPU is offline' pin-hook status 100
check 'and names it' has "$work/refused" 'vm 100: cpu 4 is offline'
equal 'in JSON too' 'false 4' "$(pin-hook status 100 --json | jq -r '"\(.ok) \(.claims[0].offline)"')"
wait_until 60 'the journal says so' in_journal
systemctl start pin-hook-reconcile.service
equal 'once' 1 "$(in_journal)"
echo 1 > /sys/devices/system/cpu/cpu4/online
comes_to 'all is well when it is back' 'isolated 2-5: 2 3 4 5' 100
wait_until 60 'the units rest' at_rest
check 'and status says so' pin-hook status 100
check 'everything can be given back' released 100
qm stop 100 > /dev/null
capture_after_equal 'and is'
