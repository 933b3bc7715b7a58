# kernels: stable
# A host and a VM broken in more than ten ways: check finds each, the command that it prints fixes it, and
# nothing else is changed by that.
. /usr/lib/lab/lib.sh

units=/etc/systemd/system
thp=/sys/kernel/mm/transparent_hugepage/enabled
was=$(sed 's/.*\[\(.*\)\].*/\1/' $thp)

case_cleanup() {
    for name in irqbalance numad tuned; do
        systemctl disable --now $name > /dev/null 2>&1 || true
        rm -f $units/$name.service
    done
    systemctl daemon-reload
    systemctl enable pin-hook-boot.service > /dev/null 2>&1
    echo "$was" > $thp
    # What enable saves; disable would take the lab's snippet along.
    rm -rf /var/lib/pin-hook
    echo 1 > /sys/devices/system/cpu/cpu3/online
    ip link del vmbr7 > /dev/null 2>&1 || true
}

# service NAME: one of that name runs, and starts at boot.
service() {
    printf '[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' > "$units/$1.service"
    systemctl enable --now "$1" > /dev/null 2>&1
}

# findings: what is found, each with its check: "100 cpu-type" or "host irqbalance".
findings() {
    pin-hook check --json > "$work/json" || true
    jq -r '.patients[] | (.vmid // "host") as $who | .results[] |
        select(.outcome | IN("notice", "warning", "failure")) | "\($who) \(.id)"' "$work/json" | sort -u
}

# fix WHO ID: what the check says to type.
fix() {
    jq -r --arg who "$1" --arg id "$2" '.patients[] | select(((.vmid // "host") | tostring) == $who) | .results[] |
        select(.id == $id and .fix) | .fix' "$work/json" | head -n 1
}

# fixed WHO ID COMMAND...: the command breaks it; check finds that, says what fixes it, and that does.
fixed() {
    local who=$1 id=$2 status=0 fix
    shift 2
    findings > "$work/found-before"
    "$@"
    findings > "$work/found"
    equal "$id: is found, and nothing else" "$who $id" "$(comm -13 "$work/found-before" "$work/found")"
    fix=$(fix "$who" "$id")
    echo "#   $id: $fix"
    bash -c "$fix" > "$work/fix" 2>&1 || status=$?
    equal "$id: what is printed can be typed" 0 $status
    findings > "$work/found-after"
    check "$id: it is gone, and nothing is new" cmp "$work/found-before" "$work/found-after"
}

vm_conf 100 "$hooked" 'cpu: host' 'scsihw: virtio-scsi-single' 'scsi0: local:vm-100-disk-0,iothread=1' \
    'args: -smp 4,cores=2,threads=2 -global host-x86_64-cpu.topoext=on'
table 100 'cpus = "4-7"'
pin-hook boot > /dev/null
systemctl enable pin-hook-boot.service > /dev/null 2>&1
findings > "$work/first"
echo '# found before anything is broken:'
said "$work/first"
check 'nothing that is well is a finding above a notice' pin-hook check --quiet 100

capture_before
fixed host irqbalance service irqbalance
fixed host numad service numad
fixed host tuned service tuned
fixed host boot-unit systemctl disable pin-hook-boot.service
fixed host transparent-hugepages eval 'echo never > $thp'
fixed 100 cpu-type sed -i 's/^cpu: host/cpu: x86-64-v3/' "$(conf_path 100)"
fixed 100 cpu-flags sed -i 's/^cpu: host/cpu: host,flags=+aes/' "$(conf_path 100)"
fixed 100 cpu-limit eval 'echo "cpulimit: 2" >> "$(conf_path 100)"'
fixed 100 affinity eval 'echo "affinity: 0-7" >> "$(conf_path 100)"'
fixed 100 kvm eval 'echo "kvm: 0" >> "$(conf_path 100)"'
fixed 100 scsi-controller sed -i '/^scsihw/d' "$(conf_path 100)"
ip link add vmbr7 type bridge
fixed 100 net-bridge eval 'echo "net0: virtio,bridge=vmbr7,mtu=9000" >> "$(conf_path 100)"'
ip link del vmbr7
sed -i '/^net0/d' "$(conf_path 100)"
fixed 100 hookscript qm set 100 --delete hookscript
fixed 100 table rm /etc/pin-hook/100.toml
table 100 'cpus = "4-7"'
rm -f $units/{irqbalance,numad,tuned}.service
systemctl daemon-reload
echo "$was" > $thp
capture_after_equal 'nothing else was changed'

# The log is the kernel's own, and what somebody else writes into it is none of its messages.
outcome() {
    pin-hook check --json | jq -r '.patients[0].results[] | select(.id == "iommu-faults") | .outcome'
}
equal 'the log of the kernel is read' passed "$(outcome || true)"
echo '<3>DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0x1000' > /dev/kmsg
check 'the forged message is in the log' eval 'dmesg | grep -q "fault addr 0x1000"'
equal 'it accuses nobody' passed "$(outcome || true)"

# A CPU that comes back is no longer what it was for interrupts and kernel threads.
fixed host cpus-online eval 'echo 0 > /sys/devices/system/cpu/cpu3/online'

# What reads only changes nothing, whoever reads.
snapshot "$work/then"
pin-hook check -v > "$work/all" 2>&1 || true
setpriv --reuid=1000 --regid=1000 --clear-groups -- pin-hook check > "$work/user" 2>&1 && status=0 || status=$?
snapshot "$work/now"
check 'it only reads' cmp "$work/then" "$work/now"
check 'who is not root is answered as well' has "$work/user" ' checks: '
said "$work/all"
