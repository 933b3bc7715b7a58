# kernels: stable backports bookworm
# With backend slices and every knob on the host is as before too, whether a phase or the units see to it.
. /usr/lib/lab/lib.sh

owned='none: 2 3 4 5'

case_cleanup() { births_undone; }

births_possible
mapfile -t knobs < <(all_knobs slices)
hooked_vm 100 'cpus = "2-5"' 'pin.emulator = "0-1"' "${knobs[@]}"
capture_before
ends_with 'qm stop' qm stop 100
said "$work/start"
ends_with 'power-off by the guest' qm guest-poweroff 100
ends_with 'kill -9 of QEMU' qm kill9 100
ends_with 'a stop without the hookscript' unhook_and_stop
ends_with 'release of the running VM, and stop' release_and_stop
