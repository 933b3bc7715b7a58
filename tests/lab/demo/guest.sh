# In the lab's machine: what pin-hook does for one VM, told for somebody who looks for the first
# time. "make demo" runs it.
. /usr/lib/lab/lib.sh

cpus=4-7
seconds=5
spin='args: -bios /usr/share/lab/spin.bin'

title() { printf '\n%s. %s\n\n' "$1" "$2"; }
text() { printf '%s\n' "$@"; }
shown() { printf '  $ %s\n' "$*"; }

# What a command prints, indented; true only when the command was.
run() {
    local status=0
    shown "$*"
    "$@" > "$work/out" 2>&1 || status=$?
    fold -s -w 74 "$work/out" | sed 's/ *$//; s/^/    /'
    return $status
}

pinned() { [ "$(vcpu_masks 100)" = '4 5 6 7' ]; }

# disturb NAME: measures what is taken from VM 100 while stress-ng keeps all CPUs busy, and keeps it under that name.
disturb() {
    text '' "stress-ng keeps all CPUs busy; what is taken from the VM in $seconds s is measured ..."
    stress-ng --quiet --cpu 8 --timer 1 --switch 1 > /dev/null 2>&1 &
    # The shell would say that it was killed.
    disown
    shown "pin-hook measure 100 --duration ${seconds}s --save $1"
    pin-hook measure 100 --duration ${seconds}s --save "$1" > "$work/measured"
    pkill -KILL '^stress-ng'
    wait_until 20 'stress-ng has ended' eval '! pgrep "^stress-ng"'
}

text '' "This host: $(nproc) CPUs, Linux $(uname -r), $(systemctl --version | head -n 1 | cut -d' ' -f1,2)." \
    'VM 100 has 4 vCPUs; its guest keeps all of them busy.'

title 1 'The VM without pin-hook'
vm_conf 100 "$spin"
run qm start 100
text ''
"$lab/who-may" $cpus 100
disturb nothing
run qm stop 100

title 2 'The VM with "affinity" in its config, as PVE has it'
echo "affinity: $cpus" >> "$(conf_path 100)"
run qm start 100
text ''
"$lab/who-may" $cpus 100
disturb affinity
run qm stop 100
text '' 'VM 100 now gets a table and the hookscript. All that can be read of the host is' \
    'recorded, for a comparison at the end.'
hooked_vm 100 "cpus = \"$cpus\""
echo "$spin" >> "$(conf_path 100)"
# As at boot: it prepares the scopes of all VMs with a table.
systemctl restart pin-hook-boot.service
capture_before > /dev/null

title 3 'The same VM with pin-hook'
run cat /etc/pin-hook/100.toml
run cat "$(conf_path 100)"
run qm start 100
text ''
# An emulated host can be too slow for the 9 s that a phase may take; reconcile does the rest then.
wait_until 60 'the vCPUs have their CPUs' pinned
"$lab/who-may" $cpus 100
disturb pin-hook

title 4 'A second VM wants some of the same CPUs'
hooked_vm 101 'cpus = "2-5"'
run cat /etc/pin-hook/101.toml
if run qm start 101; then text '  VM 101 should not have started.'; exit 1; fi

title 5 'The VM stops'
run qm stop 100
rm -f /etc/pin-hook/*.toml "$(conf_path 100)" "$(conf_path 101)"
text '' 'The host is compared with the record from before step 3: kernel settings, masks' \
    'of all tasks and interrupts, cgroups, CPUs, units, files of systemd.'
if ! wait_until 30 'the host is as before' eval '! capture_differs'; then
    fold -w 78 "$work/differences"
    exit 1
fi
text '' "  $(wc -l < "$work/after") values compared, 0 differ."

title 6 "What stress-ng did to the VM in $seconds s"
text 'Who still had a part in it with pin-hook:' ''
shown pin-hook measure --show pin-hook
pin-hook measure --show pin-hook
text '' 'And all three side by side:' ''
shown pin-hook measure --compare nothing affinity pin-hook
pin-hook measure --compare nothing affinity pin-hook
# For the host: the card as a picture, and what it is made of.
pin-hook measure --compare nothing affinity pin-hook --svg "$work/measure.svg"
cp -r "$work/measure.svg" /var/lib/pin-hook/measured /run/lab/share/
rm -r /var/lib/pin-hook/measured
