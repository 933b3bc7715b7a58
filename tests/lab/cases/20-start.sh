# After post-start the VMs own their CPUs: nobody else runs there, and all is given back.
. /usr/lib/lab/lib.sh

other=$cg/lxc/200

case_cleanup() { { kill "$sleeper" && wait "$sleeper"; rmdir $other $cg/lxc; } 2> /dev/null; }

# Interrupts that may still come to the CPUs 2-7 although they accept a mask (managed ones do not).
movable_interrupts() {
    local file mask
    for file in /proc/irq/*/smp_affinity_list; do
        mask=$(< "$file")
        if [[ $mask = *[2-7]* ]] && (echo "$mask" > "$file") 2> /dev/null; then echo "$file $mask"; fi
    done
}

masks_of_others() { local tid; for tid in $(other_tids "$1"); do allowed "$tid"; done | sort -u | paste -sd' '; }

hooked_vm 100 'cpus = "2-5"'
hooked_vm 101 'cpus = "6-7"'
vm_conf 101 "$hooked" 'cores: 2'
sed -i '/^cores: 4/d' "$(conf_path 101)"
mkdir -p $other
sleep 1000 &
sleeper=$!
echo $sleeper > $other/cgroup.procs
capture_before

qm start 100 > "$work/start"
comes_to 'each vCPU has its CPU, in an isolated partition' 'isolated 2-5: 2 3 4 5' 100
equal 'the root keeps the housekeeping CPUs' 0-1,6-7 "$(housekeeping)"
equal 'QEMU is in its scope' 0::/qemu.slice/100.scope "$(cat "/proc/$(qemu_pid 100)/cgroup")"
check 'PVE'\''s memory figure is there' test "$(scope 100 memory.current)" -gt 0
refuses 'a task outside does not get an isolated CPU' outsider_gets 3
check 'because of EINVAL' has "$work/taskset" 'Invalid argument'
equal 'emulator threads are off them' 0-1,6-7 "$(masks_of_others 100)"
other_tids 100 > "$work/others"
qmp 100 object-add '{"qom-type":"iothread","id":"late"}' > /dev/null
check 'a thread was created later' test "$(other_tids 100 | wc -l)" -gt "$(wc -l < "$work/others")"
equal 'a thread created later is off them' 0-1,6-7 "$(masks_of_others 100)"
equal 'a cgroup outside systemd is off them' 0-1,6-7 "$(allowed $sleeper)"
check 'the summary tells what was done' has "$work/start" 'vm 100: owns cpus 2-5, isolated'
pin-hook 100 post-start > "$work/again"
check 'post-start once more writes nothing' has "$work/again" ' 0 changes'
pin-hook 100 pre-start > "$work/again"
check 'a pre-start by hand finds that the VM runs' has "$work/again" 'vm 100: already running, its claim stays as it is'
equal 'and takes nothing from it' 'isolated 2-5: 2 3 4 5' "$(standing 100)"

qm start 101 > /dev/null
comes_to 'a second VM is isolated too' 'isolated 6-7: 6 7' 101
comes_to 'beside the first' 'isolated 2-5: 2 3 4 5' 100
equal 'the root keeps the rest' 0-1 "$(housekeeping)"
equal 'movable interrupts are off them' '' "$(movable_interrupts)"
equal 'interrupts to come are off them' 03 "$(cat /proc/irq/default_smp_affinity)"
qm stop 101 > /dev/null
comes_to 'the stop of the second leaves the first' 'isolated 2-5: 2 3 4 5' 100
equal 'and gives its CPUs back' 0-1,6-7 "$(housekeeping)"
qm start 101 > /dev/null
qm stop 100 > "$work/stop"
comes_to 'the stop of the first leaves the second' 'isolated 6-7: 6 7' 101
equal 'and gives its CPUs back' 0-5 "$(housekeeping)"
qm stop 101 > "$work/stop"
check 'the summary tells what was given back' has "$work/stop" 'vm 101: host restored'
pin-hook 101 post-stop > "$work/again"
check 'post-stop once more writes nothing' has "$work/again" ' 0 changes'
capture_after_equal 'the host is as before'

pin-hook 100 pre-start > /dev/null
snapshot "$work/once"
pin-hook 100 pre-start > /dev/null
snapshot "$work/twice"
check 'pre-start once more writes nothing' cmp "$work/once" "$work/twice"
