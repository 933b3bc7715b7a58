# kernels: backports
# Who runs on a VM's CPUs, with every knob on, under stress-ng on all CPUs and with a guest that spins: what has to be
# nothing. 82-quiet-others measures the other means.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/quiet.sh

knobs_in_use 1
measure_nothing
seconds=8
for scheduler in other fifo:1; do
    isolated $scheduler
    check "isolated, $scheduler: at most 4 switches to kernel threads, the measurement's own and $psi for psi_avgs_work apart" \
        test $((foreign - psi)) -le 4
done
table_of_all
