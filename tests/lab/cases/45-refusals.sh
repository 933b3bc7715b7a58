# A start that cannot be done well is refused before anything is changed, in two lines.
. /usr/lib/lab/lib.sh

unit=/etc/systemd/system/pinned.service
foreign=$cg/foreign

case_cleanup() {
    echo 1 > /sys/devices/system/cpu/cpu5/online
    rm -f $unit
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

refused 'a starved guest' 'vm 107 may run on cpus 2-3 only' 'qm set 107 --affinity'
rm "$(conf_path 107)"
printf '[Service]\nCPUAffinity=3\nExecStart=/bin/true\n' > $unit
refused 'a starved unit' 'unit pinned.service may run on cpu 3 only'
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

overlap='cpus 2-5 are claimed by vm 101'
table 101 'cpus = "2-5"'
vm_conf 101 'hookscript: local:snippets/pin-hook'
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
pin-hook release 101 > /dev/null
capture_after_equal 'the host is as before'
