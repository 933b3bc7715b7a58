# kernels: backports
# Devices that are passed through: who needs them, reset by FLR, interrupts that follow the vCPUs.
. /usr/lib/lab/lib.sh

pf=0000:01:00.0
devices=/sys/bus/pci/devices
net=$(basename "$devices/$pf/net"/*)
driver_of() { basename "$(readlink "$devices/$1/driver")"; }
says() { pin-hook plan 100 > "$work/plan" 2>&1 || true; has "$work/plan" "$1"; }
# hostpci ENTRY TABLE-LINE...: VM 100 with that device.
hostpci() {
    local entry=$1
    shift
    hooked_vm 100 'cpus = "2-5"' "$@"
    echo "hostpci0: $entry" >> "$(conf_path 100)"
}

root=$(readlink -f "/sys/class/block/vda" | grep -o '[0-9a-f]*:[0-9a-f]*:[0-9a-f]*\.[0-9a-f]' | tail -n 1)
nvme=$(readlink -f /sys/class/nvme/nvme0 | grep -o '[0-9a-f]*:[0-9a-f]*:[0-9a-f]*\.[0-9a-f]' | tail -n 1)
modprobe vfio-pci
# Before there is one: a driver that is loaded later takes those that none has.
modprobe igbvf
# virtual_functions: two that no driver has; once they are there, vfio-pci may bind them.
virtual_functions() {
    echo 0 > "$devices/$pf/sriov_drivers_autoprobe"
    echo 2 > "$devices/$pf/sriov_numvfs"
    udevadm settle
    echo 1 > "$devices/$pf/sriov_drivers_autoprobe"
    # How many queues the function itself keeps is decided when it comes up.
    ip link set "$net" up
    ip link set "$net" down
}
# with_driver: its guest is one that drives what it has, once a key is pressed.
with_driver() { echo 'args: -bios /usr/share/lab/driver.bin' >> "$(conf_path 100)"; }
press_key() { qmp 100 send-key '{"keys":[{"type":"qcode","data":"ret"}]}' > "$work/key"; }
# vectors ADDRESS [FILE]: the MSI-X vectors that vfio has for VMs, each with its CPUs: "0:4 1:3".
vectors() {
    local dir number
    for dir in /proc/irq/*/"vfio-msix["*"]($1)"; do
        number=${dir##*vfio-msix[} number=${number%%]*}
        echo "$number:$(< "${dir%/*}/${2:-smp_affinity_list}")"
    done | sort -n | paste -sd' '
}
# all_at LAST CPUS...: what "vectors" says when they are at these CPUs in turn.
all_at() {
    local last=$1 n
    shift
    local cpus=("$@")
    for n in $(seq 0 "$last"); do echo "$n:${cpus[n % $#]}"; done | paste -sd' '
}
has_vectors() { [ "$(vectors "$1" | wc -w)" = "$2" ]; }
are_at() {
    systemctl show -P InvocationID pin-hook-reconcile.service >> "$work/runs"
    [ "$(vectors "$1")" = "$2" ]
}
# come_to TEXT ADDRESS EXPECTED: on a busy machine a command may leave the end to the units.
come_to() { wait_until 60 "$1" are_at "$2" "$3" && ok "$1"; }

model_of() { sed 's/0x//' "$devices/$1/vendor" "$devices/$1/device" | paste -sd:; }
forget_id() { sed 's/0x//' "$devices/$1/vendor" "$devices/$1/device" | paste -sd' ' > /sys/bus/pci/drivers/vfio-pci/remove_id; }
echo 0 > "$devices/$pf/sriov_numvfs"
virtual_functions
vf=$(basename "$(readlink "$devices/$pf/virtfn0")")
hooked_vm 100 'cpus = "2-5"'
# A lock of the program stays until the next boot, as the other one does.
mkdir -p /run/pin-hook
touch /run/pin-hook/pci.lock
capture_before

hostpci "$root" '[pci]' 'reset = "flr"'
refuses 'the controller of the root disk is refused' qm start 100
said "$work/refused"
check 'with the disk and what it is for' has "$work/refused" "is the controller of disk vda (vda is mounted at /)"
check 'plan says so before' says "is the controller of disk vda (vda is mounted at /)"
hostpci "$root"
check 'without a wish to touch it, it says what the start would do' says "vm 100 would start and take disk vda from the host"

mkswap /dev/nvme0n1 > /dev/null
swapon /dev/nvme0n1
hostpci "$nvme" '[pci]' 'reset = "flr"'
refuses 'an NVMe that is swap is refused' qm start 100
check 'because it is swap' has "$work/refused" 'the controller of disk nvme0n1 (nvme0n1 is swap)'
swapoff /dev/nvme0n1
refuses 'an NVMe that the host drives is not reset' qm start 100
check 'because of its driver' has "$work/refused" 'host driver nvme uses it'

hostpci "$pf" '[pci]' 'reset = "flr"'
refuses 'a physical function with virtual ones is not reset' qm start 100
said "$work/refused"
check 'because of these' has "$work/refused" 'it has virtual functions (2)'
ip link set "$net" up
ip address add 10.9.9.1/24 dev "$net"
refuses 'a network card with a route is refused' qm start 100
check 'with the route' has "$work/refused" "network card $net (route to 10.9.9.0/24"
ip address del 10.9.9.1/24 dev "$net"
ip link set "$net" down

mkdir -p /etc/pve/mapping
printf 'nic\n\tmap id=8086:ffff,node=pve1,path=%s\n' "$vf" > /etc/pve/mapping/pci.cfg
hostpci 'mapping=nic' '[pci]' 'reset = "flr"'
refuses 'another device than the mapping was made for is refused' qm start 100
check 'with both ids' has "$work/refused" 'expected 8086:ffff'
rm -r /etc/pve/mapping

hostpci "$vf" '[pci]' 'reset = "remove-rescan"'
refuses 'a virtual function is not removed' qm start 100
check 'because only its physical one makes it' has "$work/refused" "it is a virtual function, which only $pf can create"

hostpci "$vf" '[pci]' 'reset = "flr"' 'irqs = "vcpus"'
methods=$(cat "$devices/$vf/reset_method")
qm start 100 > "$work/start" 2>&1 || true
said "$work/start"
check 'a virtual function is reset by FLR' has "$work/start" "hostpci0 ($vf) reset (flr)"
equal 'and may be reset by all means afterwards' "$methods" "$(cat "$devices/$vf/reset_method")"
equal 'the VM has it' vfio-pci "$(driver_of "$vf")"
comes_to 'the VM has its CPUs' 'isolated 2-5: 2 3 4 5' 100

hooked_vm 101 'cpus = "6-7"' '[pci]' 'reset = "flr"'
sed -i 's/^cores: .*/cores: 2/' "$(conf_path 101)"
echo "hostpci0: $vf" >> "$(conf_path 101)"
refuses 'a device of a running VM is refused' qm start 101
said "$work/refused"
check 'with the VM' has "$work/refused" "hostpci0 ($vf) is in use by vm 100"
sed -i "s/^hostpci0: .*/hostpci0: $pf/" "$(conf_path 101)"
refuses 'nor may its physical function be taken' qm start 101
check 'because of the virtual one' has "$work/refused" "the physical function of $vf, which is in use by vm 100"
# chosen_by TEXT: of two alternatives VM 101 gets the one that VM 100 does not have.
chosen_by() {
    qm start 101 > "$work/start" 2>&1 || said "$work/start"
    comes_to "$1: the VM has its CPUs" 'isolated 6-7: 6 7' 101
    pin-hook status 101 > "$work/status" 2>&1 || true
    check "$1: the alternative that was free is found" has "$work/status" "$vf2"
    refuses "$1: and the other one is not named" has "$work/status" "$vf "
    qm stop 101
    wait_until 60 'the VM is gone' gone 101
}
vf2=$(basename "$(readlink "$devices/$pf/virtfn1")")
mkdir -p /etc/pve/mapping
printf 'nic\n\tmap id=%s,node=pve1,path=%s\n\tmap id=%s,node=pve1,path=%s\n' "$(model_of "$vf")" "$vf" "$(model_of "$vf2")" "$vf2" \
    > /etc/pve/mapping/pci.cfg
sed -i 's/^hostpci0: .*/hostpci0: mapping=nic/' "$(conf_path 101)"
printf 'cpus = "6-7"\n' > /etc/pin-hook/101.toml
pin-hook plan 101 > "$work/plan" 2>&1 || true
check 'of two alternatives plan names the one that is free' has "$work/plan" "$vf2"
chosen_by 'by QEMU'\''s command line'
touch /run/qemu-server/by-sysfsdev
chosen_by 'by PVE'\''s reservation'
rm -r /run/qemu-server/by-sysfsdev /etc/pve/mapping
rm "$(conf_path 101)" /etc/pin-hook/101.toml
# Prepared for as long as the host runs; the capture is of a host that has not known this VM.
rm -r /run/systemd/system/101.scope.d
systemctl daemon-reload

qm stop 100
wait_until 60 'the VM is gone' gone 100
hostpci "$vf" '[pin]' 'vcpus = [4, 3, 2, 5]' '[pci]' 'irqs = "vcpus"'
with_driver
qm start 100 > "$work/start" 2>&1 || true
said "$work/start"
comes_to 'a VM with a virtual function has its CPUs' 'isolated 2-5: 4 3 2 5' 100
equal 'and no vector, as its guest has no driver yet' '' "$(vectors "$vf")"
press_key
wait_until 20 'the driver enables MSI-X' has_vectors "$vf" 3 && ok 'the driver enables MSI-X'
# Nothing but the units calls the program now; a run may be under way that looked before.
begin=$SECONDS
rm -f "$work/runs"
come_to 'each vector goes to the CPU of its vCPU' "$vf" "$(all_at 2 4 3 2 5)"
echo "#   after $((SECONDS - begin)) s"
check 'by the first run of reconcile that begins after that' test "$(sort -u "$work/runs" | wc -l)" -le 2
equal 'and occurs there' "$(all_at 2 4 3 2 5)" "$(vectors "$vf" effective_affinity_list)"
released 100
come_to 'without the claim it has what it would have been born with' "$vf" "$(all_at 2 0-7)"
pin-hook apply 100 > "$work/apply" 2>&1 || true
come_to 'with a claim it is back there' "$vf" "$(all_at 2 4 3 2 5)"
# A reboot by the guest itself takes the vectors, and its driver asks for them again: QEMU runs on.
qmp 100 system_reset > "$work/reset"
wait_until 20 'a reset takes the vectors' has_vectors "$vf" 0 && ok 'a reset takes the vectors'
press_key
wait_until 20 'the driver asks again' has_vectors "$vf" 3 && ok 'the driver asks again'
come_to 'and the vectors go there again' "$vf" "$(all_at 2 4 3 2 5)"
check 'the guest still powers off when asked' qm shutdown 100 --timeout 60
wait_until 60 'the VM is gone' gone 100
equal 'and its vectors with it' '' "$(vectors "$vf")"
rm -f "$(conf_path 100)" /etc/pin-hook/100.toml
forget_id "$vf"
echo "$vf" > "$devices/$vf/driver/unbind"
echo 0 > "$devices/$pf/sriov_numvfs"
virtual_functions
capture_after_equal 'the host is as before'
echo 0 > "$devices/$pf/sriov_numvfs"

# QEMU itself asks for the interrupt line of a device, which counts as vector 0.
vector() { local name; name=$(basename "$(dirname /proc/irq/*/"vfio-intx($nvme)")") && cat "/proc/irq/$name/smp_affinity_list"; }
hostpci "$nvme" '[pin]' 'vcpus = [4, 3, 2, 5]' '[pci]' 'irqs = "vcpus"'
with_driver
qm start 100 > "$work/start" 2>&1 || true
said "$work/start"
comes_to 'a VM with an NVMe has its CPUs' 'isolated 2-5: 4 3 2 5' 100
is_with_vcpu() { [ "$(vector)" = 4 ]; }
wait_until 60 'vector 0 goes to the CPU of vCPU 0' is_with_vcpu && ok 'vector 0 goes to the CPU of vCPU 0'
released 100
check 'and goes away with the claim' test "$(vector)" != 4

# A disk has more vectors than the VM has vCPUs; while they are there, a claim comes and goes.
press_key
wait_until 20 'its driver enables MSI-X' has_vectors "$nvme" 65 && ok 'its driver enables MSI-X'
capture_before
before=$(vectors "$nvme")
pin-hook apply 100 > "$work/apply" 2>&1 || true
said "$work/apply"
come_to 'more vectors than vCPUs go to them in turn' "$nvme" "$(all_at 64 4 3 2 5)"
sed -i 's/^irqs = .*/irqs = "housekeeping"/' /etc/pin-hook/100.toml
pin-hook apply 100 > "$work/apply" 2>&1 || true
said "$work/apply"
come_to 'or to the CPUs of the host' "$nvme" "$(all_at 64 0-1,6-7)"
released 100
come_to 'without the claim they are as before' "$nvme" "$before"
capture_after_equal 'and so is all of the host, with the VM running' 60
qm stop 100
wait_until 60 'the VM is gone' gone 100
rm -f "$(conf_path 100)" /etc/pin-hook/100.toml
forget_id "$nvme"
echo "$nvme" > "$devices/$nvme/driver/unbind"
echo "$nvme" > /sys/bus/pci/drivers/nvme/bind
wait_until 60 'the host has its NVMe back' test -b /dev/nvme0n1 && ok 'the host has its NVMe back'
