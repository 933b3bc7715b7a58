# kernels: bookworm
# Backend slices: no partition, everything else is kept off by its unit. Kernel 6.1 forgets every
# pin when a unit's cpus change, so they are made last, and again.
. /usr/lib/lab/lib.sh

lxc=$cg/lxc
admins=/etc/systemd/system/system.slice.d

case_cleanup() {
    { kill "$sleeper" "$session" && wait "$sleeper"; rmdir $lxc/200 $lxc; } 2> /dev/null || true
    rm -rf $admins
    systemctl revert user.slice 2> /dev/null
    systemctl daemon-reload
}

# The CPUs of a task of each kind outside of the VMs, and of a VM without a table.
masks_of_others() {
    local pid
    for pid in 1 "$(pgrep -o dbus-daemon)" "$session" "$sleeper" "$(qemu_pid "$1")"; do allowed "$pid"; done |
        sort -u | paste -sd' '
}
are_off() { [ "$(masks_of_others "$1")" = "$2" ]; }
emulator_masks() { local tid; for tid in $(other_tids "$1"); do allowed "$tid"; done | sort -u | paste -sd' '; }
own_list() { [ "$(cat $cg/system.slice/cpuset.cpus)" = 0-4,6-7 ]; }

# A reload alone does not reach a slice; a unit that starts in it does.
administrators_list() {
    mkdir -p $admins
    printf '[Slice]\nAllowedCPUs=%s\n' "$1" > $admins/10-admin.conf
    systemctl daemon-reload
    systemd-run --quiet --wait true
}

# eventually TEXT COMMAND...: within two periods of the timer.
eventually() {
    local text=$1
    shift
    if wait_until 60 "$text" "$@"; then ok "$text"; fi
}

hooked_vm 100 'cpus = "2-5"' '[isolate]' 'backend = "slices"'
hooked_vm 101 'cpus = "6-7"' '[isolate]' 'backend = "slices"'
vm_conf 101 "$hooked" 'cores: 2'
sed -i '/^cores: 4/d' "$(conf_path 101)"
vm_conf 102
vm_conf 103
mkdir -p $lxc/200
sleep 1000 &
sleeper=$!
echo $sleeper > $lxc/200/cgroup.procs
systemd-run --quiet --unit=lab-session --slice=user.slice sleep 1000
session=$(systemctl show -P MainPID lab-session)
qm start 102 > /dev/null

capture_before
qm start 100 > "$work/start"
comes_to 'each vCPU has its CPU' 'none: 2 3 4 5' 100
equal 'all others are off them' 0-1,6-7 "$(masks_of_others 102)"
equal 'emulator threads are off them' 0-1,6-7 "$(emulator_masks 100)"
equal 'interrupts to come are off them' c3 "$(cat /proc/irq/default_smp_affinity)"
check 'the summary tells what was done' has "$work/start" 'vm 100: owns cpus 2-5, slices'
check 'and the gap' has "$work/start" 'starts later may run on these cpus'
pin-hook 100 post-start > "$work/again"
check 'post-start once more writes nothing' has "$work/again" ' 0 changes'
qm start 103 > /dev/null
eventually 'a VM that starts later is kept off within a period' are_off 103 0-1,6-7
comes_to 'and the pins are as before' 'none: 2 3 4 5' 100
qm stop 103 > /dev/null
qm stop 100 > /dev/null
capture_after_equal 'after a stop the host is as before' 60

qm start 100 > /dev/null
qm kill9 100
capture_after_equal 'after a kill -9 the host is as before' 60

qm start 100 > /dev/null
released 100
comes_to 'released, the VM may run everywhere' 'none: 0-7 0-7 0-7 0-7' 100
equal 'and so may all others' 0-7 "$(masks_of_others 102)"
qm stop 100 > /dev/null
capture_after_equal 'after a release the host is as before' 60

# An administrator's list, and a container that keeps the controller on.
lists_may_stay
administrators_list '0-4 6-7'
echo +cpuset > $cg/cgroup.subtree_control
echo +cpuset > $lxc/cgroup.subtree_control
eventually 'an administrator'\''s list counts' own_list
capture_before
qm start 100 > /dev/null
comes_to 'beside it each vCPU has its CPU' 'none: 2 3 4 5' 100
equal 'all others are off them' 0-1,6-7 "$(masks_of_others 102)"
qm start 101 > /dev/null
comes_to 'a second VM has its CPUs' 'none: 6 7' 101
comes_to 'beside the first' 'none: 2 3 4 5' 100
equal 'others are off the CPUs of both' 0-1 "$(masks_of_others 102)"
equal 'the emulator threads of each too' '0-1 0-1' "$(emulator_masks 100) $(emulator_masks 101)"
qm stop 100 > /dev/null
comes_to 'the stop of the first leaves the second' 'none: 6 7' 101
equal 'and gives its CPUs back' '0-4 0-5' "$(allowed "$(pgrep -o dbus-daemon)") $(allowed "$session")"
qm stop 101 > /dev/null
capture_after_equal 'the administrator'\''s list is there as before' 60
# Up to 6.12 programs keep the CPUs of a list that goes together with the controller.
administrators_list 0-7
rm -r $admins
systemctl daemon-reload
systemd-run --quiet --wait true

capture_before
qm start 100 > /dev/null
systemctl set-property --runtime user.slice CPUWeight=90
systemctl daemon-reload
pin-hook reconcile > "$work/reconcile"
comes_to 'properties and a reload leave the pins' 'none: 2 3 4 5' 100
systemctl set-property --runtime user.slice AllowedCPUs=
eventually 'what somebody else allows is cut again' are_off 102 0-1,6-7
comes_to 'and the pins are there' 'none: 2 3 4 5' 100
qm stop 100 > /dev/null
systemctl set-property --runtime user.slice CPUWeight=100
systemctl revert user.slice
capture_after_equal 'with nothing of somebody else left the host is as before' 60
