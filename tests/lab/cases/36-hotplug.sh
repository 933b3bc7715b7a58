# kernels: backports
# CPUs are taken offline and back before they are isolated. Whatever kills that, they come back; a
# write that the kernel never ends costs a deadline, not the phase.
. /usr/lib/lab/lib.sh

isolated='isolated 2-5: 2 3 4 5'
cpus=/sys/devices/system/cpu
scrub=pin-hook-write-scrub.service

all_online() { [ "$(< $cpus/online)" = 0-7 ]; }
went_offline() { dmesg | sed -n 's/.*smpboot: CPU \([0-9]*\) is now offline.*/\1/p' | sort -n | paste -sd' '; }
let_go() {
    check "$1: release" released 100
    comes_to "$1: the VM is let go" 'none: 0-7 0-7 0-7 0-7' 100
}

# An interrupt of one CPU, and settings of a CPU: what hotplug could reset.
irq=$(sed -n 's/^ *\([0-9]*\):.*ahci.*/\1/p' /proc/interrupts | head -n 1)
latency=$cpus/cpu3/power/pm_qos_resume_latency_us
policy=$cpus/cpufreq/policy3
governor=$(< $policy/scaling_governor) mask=$(< "/proc/irq/$irq/smp_affinity_list") frozen=''
case_cleanup() {
    echo 1 > $cpus/cpu3/online
    [ -z "$frozen" ] || fsfreeze -u "$frozen" || true
    umount $cpus/cpu4/online || true
    [ -z "$frozen" ] || umount "$frozen" || true
    echo "$governor" > $policy/scaling_governor
    echo "$mask" > "/proc/irq/$irq/smp_affinity_list"
    echo 0 > $latency
} 2> /dev/null
echo powersave > $policy/scaling_governor
echo 3 > "/proc/irq/$irq/smp_affinity_list"
echo 20 > $latency

hooked_vm 100 'cpus = "2-5"' '[isolate]' 'hotplug = true'
capture_before
dmesg -C
qm start 100 > "$work/start" 2>&1
said "$work/start"
comes_to 'the VM is isolated' "$isolated" 100
equal 'each of its CPUs went offline once' '2 3 4 5' "$(went_offline)"
equal 'all are back' 0-7 "$(< $cpus/online)"
qm stop 100 > /dev/null
capture_after_equal 'the host is as before'

# Kills the child that takes CPUs offline, and who waits for it, as soon as a CPU is on its way; no program is
# started meanwhile, it would come too late.
kill_when_offline() {
    local online=0-7 pid='' end=$((SECONDS + 60))
    while [ "$online" = 0-7 ] && [ $SECONDS -lt $end ]; do
        read -r online < $cpus/online
        read -r pid < $cg/system.slice/$scrub/cgroup.procs || pid=''
    done 2> /dev/null
    kill -KILL "$pid" "$1"
    read -r online < $cpus/online
    echo "$online"
}
modprobe loop
vm_conf 100
capture_before
cp "$work/before" "$work/without"
qm start 100 > /dev/null
capture_before
for _ in 1 2 3 4 5; do
    pin-hook apply 100 > "$work/killed" 2>&1 &
    hook=$!
    left=$(kill_when_offline $hook)
    wait $hook 2> /dev/null || true
    [ "$left" = 0-7 ] || break
    released 100 # the CPU was on its way back
done
check "killed as the first CPU goes: it stays away ($left)" test "$left" != 0-7
check 'killed as the first CPU goes: it comes back' wait_until 60 'all CPUs are online' all_online
comes_to 'killed as the first CPU goes: the units isolate the VM' "$isolated" 100
let_go 'killed as the first CPU goes'
capture_after_equal 'killed as the first CPU goes: the host is as before, with the VM running'

# A file system that is frozen lets no write come to an end, and no signal end the writer: CPU 4 has
# its switch there.
frozen=$work/frozen
mkdir "$frozen"
truncate -s 16M "$work/disk"
busybox mke2fs -F "$work/disk" > /dev/null
mount -t ext4 -o loop "$work/disk" "$frozen"
echo 1 > "$frozen/online"
freeze() {
    mount --bind "$frozen/online" $cpus/cpu4/online
    sync
    fsfreeze -f "$frozen"
}
unit_gone() { ! systemctl is-active --quiet $scrub && [ -z "$(child)" ]; }
thaw() {
    fsfreeze -u "$frozen"
    check "$1" wait_until 30 'the unit is gone' unit_gone
    umount $cpus/cpu4/online
}
# phase_ends PHASE: with a pipe as PVE gives it one, which the child must not keep open.
phase_ends() {
    local begin=$EPOCHREALTIME ms
    { pin-hook 100 "$1" 2>&1 || echo "exit status $?"; } | cat > "$work/hung"
    ms=$(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))
    check "a write that never ends: $1 ends, after $ms ms" lacks "$work/hung" 'exit status'
    check "$1 ends in time" test $ms -lt 15000
    refuses "no process of $1 is left" pgrep -f "pin-hook 100 $1"
}
child() { pgrep -f 'pin-hook write scrub'; }
child_sleeps() { [ "$(ps -o stat= -p "$(child)" | cut -c1)" = D ]; }

capture_before
freeze
pin-hook apply 100 > "$work/killed" 2>&1 &
hook=$!
check 'the child sleeps in the kernel' wait_until 30 'it sleeps' child_sleeps
echo 0 > $cpus/cpu3/online # as if it was killed between its two writes
{ kill -KILL $hook && wait $hook; } 2> /dev/null || true
systemctl kill --signal=KILL $scrub || said "$work/killed"
thaw 'killed in the middle: the child ends when the kernel lets go of it'
check 'killed in the middle: the CPU comes back' wait_until 60 'all CPUs are online' all_online
comes_to 'killed in the middle: the units isolate the VM' "$isolated" 100
let_go 'killed in the middle'

freeze
dmesg -C
bash -c 'pin-hook 100 pre-start; true' > /dev/null
phase_ends post-start
check 'it names the unit' has "$work/hung" "the kernel does not respond, $scrub waits for it"
said "$work/hung"
check 'the child still sleeps' child_sleeps
check 'the units isolate the VM nevertheless' wait_until 90 'isolated' stands 100 "$isolated"
qm stop 100 > /dev/null
phase_ends post-stop
check 'and the child still sleeps' child_sleeps
thaw 'the child ends when the kernel lets go of it'
equal 'and has taken no CPU offline any more' '2 3' "$(went_offline)"
umount "$frozen"
frozen=''
rmdir "$work/frozen"
cp "$work/without" "$work/before"
capture_after_equal 'the host is as before'
