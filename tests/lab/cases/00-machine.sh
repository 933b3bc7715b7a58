# The machine is what the other cases take for granted.
. /usr/lib/lab/lib.sh

equal '8 CPUs are online' 0-7 "$(cat /sys/devices/system/cpu/online)"
equal 'CPU 0 and 1 are siblings' 0-1 "$(cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list)"
equal 'node 1 has CPUs 4-7' 4-7 "$(cat /sys/devices/system/node/node1/cpulist)"
equal 'CPU 4 is in the second package' 1 "$(cat /sys/devices/system/cpu/cpu4/topology/physical_package_id)"
equal 'only cgroup v2 is mounted' cgroup2 "$(findmnt -n -o FSTYPE /sys/fs/cgroup)"
check 'cpuset is available' grep -qw cpuset "$cg/cgroup.controllers"
equal 'systemd is running without a failed unit' running "$(systemctl is-system-running)"
check 'the CPUs have governors' has /sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors performance
check 'there is an NVMe' test -b /dev/nvme0n1
check 'there is a NIC with virtual functions' test -e /sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs
check 'the IOMMU is on' test -e /sys/bus/pci/devices/0000:01:00.0/iommu_group
equal 'the node is pve1' pve1 "$(hostname)"
check 'qmeventd is there' test -S /run/qmeventd.sock
