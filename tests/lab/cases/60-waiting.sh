# kernels: none
# A VM whose guest does not run yet waits for its CPUs; the units notice when it runs. Backups: 61-backup.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'

hooked_vm 100 'cpus = "2-5"'
capture_before
mv "$(conf_path 100)" /etc/pve/nodes/pve2/qemu-server/
qm migrate-in 100 > "$work/start" 2>&1
check 'an incoming migration waits' has "$work/start" 'its guest is not running yet, cpus 2-5 wait'
check 'and has its CPUs when it has arrived' wait_until 60 'isolated' stands 100 "$isolated"
qm stop 100 > /dev/null
capture_after_equal 'the host is as before'

table 100 'cpus = "2-5,9"'
qm remote-migrate-in 100 > "$work/start" 2>&1
ok 'a VM from another cluster arrives although its CPUs cannot be had'
check 'with a warning' has "$work/start" 'it starts without cpus of its own'
qm stop 100 > /dev/null
wait_until 60 'PVE has cleaned up' cleaned_up
table 100 'cpus = "2-5"'
qm remote-migrate-in 100 > "$work/start" 2>&1
check 'one whose CPUs can be had waits for them' has "$work/start" 'its guest is not running yet, cpus 2-5 wait'
check 'and has them when it has arrived' wait_until 60 'isolated' stands 100 "$isolated"
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
