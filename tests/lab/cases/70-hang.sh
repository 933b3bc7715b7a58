# kernels: backports
# A journald, bus or monitor that hangs costs its deadline, not the start; the units do what is left.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'

case_cleanup() {
    pkill -CONT -x systemd-journal
    pkill -CONT -x dbus-daemon
    [ -z "${client:-}" ] || kill "$client" 2> /dev/null
    [ -z "${locker:-}" ] || kill "$locker" 2> /dev/null
}

let_go() {
    released 100
    comes_to 'the VM is let go' 'none: 0-7 0-7 0-7 0-7' 100
}

# bus_hangs TEXT STANDING
bus_hangs() {
    bash -c 'pin-hook 100 pre-start; true' > /dev/null
    pkill -STOP -x dbus-daemon
    in_time "$1" 20 pin-hook 100 post-start
    pkill -CONT -x dbus-daemon
    check "$1: the units do what is left" wait_until 60 'it stands' stands 100 "$2"
    let_go
}

hooked_vm 100 'cpus = "2-5"'
capture_before
pkill -STOP -x systemd-journal
in_time 'start with a journald that hangs' 40 command qm start 100
equal 'the VM is isolated' "$isolated" "$(standing 100)"
pkill -CONT -x systemd-journal
let_go

bus_hangs 'post-start with a bus that hangs' "$isolated"
table 100 'cpus = "2-5"' '[isolate]' 'backend = "slices"'
bus_hangs 'post-start by slices with a bus that hangs' 'none: 2 3 4 5'
table 100 'cpus = "2-5"'

bash -c 'pin-hook 100 pre-start; true' > /dev/null
socat -u UNIX-CONNECT:/run/qemu-server/100.qmp "CREATE:$work/client" &
client=$!
wait_until 10 'the client has the monitor' test -s "$work/client"
in_time 'post-start with a monitor that hangs' 20 pin-hook 100 post-start
check 'it says so' has "$work/in-time" 'its monitor (qmp) does not respond, assuming that it runs'
equal 'the VM is isolated' "$isolated" "$(standing 100)"
let_go

# All of them at once: what each may take does not add up.
bash -c 'pin-hook 100 pre-start; true' > /dev/null
perl -MFcntl=:flock -e 'open my $f, ">>", "/run/pin-hook/lock"; flock $f, LOCK_EX; print "held\n"; close STDOUT; sleep 600' \
    > "$work/locker" &
locker=$!
wait_until 20 'another process has the lock' test -s "$work/locker"
pkill -STOP -x dbus-daemon
in_time 'post-start with bus, monitor and lock at once' 10 pin-hook 100 post-start
pkill -CONT -x dbus-daemon
kill -STOP $locker
pin-hook reconcile > "$work/kept-off" 2>&1 && status=0 || status=$?
equal 'a reconcile that is kept off is no success' 3 $status
check 'it names the process that is stopped' has "$work/kept-off" "process $locker (perl) is stopped and holds /run/pin-hook/lock"
check 'and how it goes on' has "$work/kept-off" "kill -CONT $locker lets it go on"
pin-hook apply 100 > "$work/kept-off" 2>&1 && status=0 || status=$?
equal 'nor is an apply' 3 $status
check 'which does not say that reconcile goes on by itself' has "$work/kept-off" "kill -CONT $locker lets it go on"
kill -CONT $locker
kill $locker $client
check 'bus, monitor and lock at once: the units do what is left' wait_until 60 'it stands' stands 100 "$isolated"
qm stop 100 > /dev/null
capture_after_equal 'the host is as before'
