# kernels: none
# It mostly waits: it shares the machine of 39-probe, which runs beside the others.
# boot: lab.slow-disk
# A VM makes room for another one: shut down before its start, started again after its end.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'
owed() { grep -q '"debt"' /run/pin-hook/journal; }
settled() { ! owed 2> /dev/null; }
new_107() { qemu_alive 107 && [ "$(qemu_pid 107)" != "$first" ]; }

# back TEXT: VM 107 is started again by the units, with its CPUs; a busy machine takes its time.
back() {
    wait_until 180 "$1" new_107 && ok "$1"
    comes_to 'with its CPUs' "$isolated" 107
    first=$(qemu_pid 107)
}

start_100() {
    qm start 100 > "$work/start" 2>&1 || { not_ok 'vm 100 starts'; said "$work/start"; }
    comes_to "$1" "$isolated" 100
    check 'vm 107 is gone' gone 107
}

hooked_vm 100 'cpus = "2-5"' 'yield.stop = [107]'
hooked_vm 107 'cpus = "2-5"'
capture_before

qm start 107 > /dev/null 2>&1
comes_to 'vm 107 has the CPUs' "$isolated" 107
first=$(qemu_pid 107)
pin-hook plan 100 > "$work/plan" 2>&1
check 'the plan says who makes room' has "$work/plan" 'vm 107 is shut down first (within 1min) and started again'
equal 'and shuts nothing down' "$first" "$(qemu_pid 107)"
start_100 'vm 100 has the CPUs of vm 107, both hooked'
check 'the task says so' has "$work/start" 'vm 107 is being shut down, and will be started again when vm 100 has stopped'
pin-hook status > "$work/status" 2>&1
check 'the status as well' has "$work/status" 'vm 107 made room for vm 100 and will be started again afterwards'

running_100=$(qemu_pid 100)
rebooted() { qemu_alive 100 && [ "$(qemu_pid 100)" != "$running_100" ] && stands 100 "$isolated"; }
qm reboot 100 > /dev/null 2>&1
check 'after qm reboot vm 100 has its CPUs again' wait_until 90 'a new QEMU is isolated' rebooted
check 'and vm 107 was not started in between' gone 107
check 'it is still owed' owed
qm stop 100 > "$work/stop" 2>&1
check 'the stop says what comes' has "$work/stop" 'vm 107 made room and will be started again in'
back 'vm 107 runs again after the stop'
check 'nothing is owed any more' settled

start_100 'vm 100 starts again'
qm kill9 100
back 'vm 107 runs again after kill -9 of vm 100'

# A paused guest does not hear that it is to power off.
table 100 'cpus = "2-5"' 'yield.stop = [107]' 'yield.timeout = "3s"'
qmp 107 stop > /dev/null
refuses 'a VM that stays refuses the start' qm start 100
check 'the refusal names it and the time' has "$work/refused" 'vm 107 has to make room, but did not shut down within 3s'
check 'and says what to do' has "$work/refused" 'qm stop 107'
# From pre-stop on its partition on Linux 7 is one of type root, in case it does end.
comes_to 'vm 107 keeps its CPUs, isolated again once nobody stops it any more' "$isolated" 107
qmp 107 cont > /dev/null
back 'vm 107 powers off too late, and is started again'

table 100 'cpus = "2-5"' 'yield.stop = [107]'
start_100 'vm 100 starts once more'
qm stop 100 > /dev/null 2>&1
qm start 107 > /dev/null 2>&1
comes_to 'somebody starts vm 107 before it is time' "$isolated" 107
check 'that cancels what is owed' wait_until 60 'nothing is owed' settled

table 107 'cpus = "2-5"' 'yield.stop = [100]'
refuses 'two VMs that would shut each other down are an error' qm start 100
check 'which names both tables' has "$work/refused" \
    '/etc/pin-hook/100.toml: yield.stop: vm 107 would shut down vm 100 in turn (/etc/pin-hook/107.toml)'
table 107 'cpus = "2-5"'

qm stop 107 > /dev/null 2>&1
start_100 'vm 107 does not run: vm 100 just starts'
check 'and nothing is owed' settled
qm stop 100 > /dev/null 2>&1
capture_after_equal 'the host is as before' 60
check 'vm 107 stays off' gone 107
