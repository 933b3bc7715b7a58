# kernels: stable
# Where a guest's memory comes from: NUMA nodes for the scope, hugepages for the start, and pages that
# KSM has merged.
. /usr/lib/lab/lib.sh

pool() { cat "/sys/devices/system/node/node$1/hugepages/hugepages-2048kB/$2_hugepages"; }
pools() { echo "$(pool 0 "$1") $(pool 1 "$1")"; }
are_pools() { [ "$(pools nr)" = "$1" ]; }
# private_on ID NODE: the mappings of QEMU without a file that have pages on a node.
private_on() { grep -v ' file=' "/proc/$(qemu_pid "$1")/numa_maps" | grep "anon=.* N$2=" || true; }
units_of() { journalctl -q -b --output=cat "_SYSTEMD_UNIT=$1" UNIT="$1" + UNIT="$1"; }

drop_in=/run/systemd/system/100.scope.d/50-pin-hook-memory.conf
ksm=/sys/kernel/mm/ksm/run
case_cleanup() {
    echo 0 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
    echo 0 > $ksm
}

hooked_vm 100 'cpus = "4-7"' '[memory]' 'nodes = "auto"' '[host]' 'ksm = "unmerge"'
capture_before
qm start 100 > "$work/start" 2>&1
said "$work/start"
comes_to 'the VM is isolated' 'isolated 4-7: 4 5 6 7' 100
equal 'its scope has the node of its CPUs' 1 "$(scope 100 cpuset.mems.effective)"
equal 'nothing of QEMU is on the other node' '' "$(private_on 100 0)"
check 'it is on its own' [ -n "$(private_on 100 1)" ]
equal 'merged pages are taken apart' 2 "$(< $ksm)"
qm stop 100 > /dev/null
capture_after_equal 'stopped: the host is as before'

qm start 100 > "$work/start" 2>&1
said "$work/start"
kill -STOP "$(qemu_pid 100)" # what it takes later may come from any node
check 'release' released 100
check 'released: the drop-in is gone' [ ! -e $drop_in ]
equal 'released: the memory stays where it is' '' "$(private_on 100 0)"
kill -CONT "$(qemu_pid 100)"
released=$(scope 100 cpuset.mems)
equal 'released: all nodes may serve again' 0-1 "${released:-0-1}"
qm stop 100 > /dev/null
capture_after_equal 'released and stopped: the host is as before'

# PVE leaves its lock file behind.
touch /var/lock/hugepages.lck
# 64 MiB are 32 pages of node 0.
vm_conf 100 "$hooked" 'numa: 1' 'hugepages: 2'
sed -i 's/^memory: .*/memory: 64/' "$(conf_path 100)"
table 100 'cpus = "2-5"' '[memory]' 'hugepages = { compact = true, timeout = "20s" }'
capture_before
qm start 100 > "$work/start" 2>&1
said "$work/start"
check 'pages are ready before the start' has "$work/start" '32 hugepages of 2 MiB are ready on node 0'
comes_to 'the VM runs and is isolated' 'isolated 2-5: 2 3 4 5' 100
equal 'QEMU has its pages and no others are kept' '0 0' "$(pools free)"
lacks_pools() { ! grep -q hugepages /run/pin-hook/journal; }
check 'the pool is none of ours any more' lacks_pools
qm stop 100 > /dev/null
capture_after_equal 'stopped: no page is kept'

# A little more than the node has.
sed -i 's/^memory: .*/memory: 2048/; s/^hugepages: .*/hugepages: 1024/' "$(conf_path 100)"
refuses 'a start that no node has the memory for is refused' qm start 100
said "$work/refused"
check 'as that' has "$work/refused" 'the vm needs 2 hugepages of 1 GiB (2048 MiB) from node 0, which has'

# A little less, of which the host has a part.
pages=$(awk '/MemTotal/ { print int($4 / 2048) - 4 }' /sys/devices/system/node/node0/meminfo)
sed -i "s/^memory: .*/memory: $((2 * pages))/; s/^hugepages: .*/hugepages: 2/" "$(conf_path 100)"
refuses 'a start that lacks pages is refused' qm start 100
said "$work/refused"
check 'with the number that there is' has "$work/refused" "of the $pages hugepages of 2 MiB that the vm needs"
check 'and a remedy' has "$work/refused" 'give the vm less memory'
compacted() { [ "$(units_of pin-hook-write-node-node0-compact.service | grep -c Started)" -gt 0 ]; }
journalctl --sync
check 'memory was compacted by a child' compacted
capture_after_equal 'refused: the host is as before' 60

# Pages are ready, and QEMU does not start.
sed -i 's/^memory: .*/memory: 64/; s/^hugepages: .*/hugepages: 2/' "$(conf_path 100)"
echo 'args: -nonsense' >> "$(conf_path 100)"
refuses 'a QEMU that does not start' qm start 100
check 'had its pages ready' has "$work/refused" '32 hugepages of 2 MiB are ready'
wait_until 60 'the pages go back' are_pools '0 0'
capture_after_equal 'failed: the host is as before'

# The reservation dies with its process.
sed -i 's/^memory: .*/memory: 1000/; /^args/d' "$(conf_path 100)"
setsid bash -c 'pin-hook 100 pre-start; sleep 100' > /dev/null 2>&1 &
filled() { [ "$(pool 0 nr)" -gt 0 ]; }
wait_until 30 'pages are asked for' filled && ok 'pages are asked for'
kill -KILL -- "-$!"
wait_until 60 'the pages go back' are_pools '0 0' && ok 'killed: the pages go back'
capture_after_equal 'killed: the host is as before'
