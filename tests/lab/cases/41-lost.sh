# kernels: stable
# The state in /run is lost or has a damaged line while a VM owns CPUs (lost-state), nobody may get into it (umask), a
# table is no text (table-no-file): nothing is kept from the host that nobody remembers, and nothing hangs.
. /usr/lib/lab/lib.sh
isolated='isolated 2-5: 2 3 4 5'
none='none: 0-7 0-7 0-7 0-7'
J=/run/pin-hook/journal

case_cleanup() { systemctl start pin-hook-reconcile.timer pin-hook-reconcile.path; rm -f /run/pin-hook/damaged-*; }

# begin: VM 100 owns its CPUs, and nobody looks after it meanwhile.
begin() {
    qm start 100 > /dev/null
    comes_to "$1: the vm owns its cpus" "$isolated" 100
    systemctl stop pin-hook-reconcile.timer pin-hook-reconcile.path
    units_rest
}

# looked_at: systemd has looked at a unit since, and taken away the controllers that nobody needs.
looked_at() { systemctl start --quiet user.slice; systemd-run --quiet --wait true; }

hooked_vm 100 'cpus = "2-5"'
hooked_vm 101 'cpus = "6-7"'
sed -i 's/^cores: 4/cores: 2/' "$(conf_path 101)"
# Everything in /run goes here, and with it a lock that another case has left.
rm -f /run/pin-hook/pci.lock
capture_before

begin 'lost'
rm -rf /run/pin-hook
refuses 'lost: status does not say that all is well' pin-hook status
check 'lost: it names the cgroup' has "$work/refused" 'cgroup qemu.slice/100.scope/vcpu withholds cpus 2-5 from the host'
qm stop 100 > "$work/stop" 2>&1
looked_at
check 'lost, the vm stopped: release --all' released --all
said "$work/release"
capture_after_equal 'lost, the vm stopped, release --all: the host is as before'

# Its cgroups may have gone with it when the stop looks. A whole node: what the kernel keeps there stays there.
table 100 'cpus = "4-7"'
isolated='isolated 4-7: 4 5 6 7' begin 'stopped'
systemctl start pin-hook-reconcile.timer pin-hook-reconcile.path
rm -rf /run/pin-hook
qm stop 100 > "$work/stop" 2>&1
said "$work/stop"
check 'stopped: the host is restored' has "$work/stop" 'vm 100: host restored'
wait_until 60 'nothing is left to be done' at_rest
capture_after_equal 'stopped: the host is as before'
table 100 'cpus = "2-5"'

begin 'two'
rm -rf /run/pin-hook
qm start 101 > "$work/start" 2>&1
said "$work/start"
check 'two: release --all' released --all
equal 'two: the first vm is released' "$none" "$(standing 100)"
qm stop 100 > /dev/null
qm stop 101 > /dev/null
capture_after_equal 'two: the host is as before'

begin 'damaged'
sed -i '1a {"clai' $J
refuses 'damaged: status says so' pin-hook status
check 'damaged: by its line' has "$work/refused" 'is damaged: line 2'
qm stop 100 > "$work/stop" 2>&1
check 'damaged: the stop says where the line is kept' has "$work/stop" 'kept as /run/pin-hook/damaged-1'
equal 'damaged: there it is' '{"clai' "$(cat /run/pin-hook/damaged-1)"
rm /run/pin-hook/damaged-1
capture_after_equal 'damaged, the vm stopped: the host is as before'

rm -rf /run/pin-hook
(umask 0777; pin-hook 100 pre-start) > "$work/out" 2>&1
equal 'umask 0777: the modes are those that are meant' '700 600 600 600' \
    "$(stat -c %a /run/pin-hook $J $J.spare /run/pin-hook/lock | paste -sd' ')"
check 'umask 0777: release --all gets in' released --all

for kind in 'ln -s /dev/zero' 'truncate -s 1T' mkfifo; do
    rm /etc/pin-hook/100.toml
    $kind /etc/pin-hook/100.toml
    refuses "$kind: is refused" timeout 20 pin-hook plan 100
    check "$kind: with the reason" grep -qE 'it is not a regular file|it has more than 65536 bytes' "$work/refused"
done
rm /etc/pin-hook/100.toml
table 100 'cpus = "2-5"'

hooked_vm 100 'cpus = "2-5"'
qm start 100 > /dev/null
comes_to 'limits: the vm owns its cpus' "$isolated" 100
table 100 'cpus = "2-5"' '[isolate]' 'irqs = false'
for limit in --nofile=4 --nofile=8 --nofile=16 --as=20000000 --as=60000000; do
    status=0
    timeout 60 prlimit "$limit" pin-hook apply 100 > "$work/limit" 2>&1 || status=$?
    echo "# apply under $limit: $status: $(tail -n 2 "$work/limit" | paste -sd'|')"
    check "limits: apply under $limit comes to an end" [ $status -ne 124 ]
done
check 'limits: apply without one does it' pin-hook apply 100
comes_to 'limits: and the vm owns its cpus' "$isolated" 100
qm stop 100 > /dev/null
capture_after_equal 'the host is as before'
