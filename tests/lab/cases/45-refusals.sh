# kernels: backports
# A start that cannot be done well is refused before anything is changed, in two lines.
. /usr/lib/lab/lib.sh

unit=/etc/systemd/system/pinned.service
foreign=$cg/foreign

# Who is not root, or is root without the capability that it takes.
user() { setpriv --reuid=1000 --regid=1000 --clear-groups -- "$@"; }
crippled() { setpriv --bounding-set=-sys_nice -- "$@"; }

case_cleanup() {
    echo 1 > /sys/devices/system/cpu/cpu5/online
    rm -f $unit
    rm -rf /etc/pin-hook/host.toml /usr/libexec/pin-hook
    [ ! -e $foreign ] || { echo member > $foreign/cpuset.cpus.partition; rmdir $foreign; }
}

# refused TEXT WORDS...: pre-start of VM 100 exits 1, says these words, and changes nothing.
refused() {
    local text=$1 status=0 word
    shift
    snapshot "$work/then"
    pin-hook 100 pre-start > "$work/refused" 2>&1 || status=$?
    snapshot "$work/now"
    equal "$text: exit status" 1 $status
    for word in "$@"; do check "$text: says \"$word\"" has "$work/refused" "$word"; done
    equal "$text: one error and one help" 'error: help:' \
        "$(sed -n 's/^pin-hook: \(error:\|help:\).*/\1/p' "$work/refused" | paste -sd' ')"
    check "$text: changes nothing" cmp "$work/then" "$work/now"
}

# everything FILE: also what pin-hook writes for itself, with the time of each change.
everything() {
    snapshot "$1"
    find /etc/pve /etc/pin-hook /etc/systemd/system /run/systemd/system /run/pin-hook /run/qemu-server /var/lib/pin-hook \
        /var/lib/vz -printf '%p %s %T@\n' 2> /dev/null | sort >> "$1"
}

# needs_more WHO LACK HELP COMMAND...: exits 1 with one error and one help, and changes nothing.
needs_more() {
    local who=$1 lack=$2 help=$3 status=0
    shift 3
    everything "$work/then"
    "$who" "$@" > "$work/refused" 2>&1 || status=$?
    everything "$work/now"
    equal "$who, $*: exit status" 1 $status
    equal "$who, $*: one error and one help" \
        "pin-hook: error: $lack
pin-hook: help: $help" "$(cat "$work/refused")"
    check "$who, $*: changes nothing" cmp "$work/then" "$work/now"
}

hooked_vm 101 'cpus = "2-3"'
sed -i 's/^cores: 4/cores: 2/' "$(conf_path 101)"
hooked_vm 100 'cpus = "2-5"'
capture_before
qm start 101 > /dev/null
refused overlap 'cpus 2-3 are claimed by vm 101' 'stop vm 101'
refuses 'qm start fails with it' qm start 100
check 'in PVE'\''s words' has "$work/refused" 'hookscript error for 100 on pre-start'
vm_conf 107 'affinity: 2-3'
refuses 'a VM with an affinity in the VM'\''s CPUs cannot start' qm start 107
check 'because of taskset' has "$work/refused" 'Invalid argument'
qm stop 101 > /dev/null

refused 'a starved guest' 'vm 107 is limited to cpus 2-3' 'qm set 107 --affinity'
rm "$(conf_path 107)"
printf '[Service]\nCPUAffinity=3\nExecStart=/bin/true\n' > $unit
refused 'a starved unit' 'unit pinned.service is limited to cpu 3'
rm $unit

echo +cpuset > $cg/cgroup.subtree_control
mkdir $foreign
echo 4-5 > $foreign/cpuset.cpus
echo 4-5 > $foreign/cpuset.cpus.exclusive
echo root > $foreign/cpuset.cpus.partition
refused 'a foreign partition' 'cpus 4-5 are in the cpuset partition of cgroup' foreign
echo member > $foreign/cpuset.cpus.partition
rmdir $foreign
echo -cpuset > $cg/cgroup.subtree_control

table 100 'cpus = "2-4,12"'
refused 'an absent CPU' 'the host has no cpu 12'
table 100 'cpus = "2-5"'
echo 0 > /sys/devices/system/cpu/cpu5/online
refused 'an offline CPU' 'cpu 5 is offline'
echo 1 > /sys/devices/system/cpu/cpu5/online
table 100 'cpus = "0-7"'
refused 'too little left' 'no cpu would be left for the host'
table 100 'cpus = "2-5"' 'colour = "blue"'
refused 'a broken table' '/etc/pin-hook/100.toml:2:1'

