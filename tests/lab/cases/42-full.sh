# kernels: none
# A /run/pin-hook that is full: nothing is taken that could not be given back, and everything is given back.
. /usr/lib/lab/lib.sh
isolated='isolated 2-5: 2 3 4 5'
D=/run/pin-hook

case_cleanup() { rm -f $D/filler; umount $D 2> /dev/null || true; }

# fill KIB: leaves so many free.
fill() {
    rm -f $D/filler
    local free
    free=$(df --output=avail -k $D | tail -n 1)
    [ "$free" -le "$1" ] || fallocate -l $((free - $1))K $D/filler
}

hooked_vm 100 'cpus = "2-5"'
capture_before
pin-hook release --all > /dev/null
mount -t tmpfs -o size=1M,mode=700 tmpfs $D
for free in 0 4 16 40; do
    fill $free
    refuses "$free KiB free: a start is refused" qm start 100
    check "$free KiB free: it says why" has "$work/refused" 'needed to record how to restore the host'
done
rm $D/filler
qm start 100 > "$work/start"
comes_to 'with room the vm owns its cpus' "$isolated" 100
qm stop 100 > /dev/null

for free in 0 8 40; do
    qm start 100 > "$work/start"
    comes_to "$free KiB free while it runs: it owns its cpus" "$isolated" 100
    fill $free
    check "$free KiB free: reconcile" pin-hook reconcile
    qm stop 100 > "$work/stop" 2>&1
    # By the stop or by the units, which see the VM go as well: what counts is the host.
    equal "$free KiB free: the host is given back" 'vm 100 owns no cpus, isolated: ' \
        "$(pin-hook status 100), isolated: $(cat $cg/cpuset.cpus.isolated)"
    check "$free KiB free: without an error" lacks "$work/stop" error
    rm $D/filler
done
qm start 100 > /dev/null
comes_to 'released: the vm owns its cpus' "$isolated" 100
check 'released: let go' released 100
fill 8
refuses '8 KiB free: apply is refused' pin-hook apply 100
equal '8 KiB free: and nothing is pinned' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)"
rm $D/filler
qm stop 100 > /dev/null
umount $D
capture_after_equal 'the host is as before' 60
