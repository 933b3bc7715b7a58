# The host is as before when a VM has ended, with every knob on and with what was born meanwhile; where PVE
# calls no phase, the units see to it. 30-endings-more has other ways to end.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/endings.sh

owned='isolated 2-5: 2 3 4 5' memory_on=0

lose_all_and_stop() {
    systemctl stop pin-hook-reconcile.{timer,path,service}
    rm -rf /run/pin-hook /etc/pin-hook/100.toml
    pin-hook release --all
    equal 'release --all without state ends the partition' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)" >&3
    qm stop 100
}

births_possible
mapfile -t knobs < <(all_knobs isolated)
hooked_vm 100 'cpus = "2-5"' 'pin.emulator = "0-1"' 'pin.scheduler = "fifo:1"' "${knobs[@]}" \
    '[memory]' "nodes = \"$memory_on\""
capture_before
endings_in_brief

# What the knobs had is lost with the state: the CPUs alone.
hooked_vm 100 'cpus = "2-5"'
capture_before
ends_with 'release --all without state and tables, and stop' lose_all_and_stop
