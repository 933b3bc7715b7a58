# kernels: none
# Kernel threads of a NUMA node (`kswapd-two-vms`): two VMs own all CPUs of node 1, one of them without moving kernel
# threads; CPUs go offline and come back while a VM owns others.
. /usr/lib/lab/lib.sh

threads=$(pgrep -x 'kswapd1|kcompactd1')
cpus=/sys/devices/system/cpu
node_threads() { for t in $threads; do allowed "$t"; done | paste -sd' '; }
reset_threads() { for t in $threads; do taskset -pc 4-7 "$t" > /dev/null; done; }
online() { for n in 4 5 6 7; do echo 1 > $cpus/cpu$n/online; done; }
case_cleanup() { online; reset_threads; } 2> /dev/null
own() { # VMID CORES TABLE...
    local id=$1 n=$2
    shift 2
    hooked_vm "$id" "$@"
    vm_conf "$id" "cores: $n" "$hooked"
    sed -i '0,/^cores: 4/{/^cores: 4/d}' "$(conf_path "$id")"
}
reset_threads

own 100 1 'cpus = "4"'
own 105 3 'cpus = "5-7"' '[isolate]' 'kthreads = false'
capture_before
for order in 'start 100:start 105:stop 100:stop 105' 'start 105:start 100:stop 100:stop 105' \
    'start 100:start 105:stop 105:stop 100' 'start 105:start 100:stop 105:stop 100'; do
    IFS=: read -ra steps <<< "$order"
    for step in "${steps[@]}"; do qm $step > "$work/out" 2>&1 || said "$work/out"; done
    equal "$order: the threads of the node are as before" '4-7 4-7' "$(node_threads)"
done
capture_after_equal 'two VMs on a node: the host is as before'

# A VM owns 4-5, and the others go and come back: with the VM there, and with it gone before they are back.
own 100 2 'cpus = "4-5"'
capture_before
for order in 'start 100:offline:online:stop 100' 'start 100:offline:stop 100:online' 'offline:start 100:online:stop 100'; do
    IFS=: read -ra steps <<< "$order"
    for step in "${steps[@]}"; do
        case $step in
            offline) for n in 6 7; do echo 0 > $cpus/cpu$n/online; done ;;
            online) online ;;
            *) qm $step > "$work/out" 2>&1 || said "$work/out" ;;
        esac
        pin-hook reconcile > /dev/null || true
    done
    pin-hook reconcile > /dev/null || true
    equal "$order: the threads of the node are as before" '4-7 4-7' "$(node_threads)"
done
capture_after_equal 'CPUs that went and came back: the host is as before'

# Somebody ends the partition again and again; a person who asks has the last word.
partition=$cg/qemu.slice/100.scope/vcpu/cpuset.cpus.partition
qm start 100 > /dev/null
for _ in 1 2 3 4; do
    echo member > $partition
    pin-hook reconcile > "$work/out" 2>&1 || true
done
equal 'it is left to somebody else' member "$(< $partition)"
refuses 'status fails then' pin-hook status
check 'and says why' has "$work/refused" 'set again three times, now left alone'
check 'apply is done' pin-hook apply 100
equal 'apply sets it again' isolated "$(< $partition)"

# PVE takes a VM without its pid file for stopped, but its QEMU runs.
before=$(standing 100)
hide() { mv /run/qemu-server/100.pid "$work/pid"; }
unhide() { mv "$work/pid" /run/qemu-server/100.pid; }
hide
pin-hook 100 pre-start > "$work/out" 2>&1 || true
check 'without its pid file the VM runs for pre-start' has "$work/out" 'already running'
pin-hook reconcile > /dev/null || true
unhide
equal 'and keeps its CPUs' "$before" "$(standing 100)"
hide
check 'apply finds it' pin-hook apply 100
unhide
qm stop 100 > /dev/null
capture_after_equal 'the host is as before'
