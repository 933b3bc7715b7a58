# kernels: none
# What is captured of a host on which a VM runs says the same as the host; the report has all of it, and looking
# changes nothing.
. /usr/lib/lab/lib.sh

# answers FILE OPTION...: what the commands that show say, one file each.
answers() {
    local to=$1 question
    shift
    mkdir -p "$to"
    for question in 'plan 100' 'check -v' 'topology' 'status' 'list' 'report'; do
        # shellcheck disable=SC2086
        pin-hook "$@" $question > "$to/${question%% *}" 2>&1 || echo "exit $?" >> "$to/${question%% *}"
    done
}

hooked_vm 100 'cpus = "2-5"'
hooked_vm 101 'cpus = "6-7"'
echo 'cipassword: planted-secret' >> "$(conf_path 101)"
qm start 100 > "$work/start" 2>&1
comes_to 'the vm has its CPUs' 'isolated 2-5: 2 3 4 5' 100
wait_until 60 'nothing is left to be done' at_rest

snapshot "$work/then"
answers "$work/live"
pin-hook report --html "$work/report.html" > "$work/said"
check 'a capture is written' pin-hook capture --names "$work/host.tar"
said "$work/check"
snapshot "$work/now"
check 'looking changes nothing' cmp "$work/then" "$work/now"

answers "$work/captured" --root "$work/host.tar"
mkdir "$work/tree"
tar -xf "$work/host.tar" -C "$work/tree"
answers "$work/unpacked" --root "$work/tree"
for question in plan check topology status list report; do
    check "$question: the capture says what the host says" diff "$work/live/$question" "$work/captured/$question"
    check "$question: so does what tar unpacks of it" diff "$work/live/$question" "$work/unpacked/$question"
done
check 'the page has the running vm' has "$work/report.html" '100.scope/vcpu'
check 'what is not asked for is not in the capture' lacks "$work/host.tar" planted-secret
pin-hook capture - > "$work/clean.tar"
equal 'the host has another name in it' node "$(tar -xOf "$work/clean.tar" proc/sys/kernel/hostname)"
ls -l "$work/host.tar" | awk '{ print "#   " $5 " bytes" }'
tar -tf "$work/host.tar" | wc -l | sed 's/^/#   files: /'
said "$work/live/report"

setpriv --reuid=1000 --regid=1000 --clear-groups -- pin-hook report > "$work/user" 2>&1 && status=0 || status=$?
equal 'who is not root gets a report as well' 0 $status
check 'and is told what is missing' has "$work/user" 'only root can read'
qm stop 100 > "$work/stop" 2>&1
