# kernels: stable
# The other backends: a partition of type root, and affinity alone.
. /usr/lib/lab/lib.sh

workqueue=/sys/devices/virtual/workqueue/cpumask

hooked_vm 100 'cpus = "2-5"' '[isolate]' 'backend = "root"'
capture_before
qm start 100 > /dev/null
comes_to 'root: each vCPU has its CPU' 'root 2-5: 2 3 4 5' 100
equal 'root: the host keeps the rest' 0-1,6-7 "$(housekeeping)"
refuses 'root: a task outside does not get an isolated CPU' outsider_gets 3
equal 'root: unbound work is off them' c3 "$(< $workqueue)"
equal 'root: interrupts to come are off them' c3 "$(cat /proc/irq/default_smp_affinity)"
qm stop 100 > /dev/null
capture_after_equal 'root: the host is as before'

table 100 'cpus = "2-5"' '[isolate]' 'backend = "affinity"'
qm start 100 > /dev/null
comes_to 'affinity: each vCPU has its CPU' 'none: 2 3 4 5' 100
check 'affinity: nobody else is kept away' outsider_gets 3
qm stop 100 > /dev/null
capture_after_equal 'affinity: the host is as before'
