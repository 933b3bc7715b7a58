# kernels: none
# Devices that are bound to vfio-pci before PVE does it, and go back to the driver that they had.
. /usr/lib/lab/lib.sh

pf=0000:01:00.0
devices=/sys/bus/pci/devices
nvme=$(readlink -f /sys/class/nvme/nvme0 | grep -o '[0-9a-f]*:[0-9a-f]*:[0-9a-f]*\.[0-9a-f]' | tail -n 1)
root=$(readlink -f /sys/class/block/vda | grep -o '[0-9a-f]*:[0-9a-f]*:[0-9a-f]*\.[0-9a-f]' | tail -n 1)
driver_of() { basename "$(readlink "$devices/$1/driver" || echo none)"; }
hostpci() {
    hooked_vm 100 'cpus = "2-5"' '[pci]' "bind = { $2 }"
    echo "hostpci0: $1" >> "$(conf_path 100)"
}
nothing_left() { [ ! -s /run/pin-hook/journal ]; }
is_at() { [ "$(driver_of "$1")" = "$2" ]; }
nothing_left_soon() {
    pin-hook reconcile >> "$work/reconcile" 2>&1 || true
    nothing_left
}
# goes_back TEXT [HOW]: the network card is the host's again, and nothing is remembered: by the units, or without
# waiting for their period.
goes_back() {
    wait_until 90 "$1" "${2:-nothing_left}" || true
    check "$1" is_at $pf igb
    udevadm settle
}
start() {
    qm start 100 > "$work/start" 2>&1 || true
    said "$work/start"
}
without_vm() { rm -f "$(conf_path 100)" /etc/pin-hook/100.toml; }
case_cleanup() {
    echo 0 > $devices/$pf/sriov_numvfs || true
    is_at $pf igb || { echo $pf > $devices/$pf/driver/unbind || true; echo $pf > /sys/bus/pci/drivers/igb/bind; }
}

echo 0 > $devices/$pf/sriov_numvfs
# A lock of the program stays until the next boot.
mkdir -p /run/pin-hook
touch /run/pin-hook/pci.lock
# The number of an interrupt line stays for ever once somebody has asked for it, as QEMU does.
vm_conf 100 "hostpci0: $pf"
qm start 100
qm stop 100
wait_until 60 'the VM is gone' gone 100
hostpci $pf 'hostpci0 = "return"'
pin-hook plan 100 > "$work/plan" 2>&1 || true
check 'a device that PVE has left with vfio-pci has no driver to go back to' \
    has "$work/plan" "hostpci0 ($pf) stays with vfio-pci after the stop, because it is bound to that already"
echo $pf > $devices/$pf/driver/unbind
echo $pf > /sys/bus/pci/drivers/igb/bind
udevadm settle
hooked_vm 100 'cpus = "2-5"'
capture_before

hostpci "$root" 'hostpci0 = "stay"'
refuses 'the controller of the root disk is refused' qm start 100
check 'because of the disk' has "$work/refused" 'is the controller of disk vda (vda is mounted at /)'
hostpci "$nvme" 'hostpci0 = "return"'
refuses 'a controller of disks does not go back' qm start 100
said "$work/refused"
check 'with the reason' has "$work/refused" "cannot bind hostpci0 ($nvme) to vfio-pci: it is a disk controller"
check 'and the remedy' has "$work/refused" 'write hostpci0 = "stay" in pci.bind'
hostpci $pf '"hostpci7" = "stay"'
refuses 'a device that the VM does not have is refused' qm start 100
check 'by its key' has "$work/refused" 'cannot bind hostpci7 to vfio-pci: the vm has no such device'

hostpci $pf 'hostpci0 = "return"'
pin-hook plan 100 > "$work/plan" 2>&1 || true
check 'plan tells what is going to happen' \
    has "$work/plan" "hostpci0 ($pf) is bound to vfio-pci before the start, taken from igb, and back to igb after the stop"
