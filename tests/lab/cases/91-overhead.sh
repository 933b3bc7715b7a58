# kernels: none
# Prints what a measurement costs the guest: how far one gets that counts on a CPU of its own, with and without.
# Where the machine's clock counts instructions (LAB_ICOUNT=0) that hardly depends on what else its host does.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/measuring.sh

rounds=3

# counted_in NAME: adds what the guest counts in a second, and the time.
counted_in() {
    local from begin
    ask_guest
    from=$counted begin=${EPOCHREALTIME/./}
    read -rt 1 -u 8 || true # it says nothing by itself
    ask_guest
    n[$1]=$((${n[$1]:-0} + counted - from))
    us[$1]=$((${us[$1]:-0} + ${EPOCHREALTIME/./} - begin))
}

# with_measure NAME [COMMAND...]: the same during a measurement, after the command.
with_measure() {
    local name=$1 pid
    shift
    pin-hook measure 100 --json --duration 60s > "$work/json" &
    pid=$!
    wait_until 60 'it is measuring' measuring
    [ $# -eq 0 ] || "$@" $pid
    counted_in "$name"
    kill -CONT $pid
    kill -TERM $pid
    wait $pid
    records[$name]=$((${records[$name]:-0} + $(jq .n_records "$work/json")))
    measured_us[$name]=$((${measured_us[$name]:-0} + $(jq '.duration_ns / 1000 | floor' "$work/json")))
}

declare -A n us records measured_us
modprobe kvm_amd
serial_port
hooked_vm 100 'cpus = "5"' 'profile = "low-latency"'
printf '%s\n' 'cores: 1' 'kvm: 1' "$count" >> "$(conf_path 100)"
qm start 100 > /dev/null 2>&1
comes_to 'the VM has its CPU' 'isolated 5: 5' 100
for ((i = 0; i < rounds; i++)); do
    counted_in without
    # Stopped, it fetches nothing: that would take turns with the guest, as all CPUs here do.
    with_measure recorded kill -STOP
    counted_in without
    with_measure fetched
done
qm stop 100 > /dev/null 2>&1

row() {
    awk -v name="$1" -v n="${n[$2]}" -v us="${us[$2]}" -v n0="${n[without]}" -v us0="${us[without]}" \
        -v records="${records[$2]:-0}" -v time="${measured_us[$2]:-1}" 'BEGIN {
            printf "#   %-44s %12.0f %9.3f %% %9.0f\n", name, n / us * 1000000, (1 - n / us / (n0 / us0)) * 100, records / time * 1000000 }'
}
printf '#   %-44s %12s %11s %9s\n' "a guest that counts, $((rounds * 2)) s and twice $rounds s" 'counted in 1 s' less 'records in 1 s'
row 'without a measurement' without
row 'records are made on its CPU' recorded
row 'and fetched on another one' fetched
# In thousandths, rounded up.
lost=$((1000 - n[recorded] * us[without] * 1000 / (us[recorded] * n[without])))
check 'what is recorded costs the guest 1 % at most' test $lost -le 10
