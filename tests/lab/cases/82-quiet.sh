# kernels: backports
# Who runs on a VM's CPUs, with every knob on, under stress-ng on all CPUs and with a guest that spins: a
# table of the means of isolation, of none, and of what a shell can do.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/quiet.sh

knobs_in_use 1

seconds=2
vm_conf 100 "$spin"
start
# Who reads a disk on one of these CPUs has interrupts come to it.
while taskset -c 3 dd if=/dev/nvme0n1 of=/dev/null bs=4k iflag=direct; do :; done 2> "$work/dd" &
reader=$!
measure nothing
kill $reader
wait $reader || true
check 'without anything the load runs on the VM'\''s CPUs' test "$userland" -gt 0
check 'and interrupts of devices come to them' test "$irqs" -gt 0
vm_conf 100 "$spin" 'affinity: 2-5'
start
measure affinity
check 'with PVE'\''s affinity it does too' test "$userland" -gt 0

column slices slices 'none: 2 3 4 5'
seconds=8
column root root 'root 2-5: 2 3 4 5'
equal 'root: no program in 8 s' 0 "$userland"
for scheduler in other fifo:1; do
    isolated $scheduler
    check "isolated, $scheduler: at most 4 switches to kernel threads, the measurement's own and $psi for psi_avgs_work apart" \
        test $((foreign - psi)) -le 4
done

# Last, because it puts back what it thinks was there.
seconds=2
rm /etc/pin-hook/100.toml
vm_conf 100 "$spin"
start
"$lab/shell-hook" 100 post-start > "$work/shell" 2>&1 || said "$work/shell"
measure shell
"$lab/shell-hook" 100 post-stop > "$work/shell" 2>&1
shell_hook_gone
table_of_all