overlap='cpus 2-5 are reserved for a start of vm 101'
table 101 'cpus = "2-5"'
vm_conf 101 "$hooked"
pin-hook 101 pre-start > /dev/null
for policy in auto abort warn; do
    table 100 'cpus = "2-5"' '[start]' "on-refusal = \"$policy\""
    for caller in from_login at_boot; do
        status=0
        $caller pin-hook 100 pre-start > "$work/out" 2>&1 || status=$?
        expected=1
        case $policy-$caller in warn-* | auto-at_boot) expected=0 ;; esac
        equal "on-refusal = \"$policy\", $caller" $expected $status
        check 'it says why' has "$work/out" "$overlap"
        [ $expected = 1 ] || check 'as a warning' has "$work/out" 'it starts without cpus of its own'
    done
done
released 101
capture_after_equal 'the host is as before'

# PVE notifies an admin of a refused start: systemd runs the program for that with every word as it was.
notify=/usr/libexec/pin-hook/notify
rm -rf /run/pin-hook/notified "$work/notified"
mkdir -p ${notify%/*}
printf '#!/bin/sh\nprintf "%%s\\n" "$@" > %s.new && mv %s.new %s\n' "$work/notified" "$work/notified" "$work/notified" > $notify
chmod 755 $notify
table 100 'cpus = "$HOME"'
status=0
pin-hook 100 pre-start > "$work/out" 2>&1 || status=$?
equal 'a refused start without the setting' '1 ' "$status $(systemctl list-units --all --plain --no-legend 'pin-hook-notify-*')"
echo 'notify = true' > /etc/pin-hook/host.toml
pin-hook 100 pre-start > "$work/out" 2>&1 || status=$?
check 'with it PVE notifies an admin' wait_until 30 'notified' test -e "$work/notified"
equal 'of the VM' 'error 100 vm 100 was not started' "$(sed 3q "$work/notified" | paste -sd' ')"
check 'and of why, dollar signs and all' has "$work/notified" '$HOME'
rm -rf /etc/pin-hook/host.toml ${notify%/*} /run/pin-hook/notified

# Without privileges: what changes says which one is missing; what only looks works as far as it can.
table 101 'cpus = "2-3"'
table 100 'cpus = "4-5"'
sed -i 's/^cores: 4/cores: 2/' "$(conf_path 100)" "$(conf_path 101)"
qm start 101 > /dev/null
as_root='run it as root'
for command in '100 pre-start' '101 post-start' '101 post-stop' 'apply 101' 'release 101' 'release --all' 'enable 100' \
    'disable 101' 'init 100 --write --force' reconcile boot; do
    # shellcheck disable=SC2086
    needs_more user 'only root can do this' "$as_root" pin-hook $command
done
needs_more crippled "missing capability CAP_SYS_NICE: cannot set the affinity of other users' tasks" \
    'allow CAP_SYS_NICE in whatever starts pin-hook (systemd: CapabilityBoundingSet=)' pin-hook apply 101
# shown COMMAND...: what it prints is in $work/shown.
shown() { "$@" > "$work/shown" 2>&1 || { cat "$work/shown"; return 1; }; }
check 'a user is shown a plan' shown user pin-hook plan 100
check 'with the CPUs' has "$work/shown" 'cpus 4-5'
check 'and with what is left out of it' has "$work/shown" 'claims of other vms are left out: only root can read /run/pin-hook'
# /run/qemu-server is for root and www-data, as PVE has it.
check 'and that nobody could see whether it runs' has "$work/shown" 'assuming that vm 100 is not running: cannot tell'
check 'a user is shown the tables' user pin-hook list
check 'and what enabling would do' user pin-hook enable --dry-run 100
refuses 'what VMs own is shown to root only' user pin-hook status
equal 'which is said' 'pin-hook: error: only root can read /run/pin-hook
pin-hook: help: run it as root' "$(cat "$work/refused")"
# As PVE's cluster file system has it: configs are for root and www-data.
chmod 640 "$(conf_path 100)"
refuses 'a config that a user cannot read is an error' user pin-hook plan 100
check 'with its path' has "$work/refused" "cannot read /etc/pve/nodes/pve1/qemu-server/100.conf: Permission denied"
check 'and the remedy' has "$work/refused" 'help: run it as root'
tree=$work/tree
mkdir -p "$tree/etc/pve/nodes/pve1/qemu-server" "$tree/etc/pin-hook" "$tree/sys/devices/system/cpu"
cp /sys/devices/system/cpu/possible "$tree/sys/devices/system/cpu/"
echo pve1 > "$tree/etc/hostname"
cp /etc/pin-hook/100.toml "$tree/etc/pin-hook/"
cat "$(conf_path 100)" > "$tree/etc/pve/nodes/pve1/qemu-server/100.conf"
chmod -R a+rX "$work"
check 'a user looks at a captured host' shown user pin-hook --root "$tree" list
check 'and is shown its table' has "$work/shown" 4-5
qm stop 101 > /dev/null
capture_after_equal 'the host is as before, still'
