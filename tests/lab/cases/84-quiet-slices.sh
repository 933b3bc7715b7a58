# kernels: bookworm only
# Who runs on the CPUs of a VM with slices where the kernel has no partitions, as 82-quiet tells for the others.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/quiet.sh

knobs_in_use 1

vm_conf 100 "$spin"
start
measure nothing
without=$userland
check 'without anything the load runs on the VM'\''s CPUs' test "$without" -gt 0
column slices slices 'none: 2 3 4 5'
check 'with slices next to none of it does' test "$userland" -le $((without / 100))
echo "#   interrupts that were still to move: $late"
# Unbound work stays everywhere before Linux 6.9: what it writes to a disk comes back to the queue of its CPU.
check 'and no interrupt of a device comes, but for the last time and to queues that nobody can move' test $((irqs - fixed)) -le "$late"
table_of_all
