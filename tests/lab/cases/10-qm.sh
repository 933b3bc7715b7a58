# kernels: stable
# The stand-in qm calls the phases that PVE calls, in its order, for every way a VM comes and goes.
. /usr/lib/lab/lib.sh

log=/run/phases
hook=/var/lib/vz/snippets/log

case_cleanup() { rm -rf $log $hook; }

# expect TEXT PHASES COMMAND...: runs it; the phases of VM 100 since the last question.
expect() {
    local text=$1 phases=$2
    shift 2
    "$@" > "$work/out" 2>&1 || true
    wait_until 30 "$text" logged "$phases" || { cat $log/100 "$work/out"; return 0; }
    wait_until 30 "$text: no command is left" cleaned_up
    equal "$text" "$phases" "$(phases)"
    : > $log/100
}

phases() { paste -sd' ' $log/100; }
logged() { [ "$(phases)" = "$1" ]; }
unlocked() { flock -n /var/lock/qemu-server/lock-100.conf true; }
start() { qm start 100 > /dev/null && : > $log/100; }
then_do() { start && qm "$@"; }
move_back() { mv /etc/pve/nodes/pve2/qemu-server/100.conf /etc/pve/nodes/pve1/qemu-server/; vm_conf 100 'hookscript: local:snippets/log'; }

mkdir -p $log
: > $log/100
cat > $hook <<'HOOK'
#!/bin/sh
echo "$2" >> /run/phases/$1
[ ! -e /run/phases/hold-$2 ] || { sleep 1000 & echo $! > /run/phases/child; }
[ ! -e /run/phases/refuse-$2 ]
HOOK
chmod +x $hook
vm_conf 100 'hookscript: local:snippets/log'

expect 'start' 'pre-start post-start' qm start 100
expect 'stop' 'pre-stop post-stop' qm stop 100
expect 'shutdown' 'pre-stop post-stop' then_do shutdown 100
expect 'power-off by the guest: no pre-stop' 'post-stop' then_do guest-poweroff 100
expect 'kill -9 of QEMU: no pre-stop' 'post-stop' then_do kill9 100
expect 'reboot' 'pre-stop post-stop pre-start post-start' then_do reboot 100
expect 'migration away: nothing' '' qm migrate-away 100
check 'and the VM is gone' wait_until 20 'no QEMU' gone 100
move_back
expect 'backup of a stopped VM' 'pre-start post-start' qm backup-start 100
expect 'and its end' 'pre-stop post-stop' qm backup-end 100
expect 'backup of a template: no post-start' 'pre-start pre-stop post-stop' qm template-backup 100
vm_conf 100 'hookscript: local:snippets/log' 'args: -no-such-option'
expect 'a failed start: pre-start only' 'pre-start' qm start 100
vm_conf 100 'hookscript: local:snippets/log'

touch $log/refuse-pre-start
refuses 'exit 1 at pre-start aborts the start' qm start 100
check 'with PVE'\''s words' has "$work/refused" \
    "hookscript error for 100 on pre-start: command '$hook 100 pre-start' failed: exit code 1"
equal 'and no other phase follows' pre-start "$(phases)"
rm $log/refuse-pre-start
: > $log/100

touch $log/hold-post-start
task qm start 100
wait_until 30 'the hook has ended' test -s $log/child
check 'a child that keeps the pipe keeps the start' kill -0 "$task_pid"
refuses 'and the VM'\''s lock' unlocked
kill "$(cat $log/child)"
wait "$task_pid"
rm $log/hold-post-start
: > $log/100

legacy_regime
expect 'stop, older regime: post-stop by cleanup' 'pre-stop post-stop' qm stop 100
expect 'kill -9, older regime' 'post-stop' then_do kill9 100
