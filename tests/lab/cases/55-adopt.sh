# A VM that runs without the hook is adopted by hand, and let go again, while it runs.
. /usr/lib/lab/lib.sh

vm_conf 100
qm start 100 > /dev/null
capture_before
table 100 'cpus = "2-5"'
refuses 'its scope is not delegated' has <(systemctl show -p DelegateControllers 100.scope) cpuset
for command in 'post-start 100' '100 post-start' 'apply 100'; do
    # shellcheck disable=SC2086
    check "pin-hook $command" pin-hook $command
    equal 'adopts it' 'isolated 2-5: 2 3 4 5' "$(standing 100)"
    check 'with its live scope delegated' has <(systemctl show -p DelegateControllers 100.scope) cpuset
    [ "$command" = '100 post-start' ] || systemctl set-property --runtime 100.scope CPUWeight=100
    equal 'which keeps it' 'isolated 2-5: 2 3 4 5' "$(standing 100)"
    check 'pin-hook release 100' pin-hook release 100
    equal 'lets it go' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)"
done
capture_after_equal 'the host is as before, with the VM running'
qm stop 100 > /dev/null
