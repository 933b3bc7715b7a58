# With every knob on: however a VM ends, and in whatever order two VMs with common policies and settings
# come and go, the host is as before, with what was born meanwhile.
. /usr/lib/lab/lib.sh

nvme=$(basename "$(readlink -f /sys/class/nvme/nvme0/device)")
driver=/sys/bus/pci/drivers/nvme
hooked='hookscript: local:snippets/pin-hook'

case_cleanup() {
    modprobe -r jfs
    [ -e $driver/"$nvme" ] || echo "$nvme" > $driver/bind
    knobs_in_use 0
} 2> /dev/null

rebind() {
    echo "$nvme" > $driver/unbind
    echo "$nvme" > $driver/bind
    wait_until 20 'the disk is back' test -b /dev/nvme0n1
    udevadm settle
}

# Interrupts and kernel threads; those of the capture must look as without the VM, so they stay until then.
births() {
    rebind
    modprobe jfs
}

# as_before TEXT
as_before() {
    capture_after_equal "as before after: $1" 60
    modprobe -r jfs
}

start() { qm start "$1" > "$work/start" 2>&1 || said "$work/start"; }

# ends_with TEXT COMMAND...: starts the VM, has something born, ends the VM, and compares.
ends_with() {
    local text=$1
    shift
    start 100
    comes_to "isolated before: $text" 'isolated 2-5: 2 3 4 5' 100
    births
    "$@" > "$work/end" 2>&1 || { not_ok "$text: $*"; said "$work/end"; }
    wait_until 40 "$text: QEMU ends" gone 100
    as_before "$text"
}

unhook_and_stop() { vm_conf 100; qm stop 100; vm_conf 100 "$hooked"; }
migrate_away() { qm migrate-away 100; mv /etc/pve/nodes/pve2/qemu-server/100.conf "$(conf_path 100)"; vm_conf 100 "$hooked"; }
release_and_stop() { pin-hook release 100; qm stop 100; }

rebooted() { qemu_alive 100 && [ "$(qemu_pid 100)" != "$first" ] && stands 100 'isolated 2-5: 2 3 4 5'; }
reboot_and_stop() {
    first=$(qemu_pid 100)
    qm reboot 100
    wait_until 60 'the new QEMU is isolated' rebooted >&3
    qm stop 100
}

# As soon as something has changed: the units finish it.
die_and_stop() {
    pin-hook release 100
    bash -c 'pin-hook 100 pre-start; true'
    pin-hook 100 post-start &
    wait_until 10 'post-start works' grep -q partition /run/pin-hook/journal >&3
    { kill -KILL $! || true; wait $! || true; } 2> /dev/null
    comes_to 'killed in post-start: the units finish it' 'isolated 2-5: 2 3 4 5' 100 >&3
    qm kill9 100
}

exec 3>&1
knobs_in_use 1
rebind # so that interrupt numbers are the same later
mapfile -t knobs < <(all_knobs isolated)
hooked_vm 100 'cpus = "2-5"' 'pin.emulator = "0-1"' 'pin.scheduler = "fifo:1"' "${knobs[@]}"
vm_conf 100 "$hooked"
capture_before
ends_with 'qm stop' qm stop 100
said "$work/start"
ends_with 'qm shutdown' qm shutdown 100
ends_with 'power-off by the guest' qm guest-poweroff 100
ends_with 'kill -9 of QEMU' qm kill9 100
ends_with 'reboot and stop' reboot_and_stop
ends_with 'migration to another node' migrate_away
ends_with 'a stop without the hookscript' unhook_and_stop
ends_with 'release and stop' release_and_stop
ends_with 'kill -9 of the phase and of QEMU' die_and_stop
vm_conf 100 "$hooked" 'args: -no-such-option'
refuses 'a start that fails' qm start 100
as_before 'a start that fails'

# Two VMs on both sides of a shared policy, with common settings and different wishes.
equal 'two CPUs of the lab change their frequency together' '4 5' "$(cat /sys/devices/system/cpu/cpufreq/policy4/affected_cpus)"
hooked_vm 100 'cpus = "2-4"' 'pin.emulator = "0-1"' 'pin.scheduler = "fifo:1"' \
    "${knobs[0]}" 'also = "6"' "${knobs[@]:1}"
vm_conf 100 'cores: 3' "$hooked"
mapfile -t knobs < <(all_knobs root | sed 's/"2200MHz"/"1200MHz"/; s/"performance"/"powersave"/; s/ = 120/ = 30/; s/"stop"/"unmerge"/; s/"2us"/"0us"/')
hooked_vm 101 'cpus = "5,7"' "${knobs[@]}"
vm_conf 101 'cores: 2' "$hooked"
capture_before
stand() {
    case $1 in
        100) comes_to "$2: vm 100 stands" 'isolated 2-4,6: 2 3 4' 100 ;;
        101) comes_to "$2: vm 101 stands" 'root 5,7: 5 7' 101 ;;
    esac
}
for order in '100 101 100 101' '100 101 101 100' '101 100 100 101' '101 100 101 100'; do
    read -r one two three four <<< "$order"
    text="start $one, $two, stop $three, $four"
    start "$one"
    stand "$one" "$text"
    births
    start "$two"
    stand "$two" "$text"
    stand "$one" "$text"
    qm stop "$three" > /dev/null
    stand "$four" "$text"
    qm stop "$four" > /dev/null
    as_before "$text"
done
