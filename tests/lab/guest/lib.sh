# For the lab's cases; a case begins with ". /usr/lib/lab/lib.sh". See tests/lab/README.md.
# shellcheck shell=bash
set -eEu
shopt -s nullglob

lab=/usr/lib/lab
cg=/sys/fs/cgroup
work=$(mktemp -d /tmp/case.XXXXXX)

# Nobody writes to it: a read waits without a program, and each program takes tens of ms here.
mkfifo "$work/nobody"
exec 7<> "$work/nobody"
# nap SECONDS
nap() { read -rt "$1" -u 7 || true; }

ok() { echo "ok - $*"; }
not_ok() { echo "not ok - $*"; }

# check TEXT COMMAND...: one ok or not ok line; the command's output is shown when it fails.
check() {
    local text=$1
    shift
    if "$@" > "$work/check" 2>&1; then ok "$text"; else not_ok "$text"; indent "$*" "$work/check"; fi
}

# equal TEXT EXPECTED ACTUAL
equal() {
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1"; printf '#   expected: %s\n#   actual:   %s\n' "$2" "$3"; fi
}

# refuses TEXT COMMAND...: the command must fail; its output stays in $work/refused.
refuses() {
    local text=$1
    shift
    if "$@" > "$work/refused" 2>&1; then not_ok "$text"; indent "$*" "$work/refused"; else ok "$text"; fi
}

indent() {
    echo "#   $1"
    sed 's/^/#   | /' "$2"
}

# said FILE: what a command printed, for the reader.
said() { sed 's/^/#   | /' "$1"; }

# in_time TEXT SECONDS COMMAND...: the command succeeds within that time, which is printed; what it says is in
# $work/in-time. Only a phase has a promise, of 10 s; qm has two or three of them and a QEMU to start or to end.
in_time() {
    local text=$1 limit=$2 begin=$EPOCHREALTIME status=0 ms
    shift 2
    "$@" > "$work/in-time" 2>&1 || status=$?
    ms=$(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))
    echo "#   $text: $ms ms"
    said "$work/in-time"
    equal "$text: succeeds" 0 $status
    check "$text: in time" test $ms -lt $((limit * 1000))
}

# has FILE TEXT: fixed string in a file.
has() { grep -qF -- "$2" "$1" || { cat "$1"; return 1; }; }
lacks() { ! grep -F -- "$2" "$1"; }

# wait_until SECONDS WHAT COMMAND...: polls; the only place of a case that may wait.
wait_until() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            not_ok "$what (waited for: $*)"
            return 1
        fi
        nap 0.1
    done
}

# is_before VERSION: whether the kernel that runs is older.
is_before() { [ "$(printf '%s\n' "$1" "$(uname -r)" | sort -V | head -n 1)" != "$1" ]; }

# --- VMs -------------------------------------------------------------------------------------

hooked='hookscript: local:snippets/pin-hook'

conf_path() { echo "/etc/pve/qemu-server/$1.conf"; }

