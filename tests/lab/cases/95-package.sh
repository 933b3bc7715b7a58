# kernels: none
# The package from installation to purge: the quick start as it is written, an upgrade under a VM that
# runs, and a hookscript that was there before.
. /usr/lib/lab/lib.sh

share=/run/lab/share
packages=("$share"/package/*.deb)
log=/var/tmp/former.log

# The lab's own installation comes back, whatever happened to that of the package.
case_cleanup() {
    umount /etc/pve 2> /dev/null || true
    pin-hook release --all > /dev/null 2>&1 || true
    dpkg --purge pin-hook > /dev/null 2>&1 || true
    rm -f /var/lib/vz/snippets/former.sh $log
    "$share/lab/guest/setup" "$share"
}

install_package() { dpkg --install "${packages[0]}"; }

# What a node has of pin-hook, apart from tables and what dpkg keeps.
traces() {
    find /etc/pve /etc/systemd/system /run/systemd/system /usr/lib/systemd/system /usr/sbin /usr/share/pin-hook \
        /usr/libexec /usr/share/pve-manager \
        /var/lib/vz /var/lib/pin-hook /run/pin-hook \( -name '*pin-hook*' -o -name '*.chain' -o -path '*pin-hook/*' \) 2> /dev/null | sort
}

# replay FILE: the console blocks of a document: "# command", then what it prints, with "..." for anything.
replay() {
    local line inside='' command='' pattern=''
    while IFS= read -r line; do
        case $inside:$line in
        :'```console') inside=1 command='' ;;
        1:'```') compare; inside='' ;;
        1:'# '*) compare; command=${line#\# } pattern='' ;;
        1:...) pattern+='*' ;;
        1:*) pattern+=$(sed 's/[][*?\\]/\\&/g; s/\.\.\./*/g' <<< "$line")$'\n' ;;
        esac
    done < "$1"
}

compare() {
    local printed
    [ -n "$command" ] || return 0
    # What takes more than 2 s says what it waits for: on a slow machine.
    printed=$(bash -c "$command" 2>&1 < /dev/null | grep -v '^pin-hook: waiting for ' || true)
    # shellcheck disable=SC2053
    if [[ ${printed:+$printed$'\n'} == $pattern ]]; then
        ok "quick start: $command"
    else
        not_ok "quick start: $command"
        printf '#   expected: %q\n#   actual:   %q\n' "$pattern" "$printed"
    fi
    command=''
}

