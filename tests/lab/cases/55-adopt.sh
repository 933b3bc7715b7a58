# kernels: none
# A VM that runs without the hook is adopted by hand, and let go again, while it runs.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'

# runs COMMAND...: it succeeds; what it said is shown.
runs() {
    check "$*" "$@"
    said "$work/check"
}

vm_conf 100
qm start 100 > /dev/null
systemctl set-property --runtime 100.scope CPUWeight=100
capture_before
table 100 'cpus = "2-5"'
lacks_cpuset() { lacks <(systemctl show -p DelegateControllers 100.scope) cpuset; }
check 'its scope is not delegated' lacks_cpuset
for command in 'post-start 100' '100 post-start' 'apply 100'; do
    # shellcheck disable=SC2086
    runs pin-hook $command
    comes_to 'adopts it' "$isolated" 100
    check 'with its live scope delegated' has <(systemctl show -p DelegateControllers 100.scope) cpuset
    systemctl set-property --runtime 100.scope CPUWeight=100
    equal 'so that a new weight leaves it isolated' "$isolated" "$(standing 100)"
    runs pin-hook release 100
    comes_to 'lets it go' 'none: 0-7 0-7 0-7 0-7' 100
done
capture_after_equal 'the host is as before, with the VM running' 60

# The readme's way without the program, which is not there meanwhile.
by_hand() { sed -n '/^Without the program/,/^The masks/s/^    //p' /run/lab/share/package/README.md | sed 's/0-23/0-7/'; }
case_cleanup() { [ ! -e "$work/program" ] || mv "$work/program" /usr/sbin/pin-hook; }
pin-hook apply 100 > "$work/apply"
comes_to 'adopted once more' "$isolated" 100
systemctl stop pin-hook-reconcile.{timer,path,service}
mv /usr/sbin/pin-hook "$work/program"
check 'it is let go by hand' bash -ec "$(by_hand)"
equal 'and runs on all CPUs' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)"
equal 'as the host does' 0-7 "$(housekeeping)"
mv "$work/program" /usr/sbin/pin-hook
released 100
qm stop 100 > /dev/null
