# Two VMs with common policies and settings and different wishes, with every knob on, come and go in every
# order: each has its own meanwhile, and afterwards the host is as before, with what was born in between.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/endings.sh

stand() {
    case $1 in
        100) comes_to "$2: vm 100 stands" 'isolated 2-4,6: 2 3 4' 100 ;;
        101) comes_to "$2: vm 101 stands" 'root 5,7: 5 7' 101 ;;
    esac
}

births_possible
equal 'two CPUs of the lab change their frequency together' '4 5' "$(cat /sys/devices/system/cpu/cpufreq/policy4/affected_cpus)"
mapfile -t knobs < <(all_knobs isolated)
hooked_vm 100 'cpus = "2-4"' 'pin.emulator = "0-1"' 'pin.scheduler = "fifo:1"' \
    "${knobs[0]}" 'also = "6"' "${knobs[@]:1}"
vm_conf 100 'cores: 3' "$hooked"
mapfile -t knobs < <(all_knobs root | sed 's/"2200MHz"/"1200MHz"/; s/"performance"/"powersave"/; s/ = 120/ = 30/; s/"stop"/"unmerge"/; s/"2us"/"0us"/')
hooked_vm 101 'cpus = "5,7"' "${knobs[@]}"
vm_conf 101 'cores: 2' "$hooked"
capture_before
pair '100 101 100 101'
pair '100 101 101 100'
pair '101 100 100 101'
pair '101 100 101 100'
