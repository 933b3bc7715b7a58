# kernels: none
# VMs that come and go by the dozen do not wear out the units that watch.
#
# The 30 VMs are light: a process with QEMU's command line, a pidfile and a scope in qemu.slice, no
# hook. They are for the path unit, which fires at each of them; the VM that owns CPUs is a real one.
. /usr/lib/lab/lib.sh

case_cleanup() { pkill -KILL -f 'light-vm' || true; rm -f /run/qemu-server/3??.*; }

manager='org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager'

declare -A pids

# Its process is there before: starting programs is what takes long in an emulated machine.
prepare_light_vm() {
    (exec -a kvm perl -e 'sleep 1000' -- light-vm -pidfile "/var/run/qemu-server/$1.pid") &
    pids[$1]=$!
}

light_vm() {
    echo "${pids[$1]}" > "/run/qemu-server/$1.pid"
    # shellcheck disable=SC2086
    busctl --quiet call $manager StartTransientUnit 'ssa(sv)a(sa(sv))' "$1.scope" fail \
        3 PIDs au 1 "${pids[$1]}" Slice s qemu.slice CollectMode s inactive-or-failed 0 &
}

stop_light_vm() {
    kill "${pids[$1]}"
    rm "/run/qemu-server/$1.pid"
}

all_there() { local scopes=($cg/qemu.slice/3??.scope); [ ${#scopes[@]} -eq 30 ]; }

hooked_vm 100 'cpus = "2-5"'
capture_before
qm start 100 > /dev/null
for id in $(seq 301 330); do prepare_light_vm "$id"; done 2> "$work/light"
begin=$SECONDS
for id in $(seq 301 330); do light_vm "$id"; done 2>> "$work/light"
wait_until 120 'the scopes are there' all_there
for id in $(seq 301 330); do stop_light_vm "$id"; done 2>> "$work/light"
wait
echo "#   30 light VMs came and went in $((SECONDS - begin)) s"
for unit in pin-hook-reconcile.path pin-hook-reconcile.timer; do
    equal "$unit watches" active "$(systemctl is-active $unit)"
done
refuses 'reconcile did not fail' systemctl is-failed pin-hook-reconcile.service
equal 'the VM is still isolated' 'isolated 2-5: 2 3 4 5' "$(standing 100)"
vm_conf 100
qm kill9 100
capture_after_equal 'the units still give back, and the host is as before' 60
