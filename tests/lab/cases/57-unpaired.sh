# kernels: none
# Phases that have no counterpart, come twice or not at all: each leaves a host that is as before in the end, or a VM
# that keeps its CPUs. 30-endings has a hookscript that was unset, 30-endings-more a live migration away and a start
# that fails, 61-backup a backup of a stopped VM, 10-qm how PVE itself behaves.
. /usr/lib/lab/lib.sh

owned='isolated 2-5: 2 3 4 5' snippet=/var/lib/vz/snippets/pin-hook

case_cleanup() {
    flag_regime
    [ ! -e "$snippet.away" ] || mv "$snippet.away" "$snippet"
    chmod 755 "$snippet"
    systemctl start qmeventd
}

# starts TEXT: what is missing or too much comes after it.
starts() {
    qm start 100 > "$work/start" 2>&1 || said "$work/start"
    comes_to "$1: has its CPUs before" "$owned" 100
}
# stops TEXT COMMAND...: ends the VM like that, and then the host is as before, but for what PVE itself has not cleaned up.
stops() {
    local text=$1
    shift
    "$@" > "$work/stop" 2>&1 || true
    wait_until 60 "$text: QEMU ends" gone 100
    rm -f /run/qemu-server/100.*
    systemctl start qmeventd
    capture_after_equal "$text: as before" 60
}
# By a program that ends, as the one does that starts a VM.
phase() { bash -c 'pin-hook 100 "$1"; true' - "$1" > "$work/phase" 2>&1; }
# harmless TEXT: whatever it was, the VM runs and keeps its CPUs.
harmless() { comes_to "$1: it keeps its CPUs" "$owned" 100; }

hooked_vm 100 'cpus = "2-5"'
capture_before

# --- no post-stop ------------------------------------------------------------------------------

text='the hookscript is missing at the stop'
starts "$text"
mv "$snippet" "$snippet.away"
stops "$text" qm stop 100
mv "$snippet.away" "$snippet"

text='the hookscript is not executable at the stop'
starts "$text"
chmod 644 "$snippet"
stops "$text" qm stop 100
chmod 755 "$snippet"

text='qmeventd is down when qemu ends'
starts "$text"
systemctl stop qmeventd
stops "$text" qm kill9 100

text='the config is gone when the vm ends'
starts "$text"
mv "$(conf_path 100)" "$work/100.conf"
stops "$text" kill -KILL "$(qemu_pid 100)"
mv "$work/100.conf" "$(conf_path 100)"

text='the task that stops it is stopped in its middle'
starts "$text"
task qm stop 100
wait_until 60 'QEMU has ended' gone 100
stops "$text" stop_task

# --- no QEMU after pre-start -------------------------------------------------------------------

text='pre-start, and nothing after it'
phase pre-start
stops "$text" true

text='pre-start twice, as failed starts have it'
phase pre-start
phase pre-start
starts "$text"
stops "$text" qm stop 100

# --- too many ----------------------------------------------------------------------------------

text='several pre-stop and no stop'
starts "$text"
for n in 1 2 3; do phase pre-stop; done
harmless "$text"
text='post-start twice'
phase post-start
harmless "$text"
text='a post-stop of the run before, while it runs'
phase post-stop
harmless "$text"
text='post-stop twice'
qm stop 100 > /dev/null
phase post-stop
stops "$text" phase post-stop

text='a post-start and a post-stop of a vm that does not run'
phase post-start
stops "$text" phase post-stop

# --- another order -----------------------------------------------------------------------------

text='the config and the table are others at the stop'
starts "$text"
vm_conf 100 "$hooked" 'cores: 2' 'affinity: 6'
table 100 'cpus = "6-7"' '[isolate]' 'backend = "root"'
stops "$text" qm stop 100
hooked_vm 100 'cpus = "2-5"'

text='the guest powers itself off, and a start follows at once'
starts "$text"
command qm guest-poweroff 100 > /dev/null 2>&1
wait_until 60 'QEMU has ended' gone 100
starts "$text"
stops "$text" qm stop 100

legacy_regime
capture_before
text='pve before 9.1: only qm cleanup calls post-stop'
starts "$text"
stops "$text" qm stop 100
text='pve before 9.1: qmeventd is down, so nobody does'
starts "$text"
systemctl stop qmeventd
stops "$text" qm stop 100
