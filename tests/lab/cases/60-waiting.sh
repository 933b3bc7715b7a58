# kernels: backports
# A VM whose guest does not run yet waits for its CPUs; the units notice when it runs.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'

hooked_vm 100 'cpus = "2-5"'
capture_before
qm backup-start 100 > "$work/start"
check 'a start for a backup waits' has "$work/start" 'its guest does not run yet, cpus 2-5 wait'
check 'without a partition' has <(standing 100) none
equal 'and takes no CPUs' 0-7 "$(housekeeping)"
qmp 100 cont > /dev/null
check 'a guest that runs gets its CPUs by the units' wait_until 60 'isolated' stands 100 "$isolated"
qm backup-end 100 > /dev/null
capture_after_equal 'the host is as before'

mv "$(conf_path 100)" /etc/pve/nodes/pve2/qemu-server/
qm migrate-in 100 > "$work/start" 2>&1
check 'an incoming migration waits' has "$work/start" 'its guest does not run yet, cpus 2-5 wait'
check 'and has its CPUs when it has arrived' wait_until 60 'isolated' stands 100 "$isolated"
qm stop 100 > /dev/null
capture_after_equal 'the host is as before'

vm_conf 100 "$hooked" 'template: 1'
qm template-backup 100 > "$work/start" 2>&1
check 'a backup of a template: nothing to do' has "$work/start" 'vm 100 is a template, which runs for backups only: nothing to do'
lacks_changes() { lacks "$work/start" reserved && lacks "$work/start" owns; }
check 'and nothing done' lacks_changes
touch /etc/pve/nodes/pve1/lxc/200.conf
pin-hook 200 pre-start > "$work/container"
ok 'a container: exit status 0'
check 'and a notice' has "$work/container" '200 is a container, and only a vm can own its cpus: nothing to do'
check 'an unknown phase: exit status 0' pin-hook 100 pre-reboot
capture_after_equal 'the host is as before'
