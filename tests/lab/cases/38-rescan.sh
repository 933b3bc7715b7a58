# kernels: none
# Devices that are removed and found again: no driver of the host in between, back whatever happens.
. /usr/lib/lab/lib.sh

pf=0000:01:00.0
port=0000:00:02.0
devices=/sys/bus/pci/devices
autoprobe=/sys/bus/pci/drivers_autoprobe
nvme=$(readlink -f /sys/class/nvme/nvme0 | grep -o '[0-9a-f]*:[0-9a-f]*:[0-9a-f]*\.[0-9a-f]' | tail -n 1)
driver_of() { basename "$(readlink "$devices/$1/driver" || echo none)"; }
# The kernel leaves what appears to nobody while drivers are not probed for.
is_old() { is_before 6.19; }
hostpci() {
    hooked_vm 100 'cpus = "2-5"' '[pci]' "reset = \"$2\""
    echo "hostpci0: $1" >> "$(conf_path 100)"
}
# hide, unhide: what is behind the root port does not answer any more.
secondary=$(setpci -s $port SECONDARY_BUS)
hide() { setpci -s $port SECONDARY_BUS=ff; }
unhide() { setpci -s $port SECONDARY_BUS="$secondary"; }
unbind() { [ ! -e "$devices/$1/driver" ] || echo "$1" > "$devices/$1/driver/unbind"; }
nothing_left() { [ ! -s /run/pin-hook/journal ]; }
is_free() { [ "$(cat $autoprobe) $(cat "$devices/$1/driver_override") $(driver_of "$1")" = '1 (null) none' ]; }
case_cleanup() {
    # It says that a device has not come back, until its next run.
    systemctl reset-failed pin-hook-reconcile.service || true
    unhide
    rm -f /etc/modprobe.d/lab.conf
    echo 1 > $autoprobe
    [ -e $devices/$pf ] || echo 1 > /sys/bus/pci/rescan
    modprobe nvme
    modprobe igb
    for pair in "$nvme nvme" "$pf igb"; do
        [ "$(driver_of "${pair% *}")" = "${pair#* }" ] || echo "${pair% *}" > "/sys/bus/pci/drivers/${pair#* }/bind"
    done
}

modprobe vfio-pci
echo 0 > $devices/$pf/sriov_numvfs
unbind "$nvme"
unbind $pf
if is_old; then
    hostpci "$nvme" remove-rescan
    refuses 'a driver that is loaded would take the device' qm start 100
    said "$work/refused"
    check 'with the driver' has "$work/refused" 'nvme on the host, which is loaded, would grab it when it reappears'
    check 'with the remedy' has "$work/refused" 'modprobe -r nvme'
    modprobe -r nvme
    refuses 'so would one that is loaded then' qm start 100
    check 'with the driver and the remedy' has "$work/refused" '"blacklist nvme" in a file in /etc/modprobe.d'
    equal 'nothing was removed for that' none "$(driver_of "$nvme")"
    modprobe -r igb
    printf 'blacklist nvme\nblacklist igb\n' > /etc/modprobe.d/lab.conf
fi
hooked_vm 100 'cpus = "2-5"'
mkdir -p /run/pin-hook
touch /run/pin-hook/pci.lock
echo 0 > "$devices/$nvme/d3cold_allowed"
# The number of an interrupt line stays for ever once somebody has asked for it, as QEMU does.
for enabled in 1 0; do echo $enabled > "$devices/$nvme/enable"; done
udevadm settle
wait_until 60 'nothing is claimed' nothing_left
capture_before

