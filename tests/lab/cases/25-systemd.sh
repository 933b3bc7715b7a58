# kernels: stable
# What systemd and PVE do to the units of a running VM does not end its isolation.
. /usr/lib/lab/lib.sh

still() { equal "still isolated after $1" 'isolated 2-5: 2 3 4 5' "$(standing 100)"; }

hooked_vm 100 'cpus = "2-5"'
vm_conf 101
capture_before
qm start 100 > /dev/null
comes_to 'the VM is isolated' 'isolated 2-5: 2 3 4 5' 100
systemctl set-property --runtime 100.scope CPUWeight=50
still 'CPUWeight of the scope'
equal 'which took it' 50 "$(scope 100 cpu.weight)"
systemctl set-property --runtime qemu.slice CPUWeight=200
still 'CPUWeight of the slice'
systemctl daemon-reload
still 'a daemon-reload'
systemctl daemon-reexec
still 'a daemon-reexec'
qm start 101 > /dev/null
still 'the start of a VM without the hook'
equal 'which has none of the CPUs' 'none: 0-1,6-7 0-1,6-7 0-1,6-7 0-1,6-7' "$(standing 101)"
qm stop 101 > /dev/null
still 'its stop'
equal 'the root keeps the housekeeping CPUs' 0-1,6-7 "$(housekeeping)"
systemctl set-property --runtime qemu.slice CPUWeight=
rm -rf /run/systemd/system.control/qemu.slice.d
systemctl daemon-reload
qm stop 100 > /dev/null
capture_after_equal 'the host is as before'

# A run that fails is seen while the VM has its CPUs, and leaves no failed unit when all is given back.
qm start 100 > /dev/null
comes_to 'the VM is isolated once more' 'isolated 2-5: 2 3 4 5' 100
systemctl stop pin-hook-reconcile.path
mount --bind /bin/false /usr/sbin/pin-hook
refuses 'a run of the units fails' systemctl start pin-hook-reconcile.service
umount /usr/sbin/pin-hook
check 'which is seen' systemctl is-failed pin-hook-reconcile.service
released 100
qm stop 100 > /dev/null
capture_after_equal 'and the host is as before, without a failed unit'

# A run that takes a VM for alive which has just ended would pass the controller on again. Where that comes between
# systemd's write to the slice and the one to the root, systemd leaves it in both.
controllers() { cat $cg/cgroup.subtree_control $cg/qemu.slice/cgroup.subtree_control; }
case_cleanup() {
    [ ! -d $cg/lab/inner ] || rmdir $cg/lab/inner $cg/lab
    systemctl start qmeventd
}
qm start 100 > /dev/null
comes_to 'the VM is isolated again' 'isolated 2-5: 2 3 4 5' 100
systemctl stop qmeventd pin-hook-reconcile.timer pin-hook-reconcile.path pin-hook-reconcile.service
mkdir -p $cg/lab/inner
echo +cpuset > $cg/lab/cgroup.subtree_control
kill -KILL "$(qemu_pid 100)"
wait_until 20 'systemd takes the controller from the slice' lacks $cg/qemu.slice/cgroup.subtree_control cpuset
check 'and not from the root, of which another group has it' has $cg/cgroup.subtree_control cpuset
echo +cpuset > $cg/qemu.slice/cgroup.subtree_control
rmdir $cg/lab/inner $cg/lab
systemd-run --quiet --wait true
equal 'systemd does not see that the slice has it again' 2 "$(controllers | grep -c cpuset)"
pin-hook 100 post-stop > "$work/post-stop"
rm -f /run/qemu-server/100.*
systemctl start qmeventd
capture_after_equal 'post-stop takes it from the slice, and systemd from the root'
