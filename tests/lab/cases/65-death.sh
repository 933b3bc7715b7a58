# kernels: stable
# pin-hook is killed in the middle of post-start: the units finish what it began.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'

hooked_vm 100 'cpus = "2-5"'
vm_conf 100
prepared
qm start 100 > /dev/null
capture_before
for n in 2 9 16 40; do
    bash -c 'pin-hook 100 pre-start; true' > "$work/pre-start"
    status=0
    { strace -f -qq -o /dev/null -e trace=write,pwrite64 -e "inject=write,pwrite64:signal=KILL:when=$n" \
        pin-hook 100 post-start > "$work/killed" || status=$?; } 2> "$work/shell"
    equal "killed at write $n" 137 $status
    [ $status = 137 ] || said "$work/killed"
    check "killed at write $n: the units finish it" wait_until 60 'isolated' stands 100 "$isolated"
    check "killed at write $n: release" released 100
    comes_to "killed at write $n: and it can be let go" 'none: 0-7 0-7 0-7 0-7' 100
done
capture_after_equal 'the host is as before, with the VM running'
pin-hook post-start 100 > /dev/null
qm kill9 100
all_cpus() { [ "$(housekeeping)" = 0-7 ]; }
check 'the units see the end' wait_until 40 'all CPUs are back' all_cpus
refuses 'no partition is left' grep -q . $cg/cpuset.cpus.isolated