start
check 'a network card is taken from its driver' has "$work/start" "hostpci0 ($pf) bound to vfio-pci, taken from igb, and back to igb after the stop"
comes_to 'the VM has its CPUs' 'isolated 2-5: 2 3 4 5' 100
equal 'and the card' vfio-pci "$(driver_of $pf)"
equal 'which nothing keeps from others any more' '(null)' "$(cat $devices/$pf/driver_override)"
check 'QEMU was given it' grep -qa "host=$pf" "/proc/$(qemu_pid 100)/cmdline"
qemu=$(qemu_pid 100)
dmesg > "$work/dmesg"
qm reboot 100 > "$work/reboot" 2>&1 || true
is_another() { qemu_alive 100 && [ "$(qemu_pid 100)" != "$qemu" ]; }
wait_until 90 'the VM is rebooted' is_another && ok 'the VM is rebooted'
comes_to 'and has its CPUs again' 'isolated 2-5: 2 3 4 5' 100
equal 'meanwhile its driver has not had the card' "$(grep -c "igb $pf" "$work/dmesg")" "$(dmesg | grep -c "igb $pf")"
released 100
pin-hook status > "$work/status" 2>&1 || true
check 'status says what is still to go back' has "$work/status" "$pf returns to driver igb once no vm uses it"
equal 'without the claim the VM keeps it' vfio-pci "$(driver_of $pf)"
qm stop 100
goes_back 'it goes back to its driver after the stop'
units_rest
journalctl -q -u pin-hook-reconcile.service -g 'is back with driver igb' > "$work/journal" || true
check 'as the units say' has "$work/journal" "$pf is back with driver igb"
without_vm
capture_after_equal 'the host is as before'

hostpci $pf 'hostpci0 = "return"'
start
comes_to 'the VM has its CPUs' 'isolated 2-5: 2 3 4 5' 100
kill -KILL "$(qemu_pid 100)"
wait_until 60 'the VM is gone' gone 100
goes_back 'it goes back when QEMU is killed' nothing_left_soon
without_vm
capture_after_equal 'the host is as before'

# Killed at one write after the other, until the card is away.
n=0
until [ $n -eq 9 ] || ! is_at $pf igb; do
    n=$((n + 1))
    hostpci $pf 'hostpci0 = "return"'
    bash -c "strace -f -qq -o /dev/null -e trace=write -e inject=write:signal=KILL:when=$n pin-hook 100 pre-start; true" > "$work/killed" 2>&1 || true
done
said "$work/killed"
check 'pre-start is killed' has "$work/killed" Killed
refuses 'when it had taken the card from its driver' is_at $pf igb
without_vm
goes_back 'it goes back after that' nothing_left_soon
capture_after_equal 'the host is as before'

# Of two virtual functions of one model the VM gets one; vfio-pci is not told the model.
echo 0 > $devices/$pf/sriov_drivers_autoprobe
echo 2 > $devices/$pf/sriov_numvfs
udevadm settle
echo 1 > $devices/$pf/sriov_drivers_autoprobe
vf=$(basename "$(readlink $devices/$pf/virtfn0)") vf2=$(basename "$(readlink $devices/$pf/virtfn1)")
hostpci $pf 'hostpci0 = "stay"'
refuses 'a physical function with virtual ones is refused' qm start 100
check 'because they go with its driver' has "$work/refused" 'it has virtual functions (2), which go with its driver'
hostpci "$vf" '"*" = "stay"'
start
comes_to 'a VM with a virtual function has its CPUs' 'isolated 2-5: 2 3 4 5' 100
modprobe -r igbvf || true
echo "$vf2" > /sys/bus/pci/drivers_probe || true
equal 'the other one of its model is not taken' none "$(driver_of "$vf2")"
qm stop 100
wait_until 60 'nothing is remembered' nothing_left
equal 'one that is to stay stays' vfio-pci "$(driver_of "$vf")"
echo "$vf" > "$devices/$vf/driver/unbind"
modprobe -r vfio-pci
check 'vfio-pci is not loaded' test ! -e /sys/bus/pci/drivers/vfio-pci
hostpci "$vf" 'hostpci0 = "stay"'
units_rest
bash -c 'pin-hook 100 pre-start; true' > "$work/start" 2>&1 || true
said "$work/start"
check 'a start loads it' has "$work/start" "hostpci0 ($vf) bound to vfio-pci"
without_vm
wait_until 90 'what was bound for nothing is given back' nothing_left_soon && ok 'what was bound for nothing is given back'
equal 'also what was to stay' none "$(driver_of "$vf")"
modprobe igbvf
