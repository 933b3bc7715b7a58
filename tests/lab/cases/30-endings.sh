# However a VM ends, the host is as before, with every knob on and with what was born meanwhile; where PVE
# calls no phase, the units see to it.
. /usr/lib/lab/lib.sh

owned='isolated 2-5: 2 3 4 5'

case_cleanup() { births_undone; }

crash() { kill -SEGV "$(qemu_pid 100)"; }
migrate_away() { qm migrate-away 100; mv /etc/pve/nodes/pve2/qemu-server/100.conf "$(conf_path 100)"; vm_conf 100 "$hooked"; }

rebooted() { qemu_alive 100 && [ "$(qemu_pid 100)" != "$first" ] && stands 100 "$owned"; }
reboot_and_stop() {
    first=$(qemu_pid 100)
    qm reboot 100
    check 'isolated again after a reboot' wait_until 60 'a new QEMU is isolated' rebooted >&3
    qm stop 100
}

lose_all_and_stop() {
    systemctl stop pin-hook-reconcile.timer pin-hook-reconcile.path
    rm -rf /run/pin-hook /etc/pin-hook/100.toml
    pin-hook release --all
    equal 'release --all without state ends the partition' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)" >&3
    qm stop 100
}

births_possible
mapfile -t knobs < <(all_knobs isolated)
hooked_vm 100 'cpus = "2-5"' 'pin.emulator = "0-1"' 'pin.scheduler = "fifo:1"' "${knobs[@]}"
vm_conf 100 "$hooked"
capture_before
ends_with 'qm stop' qm stop 100
said "$work/start"
ends_with 'qm shutdown' qm shutdown 100
ends_with 'power-off by the guest' qm guest-poweroff 100
ends_with 'kill -9 of QEMU' qm kill9 100
ends_with 'a crash of QEMU' crash
ends_with 'reboot and stop' reboot_and_stop
ends_with 'migration to another node' migrate_away
ends_with 'a stop without the hookscript' unhook_and_stop
ends_with 'release of the running VM, and stop' release_and_stop

vm_conf 100 "$hooked" 'args: -no-such-option'
refuses 'a start that fails' qm start 100
as_before 'a start that fails'

# What the knobs had is lost with the state: the CPUs alone.
hooked_vm 100 'cpus = "2-5"'
capture_before
ends_with 'release --all without state and tables, and stop' lose_all_and_stop
