# kernels: none
# What a guest with Linux shows in /proc/stat as steal is what measure says was taken from it.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/measuring.sh

asked=0

# The whole guest: it keeps its CPU busy, and answers each line with the first one of /proc/stat.
guest_init() {
    cat <<'END'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
/bin/busybox stty -echo -onlcr
while :; do :; done &
echo ready
while read -r asked; do
    read -r line < /proc/stat
    echo "$asked $line"
done
END
}
guest_initrd() {
    local tree=$work/tree
    mkdir -p "$tree"/{bin,dev,proc}
    cp "$(command -v busybox)" "$tree/bin/"
    guest_init > "$tree/init"
    chmod 755 "$tree/init"
    (cd "$tree" && find . | busybox cpio -o -H newc > "$work/initrd" 2> /dev/null)
}

# What the monitor is asked wakes the guest up where the emulation has lost one of its interrupts.
wake() { qmp 100 human-monitor-command '{"command-line": "info registers"}' > /dev/null; }
# ask_linux: sets stolen, in ns; /proc/stat has hundredths of a second. An answer begins with what was asked: one that
# comes late is not the next one's.
ask_linux() {
    local line n
    asked=$((asked + 1))
    for n in {1..20}; do
        echo $asked > "$work/serial.in"
        wake
        while read -rt 1 line <&8; do
            read -ra line <<< "$line"
            [ "${line[*]:0:2}" = "$asked cpu" ] || continue
            stolen=$((line[9] * 10000000))
            return
        done
    done
    return 1
}

# A program that comes before all others, in the middle of the measured time: so it does not matter when exactly the
# guest is asked.
rob() { timeout -s KILL 4 chrt -f 1 taskset -c 5 busybox sh -c 'while :; do :; done' || true; }
robbed() {
    ask_linux
    before=$stolen
    rob
    ask_linux
}

modprobe kvm_amd
serial_port
guest_initrd
# KVM's emulated clocks need a TSC that is better than that of this CPU, and its emulation loses interrupts: so the guest
# takes the clock of the board, and a timer that comes again by itself.
clocks='no-kvmclock clocksource=hpet lapic=notscdeadline highres=off nohz=off no_timer_check'
kernel="-kernel /boot/vmlinuz-$(uname -r) -initrd $work/initrd -append 'console=ttyS0 quiet mitigations=off $clocks'"
vm_conf 100 "$hooked" 'cores: 1' 'kvm: 1' 'affinity: 5' \
    "args: -cpu host,-x2apic,-kvm-pv-eoi -bios bios-256k.bin -m 256 $kernel -serial pipe:$work/serial"
qm start 100 > /dev/null 2>&1
# Nobody talks to it before: an interrupt at the wrong moment of its boot hangs this emulation.
booted() { read -rt 1 line <&8 && [[ $line = *ready* ]]; }
wait_until 200 'linux has booted in the guest' booted
# Only the vCPU stays there: what else QEMU does to answer takes nothing from the guest then.
for tid in $(other_tids 100); do taskset -pc 0-3 "$tid"; done > /dev/null

during robbed
stolen=$((stolen - before))
traced=$(jq .waited_ns "$work/json") counted=$(jq .steal_ns "$work/json")
echo "#   /proc/stat of the guest has $stolen ns more of steal, measure $traced in its trace, and $counted by the scheduler's count"
check 'there is steal to compare with' test "$stolen" -gt 1000000000
check "what was taken is what the guest's /proc/stat has as steal, within 5 %" near "$traced" "$stolen"
check 'and so is what the scheduler has counted' near "$counted" "$stolen"
check 'no trace is left' no_trace