# vm_conf ID [LINE...]: a VM of 4 vCPUs with the lines added; a "cores:" line replaces the 4.
vm_conf() {
    local id=$1
    shift
    { printf 'cores: 4\nmemory: 32\nname: vm%s\n' "$id"
      [ $# -eq 0 ] || printf '%s\n' "$@"
    } > "$(conf_path "$id")"
}

# hooked_vm ID TABLE-LINE...: a VM with pin-hook's snippet and this table.
hooked_vm() {
    local id=$1
    shift
    vm_conf "$id" "$hooked"
    table "$id" "$@"
}

# table ID LINE...: /etc/pin-hook/ID.toml
table() {
    local id=$1
    shift
    printf '%s\n' "$@" > "/etc/pin-hook/$id.toml"
}

# all_knobs BACKEND: lines of a table with everything that can be wished for, after those for cpus and pins.
# Not among them: [memory] and [pci], which are settled before the start.
all_knobs() {
    printf '%s\n' '[isolate]' "backend = \"$1\"" 'kthreads = true' 'workqueues = "auto"' 'irqs = true' \
        'watchdog = true' 'hotplug = true' \
        '[power]' 'governor = "performance"' 'energy-preference = "performance"' 'max-idle-latency = "2us"' \
        'min-frequency = "2200MHz"' 'max-frequency = "2200MHz"' 'boost = true' \
        '[host]' 'ksm = "stop"' 'transparent-hugepages = "never"' 'halt-poll = "100us"' \
        "sysctl = { $(printf '"%s" = %s, ' vm.stat_interval 120 kernel.timer_migration 0 \
            kernel.numa_balancing 0 kernel.sched_rt_runtime_us 900000 kernel.watchdog_thresh 30 \
            kernel.soft_watchdog 0 vm.compaction_proactiveness 0 net.core.busy_read 50) }"
}

# Has the host use what all_knobs takes from it, as far as the lab can.
knobs_in_use() {
    modprobe kvm
    echo "$1" > /sys/kernel/mm/ksm/run
}

# prepared: the scopes of VMs with a table have what the boot of a node gives them. A reload of systemd, or the lock
# of a phase, may be late on a busy machine; the next try finds it done.
prepared() { wait_until 120 'the scopes are prepared' pin-hook boot; }

# What the hookscript in shell (shell-hook) leaves behind.
shell_hook_gone() {
    wait_until 20 'the cgroup of shell-hook is empty' rmdir $cg/qemu-aside.slice/100.scope
    rmdir $cg/qemu-aside.slice
    rm -rf /run/systemd/system.control/*.d/50-AllowedCPUs.conf
    systemctl daemon-reload
}

# cleaned_up: qmeventd has no connection of a VM that has ended, and none of its "qm cleanup" runs. Asked again and
# again, so without a program: its children are in its cgroup, and who is QEMU says the name of a process.
cleaned_up() {
    local daemon fd connections=0
    mapfile -t daemon < $cg/system.slice/qmeventd.service/cgroup.procs || return 0
    [ ${#daemon[@]} -le 1 ] || return 1
    [ ${#daemon[@]} -eq 1 ] || return 0
    for fd in "/proc/${daemon[0]}/fd/"*; do [[ ${fd##*/} -le 2 || ! -S $fd ]] || connections=$((connections + 1)); done
    # One is what it listens at.
    [ "$connections" -le 1 ] || [ $((connections - 1)) -le "$(pgrep -cx kvm)" ]
} 2> /dev/null

# qm: a start waits until PVE has done with the run before. "qm cleanup" that comes late finds the VM running,
# holds its lock for 30 s and refuses every stop meanwhile; nobody but a case starts that soon after a stop.
# Afterwards the units, which see a VM come or go too, have done what a phase may have left to them.
qm() {
    local status=0
    [ "$1" != start ] || wait_until 60 'PVE has cleaned up' cleaned_up > /dev/null || true
    command qm "$@" || status=$?
    case $1 in start | stop) units_rest ;; esac
    return $status
}

# units_rest: waits until no run of the units is under way.
is_no_run() { [ ! -e $cg/system.slice/pin-hook-reconcile.service ]; }
units_rest() { wait_until 60 'the units rest' is_no_run > /dev/null || true; }

# at_rest: whether nothing is left to be written.
at_rest() { [ "$(pin-hook status --json | jq .pending)" = 0 ]; }

# released ID, or --all: at once, but not while the units have the lock for longer than a command waits for it.
released() { units_rest; pin-hook release "$1" > "$work/release" 2>&1 || { said "$work/release"; return 1; }; }

running() { [ "$(qm status "$1")" = 'status: running' ]; }
qemu_pid() { cat "/run/qemu-server/$1.pid"; }
qemu_alive() { [ -e "/run/qemu-server/$1.pid" ] && kill -0 "$(qemu_pid "$1")" 2> /dev/null; }
gone() { ! qemu_alive "$1"; }

