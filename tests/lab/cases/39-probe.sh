# Linux 7: an isolated partition that comes or goes waits for every probe of a PCI driver, and systemd with it (the
# case pci-probe-flush). No phase does, and what can be done that systemd does not either is done.
# kernels: none backports only
# boot: lab.slow-disk
. /usr/lib/lab/lib.sh

slow=0000:00:1c.0
device=/sys/bus/pci/devices/$slow
driver=/sys/bus/pci/drivers/virtio-pci
isolated='isolated 2-5: 2 3 4 5'
probe=
case_cleanup() { [ -z "$probe" ] || wait "$probe" || true; }

# How the kernel calls the worker that probes.
probing() { grep -qsx 'kworker/.*+sync_wq' /proc/[0-9]*/comm; }
begin_probe() {
    [ ! -e $device/driver ] || echo $slow > $driver/unbind
    echo $slow > $driver/bind &
    probe=$! probe_begin=$SECONDS
    wait_until 10 'a driver is probing' probing
}
end_probe() {
    check "$1: the driver is still probing" probing
    wait "$probe"
    probe=
}

kind() { cat "$(scope 100)/vcpu/cpuset.cpus.partition"; }

# The disk is slow from now on.
disk=$(basename $device/virtio*/block/*)
read_one() { dd if="/dev/$disk" of=/dev/null bs=4k count=1 skip="$((block % 2048))" iflag=direct 2> /dev/null; }
block=0 begin=$SECONDS
until [ $((SECONDS - begin)) -ge 3 ]; do begin=$SECONDS; read_one; block=$((block + 1)); done

# Only functions with a node are probed where partitions wait.
echo 0 > $device/numa_node
echo $slow > $driver/unbind
hooked_vm 100 'cpus = "2-5"'
capture_before

begin_probe
in_time 'a start while a driver is probing' 20 command qm start 100
check 'it says why the VM is not isolated yet' has "$work/in-time" 'a driver is probing a pci device'
in_time 'a unit with CPUs of its own meanwhile' 10 systemd-run --scope --quiet -p AllowedCPUs=0-1 true
end_probe 'the start'
comes_to 'the units isolate the VM after it' "$isolated" 100

begin_probe
in_time 'letting go while a driver is probing, which is not all of it' 10 bash -c 'pin-hook release 100; [ $? = 3 ]'
in_time 'a unit with CPUs of its own meanwhile' 10 systemd-run --scope --quiet -p AllowedCPUs=0-1 true
end_probe 'letting go'
comes_to 'the units let the VM go after it' 'none: 0-7 0-7 0-7 0-7' 100
units_rest
check 'applying its table again' pin-hook apply 100
comes_to 'it is isolated again' "$isolated" 100

pin-hook 100 pre-stop
equal 'before a stop its partition becomes one that waits for nothing' root "$(kind)"
begin_probe
kill -KILL "$(qemu_pid 100)"
wait_until 20 'systemd removes the scope' scopes_gone && ok 'systemd removes the scope'
in_time 'a new cgroup meanwhile' 5 mkdir $cg/probe-test
rmdir $cg/probe-test
in_time 'post-stop meanwhile' 10 pin-hook 100 post-stop
end_probe 'the stop that was announced'

qm start 100 > /dev/null
comes_to 'started again' "$isolated" 100
begin_probe
kill -KILL "$(qemu_pid 100)"
in_time 'post-stop when nobody could announce the end' 10 pin-hook 100 post-stop
begin=$SECONDS
mkdir $cg/probe-test
echo "#   systemd, and whoever makes a cgroup, was kept for $((SECONDS - begin)) s and the time before"
rmdir $cg/probe-test
[ -z "$probe" ] || wait "$probe"
echo "#   of a probe of $((SECONDS - probe_begin)) s"
probe=
[ ! -e $device/driver ] || echo $slow > $driver/unbind
capture_after_equal 'the host is as before' 60
