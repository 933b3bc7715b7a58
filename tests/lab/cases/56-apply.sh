# kernels: backports
# A table that is edited while its VM runs: said until it is in force, and in force when apply ends.
. /usr/lib/lab/lib.sh

hooked_vm 100 'cpus = "2-5"'
qm start 100 > "$work/start" 2>&1
comes_to 'each vCPU has its CPU' 'isolated 2-5: 2 3 4 5' 100

for cpus in 4-7 3-6 2-5; do
    table 100 "cpus = \"$cpus\""
    pin-hook list > "$work/list"
    check "$cpus: list says that the table is not in force" has "$work/list" 'takes effect with pin-hook apply 100'
    pin-hook status 100 > "$work/status" || true
    check "$cpus: so does status" has "$work/status" 'takes effect with pin-hook apply 100'
    # Nobody else may finish what apply has begun.
    systemctl stop pin-hook-reconcile.{timer,path,service}
    check "$cpus: apply is done" pin-hook apply 100
    pin-hook status 100 > "$work/status" && status=0 || status=$?
    check "$cpus: no thread is elsewhere" lacks "$work/status" differs
    equal "$cpus: status is content" 0 "$status"
    equal "$cpus: each vCPU has its CPU" "$(seq -s ' ' "${cpus%-*}" "${cpus#*-}")" "$(vcpu_masks 100)"
    equal "$cpus: the partition is valid" isolated "$(cat $cg/qemu.slice/100.scope/vcpu/cpuset.cpus.partition)"
    pin-hook list > "$work/list"
    check "$cpus: list has nothing more to say" lacks "$work/list" 'apply'
done

qm stop 100 > "$work/stop" 2>&1