hostpci "$nvme" auto
pin-hook plan 100 > "$work/plan" 2>&1 || true
check 'auto prefers a reset of the function alone' has "$work/plan" "hostpci0 ($nvme) is reset before the start (flr: it reaches this function and nothing else)"
hostpci "$nvme" remove-rescan
pin-hook plan 100 > "$work/plan" 2>&1 || true
check 'plan tells what is going to happen' has "$work/plan" "hostpci0 ($nvme) is reset before the start (remove-rescan)"
identity() { cat "$devices/$nvme"/{modalias,resource,subsystem_vendor,subsystem_device,revision} | tr '\n' ' '; od -An -tx1 -N 64 "$devices/$nvme/config" | tr -d '\n'; }
before=$(identity)
stdbuf -oL udevadm monitor --kernel --property > "$work/events" 2>&1 &
monitor=$!
wait_until 20 'events are watched' has "$work/events" KERNEL
qm start 100 > "$work/start" 2>&1 || true
said "$work/start"
check 'an NVMe is removed and found again' has "$work/start" "hostpci0 ($nvme) reset (remove-rescan)"
comes_to 'the VM has its CPUs' 'isolated 2-5: 2 3 4 5' 100
equal 'the VM has it' vfio-pci "$(driver_of "$nvme")"
equal 'and nothing holds it any more' '(null)' "$(cat "$devices/$nvme/driver_override")"
equal 'drivers are probed for' 1 "$(cat $autoprobe)"
kill $monitor
# action devpath: those of the device and below, without what is loaded.
events() { sed -n 's/^KERNEL\[[0-9.]*\] \([a-z]*\) *\([^ ]*\).*/\1 \2/p' "$work/events" | grep -F "$nvme"; }
events > "$work/of-device" || true
said "$work/of-device"
check 'the kernel removed it' grep -q '^remove .*:[0-9a-f]*\.[0-9a-f]$' "$work/of-device"
check 'and found it' grep -q '^add .*:[0-9a-f]*\.[0-9a-f]$' "$work/of-device"
equal 'no disk and no controller has appeared' '' "$(grep -E '/(nvme|block)' "$work/of-device" || true)"
equal 'no driver but vfio-pci was bound' 'DRIVER=vfio-pci' "$(grep -A 12 '^KERNEL.* bind .*'"$nvme " "$work/events" | grep '^DRIVER=' | sort -u)"
qm stop 100
wait_until 60 'the VM is gone' gone 100
equal 'it is what it was' "$before" "$(identity)"
sed 's/0x//' "$devices/$nvme/vendor" "$devices/$nvme/device" | paste -sd' ' > /sys/bus/pci/drivers/vfio-pci/remove_id
unbind "$nvme"
rm -f "$(conf_path 100)" /etc/pin-hook/100.toml
capture_after_equal 'the host is as before'

# Killed while the device is away: the units bring it back.
hostpci $pf remove-rescan
hide
bash -c 'pin-hook 100 pre-start; true' > "$work/killed" 2>&1 &
starter=$!
wait_until 60 'the device is away' test ! -e $devices/$pf
pkill -KILL -f 'pin-hook 100 pre-start'
wait $starter 2> /dev/null || true
equal 'a run is killed while the device is away' '' "$(ls -d $devices/$pf 2> /dev/null || true)"
equal 'and no driver is probed for' 0 "$(cat $autoprobe)"
unhide
wait_until 90 'the units end what it began' nothing_left && ok 'the units end what it began'
check 'the device is back and nobody has it' is_free $pf
rm -f "$(conf_path 100)" /etc/pin-hook/100.toml
capture_after_equal 'the host is as before the killed run'

# Killed at any record of its log, with the device there or away: the next run finishes it.
for n in 2 3 4 5 6 7; do
    hostpci "$nvme" remove-rescan
    bash -c "strace -f -qq -o /dev/null -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=$n pin-hook 100 pre-start; true" > "$work/killed" 2>&1 || true
    said "$work/killed"
    check "killed at record $n" has "$work/killed" Killed
    rm -f "$(conf_path 100)" /etc/pin-hook/100.toml
    pin-hook reconcile > "$work/reconcile" 2>&1 || true
    said "$work/reconcile"
    wait_until 60 "killed at record $n: nothing is claimed" nothing_left || true
    check "killed at record $n: the device is there and free" is_free "$nvme"
done
capture_after_equal 'the host is as before'

hostpci $pf remove-rescan
hide
wait_until 60 'PVE has cleaned up' cleaned_up
begin=$SECONDS
refuses 'a device that does not come back refuses the start' command qm start 100
said "$work/refused"
check 'in time' test $((SECONDS - begin)) -lt 25
check 'with the device' has "$work/refused" "cannot reset hostpci0 ($pf): it (8086:10c9) was removed and has not reappeared in time"
check 'and how it may come back' has "$work/refused" 'echo 1 > /sys/class/pci_bus/0000:01/rescan'
wait_until 120 'the units give up' nothing_left && ok 'the units give up'
equal 'drivers are probed for again' 1 "$(cat $autoprobe)"
units_rest
journalctl -q -u pin-hook-reconcile.service -g 'has not reappeared' > "$work/journal" || true
said "$work/journal"
check 'and say so' has "$work/journal" "$pf"
unhide
echo 1 > /sys/class/pci_bus/0000:01/rescan
check 'what was said brings it back' test -e $devices/$pf
