# What pin-hook measure shows of VM 100: for the cases about it, after lib.sh.
# shellcheck shell=bash disable=SC2154

tracing=/sys/kernel/tracing

# by KIND NAME: how often those were there by the last measurement whose names begin like that.
by() { jq --arg kind "$1" --arg name "$2" '[.culprits[] | select(.kind == $kind and (.name | startswith($name))) | .times] | add // 0' "$work/json"; }
# help KIND NAME: what helps against the first of them, or why nothing does.
help() { jq -r --arg kind "$1" --arg name "$2" '[.culprits[] | select(.kind == $kind and (.name | startswith($name)))][0].remedy | if type == "object" then .do // .nothing else . end' "$work/json"; }
measure() { pin-hook measure 100 --json "$@" > "$work/json"; }
# near A B: whether they differ by 5 % of B at most.
near() { [ $((($1 - $2) * 20)) -le "$2" ] && [ $((($2 - $1) * 20)) -le "$2" ]; }
no_trace() { [ ! -e $tracing/instances/pin-hook ] && [ ! -e $tracing/instances/pin-hook-asks ]; }
measuring() { [ "$(cat $tracing/instances/pin-hook/tracing_on)" = 1 ]; }

# during COMMAND...: measures while it runs, and no longer. QEMU is held before and after: a guest that spins takes
# half of the machine from what prepares and names.
during() {
    local pid qemu
    qemu=$(qemu_pid 100)
    kill -STOP "$qemu"
    pin-hook measure 100 --json --duration 5min > "$work/json" &
    pid=$!
    wait_until 20 'it is measuring' measuring
    kill -CONT "$qemu"
    "$@" > "$work/during" 2>&1 || true
    kill -STOP "$qemu"
    kill -TERM $pid
    wait $pid
    kill -CONT "$qemu"
}

# --- the guest that counts (guest/count.S) -----------------------------------------------------

count="args: -bios /usr/share/lab/count.bin -serial pipe:$work/serial"

# Its serial port, for as long as the case runs.
serial_port() {
    mkfifo "$work/serial.in" "$work/serial.out"
    exec 8<> "$work/serial.out"
}

# ask_guest: sets counted and stolen: how far the guest has come, and what it sees as steal, in ns.
ask_guest() {
    printf x > "$work/serial.in"
    read -rt 30 counted stolen <&8
    counted=$((16#$counted)) stolen=$((16#$stolen))
}
