# kernels: none
# The same under the other means: PVE's affinity, slices, a partition of type root, and what a shell can do.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/quiet.sh

knobs_in_use 1
measure_nothing
vm_conf 100 "$spin" 'affinity: 2-5'
start
measure affinity
check 'with PVE'\''s affinity it does too' test "$userland" -gt 0

column slices slices 'none: 2 3 4 5'
seconds=8
column root root 'root 2-5: 2 3 4 5'
equal 'root: no program in 8 s' 0 "$userland"

# Last, because it puts back what it thinks was there.
seconds=2
rm /etc/pin-hook/100.toml
vm_conf 100 "$spin"
start
"$lab/shell-hook" 100 post-start > "$work/shell" 2>&1 || said "$work/shell"
measure shell
"$lab/shell-hook" 100 post-stop > "$work/shell" 2>&1
shell_hook_gone
table_of_all