# vcpu_tids ID: thread ids in the order of the vCPUs.
vcpu_tids() {
    local task pid name tids=()
    pid=$(qemu_pid "$1")
    for task in "/proc/$pid/task/"*; do
        read -r name < "$task/comm" || continue
        [[ ! $name =~ ^CPU\ ([0-9]+)/[A-Z]*$ ]] || tids[BASH_REMATCH[1]]=${task##*/}
    done
    [ ${#tids[@]} -eq 0 ] || printf '%s\n' "${tids[@]}"
}

vcpu_tid() { vcpu_tids "$1" | sed -n "$(($2 + 1))p"; }
other_tids() { comm -23 <(ls "/proc/$(qemu_pid "$1")/task" | sort) <(vcpu_tids "$1" | sort); }

# allowed TID: the requested and granted CPUs of a thread, as the kernel lists them.
allowed() {
    local line lines
    mapfile -t lines < "/proc/$1/status"
    for line in "${lines[@]}"; do
        [[ $line != Cpus_allowed_list:* ]] || echo "${line##*[[:space:]]}"
    done
}
vcpu_masks() { local tid; for tid in $(vcpu_tids "$1"); do allowed "$tid"; done | paste -sd' '; }

# standing ID: how the VM stands, "isolated 2-5: 2 3 4 5" (type and CPUs of its partition, masks of
# its vCPUs), "none: ..." without a partition.
standing() {
    local dir type=none
    dir=$(scope "$1")/vcpu
    if [ -e "$dir/cpuset.cpus.partition" ]; then
        type="$(< "$dir/cpuset.cpus.partition") $(< "$dir/cpuset.cpus.effective")"
    fi
    echo "$type: $(vcpu_masks "$1")"
}
stands() { [ "$(standing "$1")" = "$2" ]; }

# comes_to TEXT STANDING ID: as "equal", but on a busy machine a phase may leave the end to the units.
comes_to() { comes_to_print "$1" "$2" standing "$3"; units_rest; }

# comes_to_print TEXT EXPECTED COMMAND...: the same of what a command prints.
comes_to_print() {
    local text=$1 expected=$2 end=$((SECONDS + 60)) actual
    shift 2
    actual=$("$@") || true
    [ "$actual" = "$expected" ] || echo "#   $text: left to the units"
    until [ "$actual" = "$expected" ] || [ $SECONDS -ge $end ]; do
        nap 0.1
        actual=$("$@") || true
    done
    equal "$text" "$expected" "$actual"
}
housekeeping() { cat "$cg/cpuset.cpus.effective"; }

# qmp ID COMMAND [ARGUMENTS-JSON]: one command to the VM's monitor.
qmp() { perl -I"$lab/perl" -MLab::Util=qmp -e 'print qmp(@ARGV)' "$@"; }

# outsider_gets CPU: whether a task outside all partitions may ask for that CPU.
outsider_gets() { taskset -c "$1" true 2> "$work/taskset"; }

# scope ID [FILE]: the cgroup of a VM, or the content of one of its files.
scope() { local dir=$cg/qemu.slice/$1.scope; [ $# -eq 1 ] && echo "$dir" || cat "$dir/$2"; }

# from_login COMMAND..., at_boot COMMAND...: as a person, and as PVE at the start of the node.
from_login() { systemd-run --quiet --scope --slice=user.slice -- "$@"; }
at_boot() {
    local status=0
    printf '%s\0' "$@" > /run/lab/pve-guests
    systemctl start pve-guests.service 2> /dev/null || status=1
    systemctl reset-failed pve-guests.service 2> /dev/null || true
    cat /run/lab/pve-guests.out
    return $status
}

# task COMMAND...: in the background, in a process group of its own, as PVE's workers; sets task_pid.
task() {
    setsid "$@" > "$work/task" 2>&1 &
    task_pid=$!
}

# stop_task: what "Stop" on a task does: SIGTERM to the group, 5 s, SIGKILL.
stop_task() {
    local end=$((SECONDS + 5))
    kill -TERM -- "-$task_pid" || true
    while kill -0 -- "-$task_pid" 2> /dev/null && [ $SECONDS -lt $end ]; do nap 0.1; done
    kill -KILL -- "-$task_pid" 2> /dev/null || true
    wait "$task_pid" || true
}

legacy_regime() { touch /run/qemu-server/force-legacy-cleanup; }
flag_regime() { rm -f /run/qemu-server/force-legacy-cleanup; }

# --- captures --------------------------------------------------------------------------------

# The Delegate drop-ins of VMs with a table stay until reboot; the boot unit makes them.
capture_before() {
    if [ -x /usr/sbin/pin-hook ]; then prepared && ok 'the scopes are prepared'; fi
    "$lab/capture" "$work/before"
}

# lists_may_stay: for slices beside a container, which keeps the controller on. Up to 6.12 the list of a group with
# tasks cannot be emptied then: all CPUs stand there, which means the same, and is from now on taken for it.
lists_may_stay() { ! is_before 6.13 || all_is_none=1; }

capture_differs() {
    "$lab/capture" "$work/after"
    [ -z "${all_is_none:-}" ] || sed -i -E 's,^(cgroup .*/cpuset\.cpus\t)0-7$,\1,' "$work/before" "$work/after"
    ! "$lab/capture-diff" "$work/before" "$work/after" > "$work/differences"
}

# inhabitants: who keeps the cgroups that the last comparison found new, and what systemd knows of them.
inhabitants() {
    local group
    while read -r group; do
        echo "$group: $(tr '\n' ' ' < "$group/cgroup.events")"
        ps -o pid,stat,lstart,args -p "$(paste -sd, "$group/cgroup.procs")"
        systemctl status --no-pager "${group##*/}"
    done < <(sed -n 's,^cgroup \(.*\)/cgroup\.type$,\1,p' "$work/differences")
}

# capture_after_equal TEXT [SECONDS]: within that time the host is as it was at capture_before.
capture_after_equal() {
    local end=$((SECONDS + ${2:-30}))
    # A capture takes seconds; none is worth it while claims are left.
    while [ -s /run/pin-hook/journal ] && [ $SECONDS -lt $end ]; do nap 0.1; done
    while capture_differs; do
        if [ $SECONDS -ge $end ]; then
            not_ok "$1"
            indent capture-diff "$work/differences"
            inhabitants > "$work/inhabitants" 2>&1 || true
            indent 'who is in cgroups that are new' "$work/inhabitants"
            if grep -q tainted "$work/differences"; then
                dmesg | grep -A 30 'cut here' > "$work/dmesg" || dmesg | tail -n 40 > "$work/dmesg"
                indent dmesg "$work/dmesg"
            fi
            return
        fi
    done
    ok "$1"
}

# snapshot FILE: what pin-hook changes first, for the question whether it wrote at all.
snapshot() {
    grep -s . /proc/irq/*/smp_affinity_list /proc/irq/default_smp_affinity \
        /sys/devices/virtual/workqueue/cpumask "$cg"/{cpuset.*,cgroup.subtree_control} \
        "$cg"/*/{cpuset.*,cgroup.subtree_control,cgroup.type} "$cg"/qemu.slice/*/{cpuset.*,cgroup.type} \
        "$cg"/qemu.slice/*/*/{cpuset.*,cgroup.type} > "$1" || true
}

# --- begin and end of a case -----------------------------------------------------------------

# Prints what a case left behind, or nothing.
leftovers() {
    local path
    for path in /run/qemu-server/*.pid /etc/pve/nodes/*/*/*.conf /etc/pin-hook/*.toml \
        "$cg"/qemu.slice/*.scope "$cg"/lxc/*/; do
        echo "$path"
    done
    pgrep -ax 'stress-ng.*|kvm' || true
}

scopes_gone() { local scopes=("$cg"/qemu.slice/*.scope); [ ${#scopes[@]} -eq 0 ]; }

# Ends every VM and removes configs and tables; runs after each case, also after a failed one.
clean() {
    local pid
    for pid in $(pgrep -x kvm); do kill -KILL "$pid" 2> /dev/null || true; done
    wait_until 20 'scopes end' scopes_gone || true
    for pid in $(pgrep '^stress-ng'); do kill -KILL "$pid" 2> /dev/null || true; done
    rm -f /run/qemu-server/*.* /etc/pve/nodes/*/*/*.conf /etc/pin-hook/*.toml
    flag_regime
    if [ -x /usr/sbin/pin-hook ]; then pin-hook release --all > /dev/null 2>&1 || true; fi
    local drop_ins=(/run/systemd/system/*.scope.d)
    [ ${#drop_ins[@]} -eq 0 ] || { rm -r "${drop_ins[@]}"; systemctl daemon-reload; }
}

finish() {
    local status=$?
    trap - EXIT
    [ $status -eq 0 ] || not_ok "the case ended early with status $status after: $last_command"
    if declare -F case_cleanup > /dev/null; then case_cleanup || true; fi
    clean
    rm -rf "$work"
}

last_command=
trap 'last_command="$BASH_COMMAND (${BASH_SOURCE##*/}:$LINENO)"' ERR
trap finish EXIT
if [ -n "$(leftovers)" ]; then
    leftovers > "$work/left"
    not_ok 'the host is clean before the case'
    indent leftovers "$work/left"
    clean
fi
