# The lab's outer machine: boot it, give it jobs, end it; sourced by bash after host.sh.
# shellcheck shell=bash disable=SC2154

boot_deadline=${LAB_BOOT_DEADLINE:-240}

# Sets vm (its directory) and image for a machine of this name.
machine_use() {
    vm=$lab_dir/vm-$1
    mkdir -p "$vm/share/jobs"
}

# Prints the image that has kernel $1; QEMU and firmware are trixie's for all of them.
image_with() { case $1 in bookworm) "$lab_source/image" --suite bookworm ;; *) echo "$image" ;; esac; }

machine_alive() { [ -s "$vm/qemu.pid" ] && kill -0 "$(cat "$vm/qemu.pid")" 2> /dev/null; }

# Copies what the guest needs into the share; called before each job, so edits are seen at once.
share_fill() {
    local share=$vm/share binary=${PIN_HOOK:-$repo/target/x86_64-unknown-linux-gnu/release/pin-hook}
    rm -rf "$share/lab" "$share/systemd" "$share/hooks" "$share/pin-hook" "$share/package"
    mkdir -p "$share/lab"
    cp -rp "$lab_source/guest" "$lab_source/cases" "$share/lab/"
    cp "$vm/kernel" "$vm/boot" "$share/"
    assemble_guests "$share/lab/guest"
    [ ! -d "$repo/systemd" ] || cp -rp "$repo/systemd" "$share/"
    [ ! -d "$repo/hooks" ] || cp -rp "$repo/hooks" "$share/"
    if [ -f "$binary" ]; then cp -p "$binary" "$share/pin-hook"; fi
    mkdir "$share/package"
    cp -p "$repo"/target/deb/*.deb "$repo/docs/quickstart.md" "$repo/README.md" "$share/package/" 2> /dev/null || true
}

# Guests without a firmware: the "BIOS" is the guest (guest/bios.S).
assemble_guests() {
    local name object=$1/bios.o
    for name in idle spin driver count; do
        as --32 -I "$lab_source/guest" --defsym "${name^^}=1" -o "$object" "$lab_source/guest/bios.S"
        ld -m elf_i386 -e 0 -Ttext 0 --oformat binary -o "$1/$name.bin" "$object"
    done
    rm "$object"
}

# Becomes QEMU from the image's own tree: igb needs QEMU 8, and no QEMU is installed here.
exec_qemu() {
    local root=$image/root libs
    libs=$root/usr/lib/x86_64-linux-gnu
    export QEMU_MODULE_DIR=$libs/qemu
    exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$libs:$libs/pulseaudio" \
        "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
}

# 2 packages x 2 cores x 2 threads, 2 nodes, IOMMU, SR-IOV, NVMe, frequencies.
# thread=single: with one thread per CPU one boot in five hangs on lost timer interrupts.
# Without erms and its kind the kernel copies by words and not by "rep movsb", which is emulated byte by byte; without
# avx the libc takes SSE2. An Intel that old that the kernel trusts its TSC (model 58) would save a tenth more, but its
# BIOS puts devices where the kernel does not put them again after a rescan (38-rescan).
start_qemu() {
    local kernel=$1 system=$2 append=$3 more=()
    # What protects the kernel from its users takes a tenth of the time, and nothing here is about it.
    local unhardened='mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off'
    # A disk of 350 bytes a second when 1 MiB has been read, which the boot does not do: then its driver takes 23 s
    # to probe it. Only where a case asks for it by "boot:".
    case $append in *lab.slow-disk*)
        truncate -s 8M "$vm/slow.img"
        more=(-drive "file=$vm/slow.img,if=none,id=slow,format=raw,throttling.bps-total=350,throttling.bps-total-max=1048576"
            -device virtio-blk-pci,drive=slow,serial=slow,addr=0x1c) ;;
    esac
    # Its copy of what the guest writes to the disk stays beside the rest.
    TMPDIR=$vm exec_qemu -name "lab-$(basename "$vm")" -machine q35 -accel tcg,thread=single,tb-size=512 \
        -cpu max,-la57,-smap,-erms,-fsrm,-fsrs,-fzrm,-avx,-avx2 -m 4096 \
        -smp 8,sockets=2,cores=2,threads=2 \
        -object memory-backend-ram,id=m0,size=2048M -object memory-backend-ram,id=m1,size=2048M \
        -numa node,nodeid=0,memdev=m0,cpus=0-3 -numa node,nodeid=1,memdev=m1,cpus=4-7 \
        -device intel-iommu,intremap=on,caching-mode=on -acpitable "file=$image/ssdt.aml" \
        -drive "file=$system/disk.img,if=virtio,format=raw,snapshot=on" \
        -drive "file=$vm/nvme.img,if=none,id=nvme,format=raw" -device nvme,drive=nvme,serial=lab \
        -device pcie-root-port,id=rp1,slot=1 -netdev user,id=n0,restrict=on -device igb,bus=rp1,netdev=n0 \
        -device virtio-rng-pci "${more[@]}" \
        -virtfs "local,path=$vm/share,mount_tag=job,security_model=none" \
        -kernel "$system/kernel-$kernel" -initrd "$system/initrd-$kernel" \
        -append "root=/dev/vda rw console=ttyS0 quiet no_timer_check intel_iommu=on $unhardened panic=-1 systemd.show_status=no $append" \
        -display none -nodefaults -serial "file:$vm/console.log" -chardev "pipe,id=control,path=$vm/control" \
        -device isa-serial,chardev=control -no-reboot ${LAB_ICOUNT:+-icount "shift=$LAB_ICOUNT"} > "$vm/qemu.log" 2>&1 < /dev/null 9>&- &
    echo $! > "$vm/qemu.pid"
    disown
}

# Boots kernel $1 with parameters $2 and waits for the agent; false when it does not come up in time.
boot_once() {
    machine_alive && fail "machine $(basename "$vm") is running already (tests/lab/stop ends it)"
    rm -rf "$vm/share" "$vm"/control.*
    mkdir -p "$vm/share/jobs"
    mkfifo "$vm/control.in" "$vm/control.out"
    need_space "$vm" 800 "a machine"
    truncate -s 64M "$vm/nvme.img"
    : > "$vm/console.log"
    echo "$1" > "$vm/kernel"
    echo "$2" > "$vm/boot"
    share_fill
    start_qemu "$1" "$(image_with "$1")" "$2 ${LAB_APPEND:-}"
    exec 8<> "$vm/control.out" # keeps QEMU's open from blocking; nobody answers there
    local end=$((SECONDS + boot_deadline))
    until [ -e "$vm/share/ready" ]; do
        if ! machine_alive || [ $SECONDS -ge $end ]; then
            machine_kill
            return 1
        fi
        sleep 0.2
    done
}

# machine_boot KERNEL [PARAMETERS]: a boot that hangs or dies is repeated once, the second failure is final.
machine_boot() {
    local begin=$SECONDS
    if ! boot_once "$1" "${2:-}"; then
        say "boot of kernel $1 failed after $((SECONDS - begin)) s, once more"
        tail -n 15 "$vm/console.log" "$vm/qemu.log" >&2
        begin=$SECONDS
        boot_once "$1" "${2:-}" || { tail -n 40 "$vm/console.log" "$vm/qemu.log" >&2; fail "kernel $1 does not boot within $boot_deadline s, twice: it hangs, or this machine is too slow"; }
    fi
    say "kernel $1${2:+ with $2} booted in $((SECONDS - begin)) s ($(cat "$vm/share/ready"))"
}

# Prints what was added to file $1 since byte $offset.
print_new() {
    local size
    size=$(stat -c %s "$1" 2> /dev/null || echo 0)
    [ "$size" -gt "$offset" ] || return 0
    tail -c +$((offset + 1)) "$1" | head -c $((size - offset))
    offset=$size
}

# Tells, looking every 10 s, whether what the guest writes soon finds no room: QEMU would stop the machine then.
disk_full() {
    [ $SECONDS -ge "${disk_looked:-0}" ] || return 1
    disk_looked=$((SECONDS + 10))
    [ "$(free_mb "$vm")" -lt 100 ]
}

# Runs the script file $1 in the guest, output to stdout as it comes; returns its exit status,
# 124 after $2 seconds, 125 when the machine died.
machine_job() {
    local number dir end offset=0
    share_fill
    number=$(($(find "$vm/share/jobs" -mindepth 1 -maxdepth 1 | wc -l) + 1))
    dir=$vm/share/jobs/$number
    mkdir "$dir"
    cp "$1" "$dir/script"
    : > "$dir/out"
    end=$((SECONDS + $2))
    echo "run $number" 1<> "$vm/control.in" # does not wait for a reader
    until [ -e "$dir/rc" ]; do
        print_new "$dir/out"
        machine_alive || { print_new "$dir/out"; say "the machine died"; tail -n 30 "$vm/console.log" >&2; return 125; }
        if disk_full; then
            print_new "$dir/out"
            say "disk full: $vm has $(free_mb "$vm") MB left"
            return 125
        fi
        if [ $SECONDS -ge $end ]; then
            print_new "$dir/out"
            say "job not finished after $2 s: it hangs, or this machine is too slow"
            tail -n 5 "$vm/console.log" >&2
            echo kill 1<> "$vm/control.in"
            return 124
        fi
        sleep 0.2
    done
    print_new "$dir/out"
    return "$(cat "$dir/rc")"
}

machine_kill() {
    while machine_alive; do
        kill -KILL "$(cat "$vm/qemu.pid")"
        sleep 0.1
    done
    rm -f "$vm/qemu.pid"
}
