# However a VM ends, the host is as before; where PVE calls no phase, the units see to it.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'

start() {
    qm start 100 > "$work/start" 2>&1
    comes_to "isolated before: $1" "$isolated" 100
}

# ends_with TEXT COMMAND...: starts the VM, ends it, and compares.
ends_with() {
    local text=$1
    shift
    start "$text"
    "$@" > "$work/end" 2>&1 || { not_ok "$text: $*"; cat "$work/end"; }
    wait_until 40 "$text: QEMU ends" gone 100
    capture_after_equal "as before after: $text" 60
}

unhook_and_stop() { vm_conf 100; qm stop 100; vm_conf 100 'hookscript: local:snippets/pin-hook'; }
migrate_away() { qm migrate-away 100; mv /etc/pve/nodes/pve2/qemu-server/100.conf "$(conf_path 100)"; vm_conf 100 'hookscript: local:snippets/pin-hook'; }

release_and_stop() {
    pin-hook release 100
    equal 'release leaves the VM running as any other' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)" >&3
    equal 'and the host has all CPUs' 0-7 "$(housekeeping)" >&3
    qm stop 100
}

lose_all_and_stop() {
    systemctl stop pin-hook-reconcile.timer pin-hook-reconcile.path
    rm -rf /run/pin-hook /etc/pin-hook/100.toml
    pin-hook release --all
    equal 'release --all without state ends the partition' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)" >&3
    qm stop 100
}

exec 3>&1
hooked_vm 100 'cpus = "2-5"'
capture_before
ends_with 'qm stop' qm stop 100
ends_with 'qm shutdown' qm shutdown 100
ends_with 'power-off by the guest' qm guest-poweroff 100
ends_with 'kill -9 of QEMU' qm kill9 100
ends_with 'migration to another node' migrate_away
ends_with 'a stop without the hookscript' unhook_and_stop

start 'reboot'
first=$(qemu_pid 100)
rebooted() { qemu_alive 100 && [ "$(qemu_pid 100)" != "$first" ] && stands 100 "$isolated"; }
qm reboot 100 > /dev/null
check 'isolated again after a reboot' wait_until 60 'a new QEMU is isolated' rebooted
qm stop 100 > /dev/null
capture_after_equal 'as before after: reboot and stop'

vm_conf 100 'hookscript: local:snippets/pin-hook' 'args: -no-such-option'
refuses 'a start that fails' qm start 100
capture_after_equal 'as before after: a start that fails' 60
vm_conf 100 'hookscript: local:snippets/pin-hook'

ends_with 'release of the running VM, and stop' release_and_stop
ends_with 'release --all without state and tables, and stop' lose_all_and_stop
