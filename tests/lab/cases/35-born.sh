# kernels: stable
# What is born while a VM owns CPUs has afterwards what it would have had without it.
. /usr/lib/lab/lib.sh

nvme=$(basename "$(readlink -f /sys/class/nvme/nvme0/device)")
driver=/sys/bus/pci/drivers/nvme

case_cleanup() { modprobe -r jfs 2> /dev/null; [ -e $driver/"$nvme" ] || echo "$nvme" > $driver/bind; }

rebind() {
    echo "$nvme" > $driver/unbind
    echo "$nvme" > $driver/bind
    wait_until 20 'the disk is back' test -b /dev/nvme0n1
    udevadm settle
}

# The interrupt of the disk's admin queue; those of the others are managed by the kernel.
admin_irq() {
    local dir
    for dir in /proc/irq/*/nvme0q0; do basename "$(dirname "$dir")"; done
}

# A file system whose module starts kernel threads, and ends them.
born_thread() { pgrep '^jfsCommit' | head -n 1; }

# Once before, so that interrupt numbers are the same later.
rebind
hooked_vm 100 'cpus = "2-5"'
vm_conf 101
capture_before
default=$(cat "/proc/irq/$(admin_irq)/smp_affinity_list")
qm start 100 > /dev/null
rebind
modprobe jfs
thread=$(born_thread)
qm start 101 > /dev/null
# Born with the default mask, as far as that is in the node of the device.
equal 'an interrupt is born off the VM'\''s CPUs' 0-1 "$(cat "/proc/irq/$(admin_irq)/smp_affinity_list")"
equal 'a VM without the hook is born off them' 'none: 0-1,6-7 0-1,6-7 0-1,6-7 0-1,6-7' "$(standing 101)"
qm stop 100 > /dev/null
equal 'the interrupt has the mask of one born without the VM' "$default" "$(cat "/proc/irq/$(admin_irq)/smp_affinity_list")"
equal 'the kernel thread has kthreadd'\''s mask' "$(allowed 2)" "$(allowed "$thread")"
equal 'which is all CPUs' 0-7 "$(allowed 2)"
equal 'the other VM has all CPUs' 'none: 0-7 0-7 0-7 0-7' "$(standing 101)"
qm stop 101 > /dev/null
modprobe -r jfs
capture_after_equal 'the host is as before'