equal 'there is one package to install' 1 ${#packages[@]}
[ ${#packages[@]} -eq 1 ] || exit 1

# What the lab has installed by itself is no package's.
released --all
systemctl disable --quiet --now pin-hook-boot.service
rm -rf /usr/sbin/pin-hook /var/lib/vz/snippets/pin-hook /usr/lib/systemd/system/pin-hook-* /etc/pve/pin-hook /run/pin-hook
systemctl daemon-reload
traces > "$work/before"
equal 'nothing of pin-hook is there' '' "$(cat "$work/before")"

check 'the package can be installed' install_package
equal 'it prepares every boot' enabled "$(systemctl is-enabled pin-hook-boot.service)"
check 'and has prepared this one' systemctl is-active --quiet pin-hook-boot.service
check 'the other nodes are told' test -e /etc/pve/pin-hook/nodes/pve1
# The lab's image leaves out what is only read.
has_page() { dpkg --listfiles pin-hook | grep -qx /usr/share/man/man8/pin-hook.8.gz; }
check 'its manual pages are there' has_page
check 'it can notify an admin' test -x /usr/libexec/pin-hook/notify
equal 'with texts where PVE looks for them' 'body.html.hbs body.txt.hbs subject.txt.hbs' \
    "$(cd /usr/share/pve-manager/templates/default && printf '%s\n' pin-hook-* | sed 's/^pin-hook-//' | sort | paste -sd' ')"

vm_conf 100
refuses 'without a table a VM is not enabled' pin-hook enable 100
said "$work/refused"
check 'and the remedy is named' has "$work/refused" 'pin-hook init 100'

# The cluster's file system is read-only: what was done until PVE refuses is undone, and nothing else is blamed.
table 100 'cpus = "4-7"'
traces > "$work/then"
mount --bind /etc/pve /etc/pve
mount -o remount,bind,ro /etc/pve
refuses 'a VM is not enabled while /etc/pve is read-only' pin-hook enable 100
umount /etc/pve
check 'because of that' has "$work/refused" 'Read-only file system'
check 'and all is undone' lacks "$work/refused" 'undoing it failed'
equal 'so that nothing is left of it' "$(cat "$work/then")" "$(traces)"
rm /etc/pin-hook/100.toml

cp "$(conf_path 100)" "$work/conf"
replay "$share/package/quickstart.md"
equal 'the config is as it was' "$(cat "$work/conf")" "$(cat "$(conf_path 100)")"
equal 'nothing is left of it but the table' "$(printf '%s\n' /etc/pve/pin-hook /etc/pve/pin-hook/nodes /etc/pve/pin-hook/nodes/pve1)" \
    "$(traces | grep ^/etc/pve)"

# An upgrade under a VM that runs.
pin-hook enable 100 > "$work/enable"
qm start 100 > /dev/null
is_isolated() { [[ $(standing 100) == 'isolated 4-7: '* ]]; }
check 'isolated before the upgrade' wait_until 60 'isolated' is_isolated
isolated=$(standing 100)
check 'the package is installed over itself' install_package
equal 'the VM is isolated as before' "$isolated" "$(standing 100)"
check 'and as wanted' pin-hook status 100
qm stop 100 > /dev/null

# A stop that fails is a fact too, with what it complains of.
stop() { qm stop 100 > "$work/stop" 2>&1 || { not_ok 'the VM is stopped'; said "$work/stop"; }; }

# A hookscript that was there before: first at a start, last at a stop, and its refusal counts.
cat > /var/lib/vz/snippets/former.sh << END
#!/bin/sh
echo "former hook: \$1 \$2"
echo "\$2" >> $log
[ ! -e /run/refuse ] || exit 9
END
chmod +x /var/lib/vz/snippets/former.sh
pin-hook disable 100 > /dev/null
qm set 100 --hookscript local:snippets/former.sh > /dev/null
pin-hook enable 100 > "$work/enable"
said "$work/enable"
check 'enable says that it stays in force' has "$work/enable" 'local:snippets/former.sh stays in use'
qm start 100 > "$work/start" 2>&1
comes_to 'isolated with a former hook' "$isolated" 100
check 'what it prints is in the task log' has "$work/start" 'former hook: 100 pre-start'
stop
equal 'it was called in every phase' 'pre-start,post-start,pre-stop,post-stop' "$(paste -sd, $log)"
first=$(grep -n 'former hook: 100 pre-start' "$work/start" | cut -d: -f1)
check 'at a start before us' test "$first" -lt "$(grep -n 'reserved' "$work/start" | cut -d: -f1)"
touch /run/refuse
refuses 'its refusal refuses the start' qm start 100
check 'with its exit status' has "$work/refused" 'exit code 9'
equal 'and nothing is claimed' '' "$(cat /run/pin-hook/journal 2> /dev/null)"
rm /run/refuse

# Whoever removes the program by hand is told how the host is restored.
qm start 100 > /dev/null
comes_to 'isolated before the program is gone' "$isolated" 100
rm /usr/sbin/pin-hook
stop
check 'a stop without it says that the host is not restored' has "$work/stop" 'the host is not restored'
refuses 'then the package is not removed' dpkg --remove pin-hook
check 'but to be installed again' has "$work/refused" 'install the package again'
check 'it is' install_package
check 'and restores the host' pin-hook reconcile
equal 'all of it' '' "$(cat /run/pin-hook/journal 2> /dev/null)"

# A removal finds out by itself what is held when the state is gone.
irqs=$(cat /proc/irq/default_smp_affinity)
qm start 100 > /dev/null
comes_to 'isolated before the state is removed' "$isolated" 100
rm -rf /run/pin-hook
check 'the package can be removed without the state' dpkg --remove pin-hook
comes_to 'the VM runs on without CPUs' 'none: 0-7 0-7 0-7 0-7' 100
equal 'and interrupts have theirs again' "$irqs" "$(cat /proc/irq/default_smp_affinity)"
stop
check 'the package is installed again' install_package

# Removed, the VM starts; purged, it has the hookscript that it had.
qm start 100 > /dev/null
comes_to 'isolated before the removal' "$isolated" 100
check 'the package can be removed' dpkg --remove pin-hook
comes_to 'the VM runs on without CPUs of its own' 'none: 0-7 0-7 0-7 0-7' 100
stop
start_alone() { qm start 100 > "$work/start" 2>&1; }
check 'without the program it starts' start_alone
check 'with a notice' has "$work/start" 'is not installed on this node'
check 'and its former hook' has "$work/start" 'former hook: 100 pre-start'
stop
check 'the package can be purged' dpkg --purge pin-hook
cp "$work/check" "$work/purge"
said "$work/purge"
check 'and says what became of the hookscript' has "$work/purge" 'vm 100 has its hookscript local:snippets/former.sh again'
equal 'the VM has the hookscript that it had' 'hookscript: local:snippets/former.sh' "$(grep ^hookscript "$(conf_path 100)")"
equal 'and nothing else is left' "$(cat "$work/before")" "$(traces)"
check 'it starts as ever' qm start 100
stop
