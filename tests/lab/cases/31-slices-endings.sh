# kernels: none bookworm
# With backend slices and every knob on the host is as before too, however a VM ends, and when two come and go.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/endings.sh

owned='none: 2 3 4 5'
standings=([100]='none: 2 3 4' [101]='none: 5 7')

births_possible
mapfile -t knobs < <(all_knobs slices)
hooked_vm 100 'cpus = "2-5"' 'pin.emulator = "0-1"' "${knobs[@]}"
capture_before
endings_in_brief
# The others in make check-all, where slices are what a VM gets by itself.
if is_before 6.12 && [ -n "${LAB_ALL:-}" ]; then endings_by_guest_and_pve; fi

hooked_vm 100 'cpus = "2-4"' "${knobs[@]}"
vm_conf 100 'cores: 3' "$hooked"
hooked_vm 101 'cpus = "5,7"' "${knobs[@]}"
vm_conf 101 'cores: 2' "$hooked"
capture_before
pair '100 101 100 101'
if is_before 6.12; then pair '101 100 101 100'; fi
