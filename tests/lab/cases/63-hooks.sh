# kernels: none
# It mostly waits: it shares the machine of 39-probe, which runs beside the others.
# boot: lab.slow-disk
# Hookscripts of others that call pin-hook, and what they leave in the background.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'
snippet=/var/lib/vz/snippets/wrapper
case_cleanup() { pkill -f 'sleep 98765' || true; rm -f $snippet; }
sleepers() { pgrep -cf 'sleep 98765' || true; }

hooked_vm 100 'cpus = "2-5"' 'yield.stop = [107]'
table 107 'cpus = "2-5"'
vm_conf 107 'hookscript: local:snippets/wrapper'
prepared
capture_before

# The lock is PVE's, and the shell that calls has ended before QEMU is up.
flock /var/lock/qemu-server/lock-100.conf sh -c 'sh -c "pin-hook 100 pre-start; :"
    pin-hook reconcile; pin-hook status 100' > "$work/reserved" 2>&1
check 'a reservation does not end with the shell that called' has "$work/reserved" 'vm 100: reserved, cpus 2-5'
pin-hook reconcile > /dev/null
pin-hook status > "$work/status"
check 'but with the one who starts the VM' lacks "$work/status" 'vm 100'

cat > $snippet <<'X'
#!/bin/sh
sh -c 'pin-hook "$0" "$1"' "$1" "$2"
status=$?
case $2 in pre-stop | post-start) setsid sleep 98765 > /dev/null 2>&1 < /dev/null & ;; esac
exit $status
X
chmod +x $snippet
qm start 107 > /dev/null 2>&1
comes_to 'hooked by a script in shell' "$isolated" 107
equal 'it leaves something in the background' 1 "$(sleepers)"
first=$(qemu_pid 107)
new_107() { qemu_alive 107 && [ "$(qemu_pid 107)" != "$first" ]; }
for n in 1 2; do
    qm start 100 > "$work/start" 2>&1 || { not_ok "start $n"; said "$work/start"; }
    comes_to "start $n: vm 107 has made room" "$isolated" 100
    qm stop 100 > /dev/null 2>&1
    wait_until 180 'vm 107 runs again' new_107 && ok "vm 107 runs again after stop $n"
    comes_to 'with its CPUs' "$isolated" 107
    first=$(qemu_pid 107)
    comes_to_print 'what its hooks left in the background runs on' $((1 + 2 * n)) sleepers
done
qm stop 107 > /dev/null 2>&1
pkill -f 'sleep 98765'
capture_after_equal 'the host is as before' 60
