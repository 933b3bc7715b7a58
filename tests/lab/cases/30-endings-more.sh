# kernels: none
# The host is as before also when the guest, a crash, PVE or another node ends a VM, and when a start fails.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/endings.sh

owned='isolated 2-5: 2 3 4 5' memory_on=0

births_possible
mapfile -t knobs < <(all_knobs isolated)
hooked_vm 100 'cpus = "2-5"' 'pin.emulator = "0-1"' 'pin.scheduler = "fifo:1"' "${knobs[@]}" \
    '[memory]' "nodes = \"$memory_on\""
capture_before
endings_by_guest_and_pve
