//! Leaving out of files what is nobody's business when they are shown to others: secrets always, and what
//! tells whose host it is (names, serial numbers, addresses) unless that is asked for.
//!
//! What pin-hook judges by stays, so that it says the same of the cleaned files. Cleaning what is clean
//! already changes nothing.

mod alias;
mod conf;
pub mod texts;

pub use self::alias::Aliases;
pub use self::texts::version;

/// What is left of the files of a host.
#[derive(Debug, Default)]
pub struct Cleaner {
    /// What stands for names, here and there the same.
    pub aliases: Aliases,
    /// Whether names, serial numbers and addresses are left as they are.
    pub keeps_names: bool,
}

impl Cleaner {
    /// Returns what is left of the text of a file.
    pub fn text(&mut self, path: &str, text: &str) -> String {
        let left = self.without_secrets(path, text);
        match self.keeps_names || is_checked(path) {
            true => left,
            false => self.without_names(path, &left),
        }
    }

    /// Returns what a name in a directory is shown as.
    pub fn name(&mut self, dir: &str, name: &str) -> String {
        match self.keeps_names {
            true => name.to_owned(),
            false => self.aliases.name(dir, name),
        }
    }

    /// Returns what is left of the target of a link in a directory.
    pub fn link(&mut self, dir: &str, target: &str) -> String {
        let mut dir = match target.starts_with('/') {
            true => String::new(),
            false => dir.to_owned(),
        };
        let parts = target.split('/').map(|part| match part {
            "" | "." | ".." => part.to_owned(),
            part => {
                let shown = self.name(&dir, part);
                dir = format!("{dir}/{part}");
                shown
            }
        });
        parts.collect::<Vec<String>>().join("/")
    }

    fn without_secrets(&self, path: &str, text: &str) -> String {
        let names = self.keeps_names;
        match path {
            "/proc/cmdline" | "/etc/kernel/cmdline" => texts::parameters(text, names),
            "/var/lib/dpkg/status" => texts::packages(text),
            "/etc/pve/storage.cfg" => texts::properties(text, &texts::STORAGE),
            "/etc/pve/ha/resources.cfg" => texts::properties(text, &["state", "group"]),
            "/etc/pve/ha/groups.cfg" => texts::properties(text, &["nodes", "restricted"]),
            "/etc/pve/ha/rules.cfg" => {
                texts::properties(text, &["resources", "nodes", "strict", "disable"])
            }
            "/etc/pve/replication.cfg" => texts::properties(text, &["target"]),
            "/dev/kmsg" => texts::iommu_messages(text),
            "/run/pin-hook/journal" => text.trim_end_matches('\0').to_owned(),
            _ if is_within(path, "/var/lib/pin-hook/measured/") => texts::measurement(text, names),
            _ if is_within(path, "/etc/default/grub") => texts::grub(text, names),
            _ if is_within(path, "/run/udev/data") => {
                texts::lines(text, &["E:ID_FS_TYPE=", "E:ID_FS_LABEL="])
            }
            _ if is_within(path, "/etc/pve/mapping") => texts::lines_but(text, "description"),
            _ if is_in(path, "/etc/pve/", "/qemu-server/") => conf::of_vm(text, names),
            _ if is_in(path, "/etc/pve/", "/lxc/") => conf::of_container(text),
            _ if is_in(path, "/proc/", "/cmdline") => texts::command(text),
            _ if is_in(path, "/proc/", "/mountinfo") => texts::mounts(text),
            _ if is_in(path, "/proc/", "/net/ipv6_route") => texts::default_routes(text),
            _ if is_anywhere(path) => texts::snippet(text),
            _ if path.contains("/systemd/") && !is_ours(path) => texts::unit(text),
            _ if is_within(path, "/etc/modprobe.d") || is_ours(path) => text.to_owned(),
            _ if texts::AT_BOOT.iter().any(|place| is_within(path, place)) => texts::virtuals(text),
            _ => text.to_owned(),
        }
    }

    fn without_names(&mut self, path: &str, text: &str) -> String {
        let aliases = &mut self.aliases;
        match path {
            "/proc/sys/kernel/hostname" | "/etc/hostname" => aliases.host_name(text),
            _ if is_within(path, "/etc/pve") || is_within(path, "/etc/pin-hook") => {
                let text = aliases.without_nodes(text);
                aliases.without_ids(&text)
            }
            _ => aliases.without_ids(text),
        }
    }
}

/// Tells whether a file has a check of its own behind every line; it has no names.
fn is_checked(path: &str) -> bool {
    path == "/run/pin-hook/journal"
}

/// Tells whether a file is where only storages are, which may be anywhere.
fn is_anywhere(path: &str) -> bool {
    const ELSEWHERE: [&str; 7] = [
        "/proc/",
        "/sys/",
        "/etc/",
        "/run/",
        "/usr/lib/",
        "/usr/local/lib/",
        "/lib/",
    ];
    path.contains("/snippets/") || !ELSEWHERE.iter().any(|above| path.starts_with(above))
}

/// Tells whether a drop-in is compared with what it is to say.
fn is_ours(path: &str) -> bool {
    path.contains("pin-hook") || path.ends_with("/50-AllowedCPUs.conf")
}

fn is_within(path: &str, above: &str) -> bool {
    path.starts_with(above)
}

fn is_in(path: &str, above: &str, part: &str) -> bool {
    path.starts_with(above) && path.contains(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(path: &str, text: &str) -> String {
        let mut cleaner = Cleaner {
            aliases: Aliases::of_nodes("pve1", &["alpha".to_owned(), "pve1".to_owned()]),
            keeps_names: false,
        };
        let once = cleaner.text(path, text);
        assert_eq!(cleaner.text(path, &once), once, "{path}");
        once
    }

    #[test]
    fn what_a_vm_is_judged_by_stays() {
        let text = "#cpu_taskset 2-3\n#my password is x\nname: bank\ncores: 2\n\
                    args: -smp 2,threads=2 -vnc :1,password=x -cpu 'host' -global host-x86_64-cpu.topoext=on \
                    -global rtc.x=y\n\
                    cipassword: x\nsshkeys: ssh-rsa\nscsi0: local:vm-100-disk-0,serial=WD1,iothread=1\n\
                    scsi1: /dev/disk/by-id/ata-WD-123,size=1G\nnet0: virtio=BC:24:11:2E:6A:01,bridge=vmbr0\n\
                    smbios1: uuid=x\n[snap]\nhookscript: local:snippets/pin-hook\n";
        let left = "#cpu_taskset\ncores: 2\nargs: -smp 2,threads=2 -vnc -cpu 'host' -global host-x86_64-cpu.topoext=on -global\n\
                    scsi0: local:vm-100-disk-0,iothread=1\nscsi1: /dev/disk/by-id/disk-1,size=1G\n\
                    net0: virtio=00:00:00:00:00:00,bridge=vmbr0\n[snapshot-1]\nhookscript: local:snippets/pin-hook\n";
        assert_eq!(clean("/etc/pve/qemu-server/100.conf", text), left);
    }

    #[test]
    fn nodes_have_other_names() {
        assert_eq!(clean("/etc/hostname", "pve1.example.org\n"), "node\n");
        let table = "# on pve1, not pve10\n[node.pve1]\ncpus = \"1\"\n[node.alpha]\n";
        let left = "# on node, not pve10\n[node.node]\ncpus = \"1\"\n[node.node-2]\n";
        assert_eq!(clean("/etc/pin-hook/100.toml", table), left);
        let mut cleaner = Cleaner {
            aliases: Aliases::of_nodes("pve1", &["pve1".to_owned()]),
            keeps_names: false,
        };
        let link = cleaner.link("/etc/pve", "nodes/pve1/qemu-server");
        assert_eq!(link, "nodes/node/qemu-server");
        assert_eq!(cleaner.aliases.real("/etc/pve/nodes", "node"), "pve1");
    }

    #[test]
    fn other_files_keep_what_is_needed() {
        for (path, text, left) in [
            (
                "/proc/cmdline",
                "root=UUID=1b4e28ba-2fa1-11d2-883f-0016d3cca427 quiet ip=10.0.0.1 my.token=x\n",
                "root=hidden quiet ip=hidden my.token=hidden\n",
            ),
            (
                "/proc/7/cmdline",
                "/usr/bin/kvm\0-id\0one\0-pidfile\0/p\0-device\0vfio-pci,host=01:00.0,id=x\0-vnc\0x\0",
                "/usr/bin/kvm\0-pidfile\0/p\0-device\0vfio-pci,host=01:00.0\0",
            ),
            ("/proc/8/cmdline", "mysql\0-psecret\0", ""),
            (
                "/proc/9/cmdline",
                "task UPID:pve1:1:2:3:stopall::root@pam:\0",
                "task UPID:::::stopall:\0",
            ),
            (
                "/etc/systemd/system/a.service",
                "[Service]\nEnvironment=A=secret\nCPUAffinity=1 \\\n 2\nExecStart=x\n",
                "[Service]\nCPUAffinity=1 \\\n 2\n",
            ),
            ("/etc/systemd/system/b.service", "# b\nX=1\n", "[Unit]\n"),
            (
                "/etc/pve/storage.cfg",
                "cifs: nas\n\tserver 10.0.0.9\n\tusername me\n\tcontent snippets\n",
                "cifs: nas\n\tcontent snippets\n",
            ),
            (
                "/etc/pve/ha/rules.cfg",
                "node-affinity: a\n\tcomment secret\n\tresources vm:100\n\tnodes pve1,alpha:2\n\tstrict 1\n",
                "node-affinity: a\n\tresources vm:100\n\tnodes node,node-2:2\n\tstrict 1\n",
            ),
            (
                "/etc/pve/ha/groups.cfg",
                "group: a\n\tcomment secret\n\tnodes pve1\n\trestricted 1\n",
                "group: a\n\tnodes node\n\trestricted 1\n",
            ),
            ("/var/lib/vz/snippets/x.sh", "TOKEN=x\n", ""),
            ("/mnt/pve/nas/hooks/x.sh", "TOKEN=x\n", ""),
            (
                "/proc/9/net/ipv6_route",
                "20010db8000000000000000000000000 40 x\n00000000000000000000000000000000 00 y\n",
                "00000000000000000000000000000000 00 y\n",
            ),
        ] {
            assert_eq!(clean(path, text), left, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_cleaned(text in "[ -~\n\u{0}äß—]{0,120}", keeps_names: bool) {
            let paths = [
                "/etc/pve/qemu-server/100.conf", "/etc/pve/lxc/101.conf", "/proc/cmdline",
                "/proc/7/cmdline", "/etc/default/grub", "/proc/7/mountinfo", "/etc/pin-hook/100.toml",
                "/etc/systemd/system/a.service", "/var/lib/dpkg/status", "/etc/pve/storage.cfg",
                "/var/lib/pin-hook/measured/a.json",
            ];
            for path in paths {
                let mut cleaner = Cleaner {
                    aliases: Aliases::of_nodes("pve1", &["b".to_owned()]),
                    keeps_names,
                };
                let once = cleaner.text(path, &text);
                let twice = cleaner.text(path, &once);
                proptest::prop_assert_eq!(twice, once, "{}", path);
            }
        }

        #[test]
        fn whatever_is_an_id_is_found(
            before in "[ ,=/\n]{0,3}",
            id in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[1-9a-f]{12}|([0-9A-F]{2}:){5}[1-9A-F]{2}",
            after in "[ ,/\n]{0,3}",
        ) {
            let mut aliases = Aliases::default();
            let left = aliases.without_ids(&format!("{before}{id}{after}"));
            proptest::prop_assert!(!left.contains(&id), "{}", left);
            proptest::prop_assert!(left.starts_with(&before) && left.ends_with(&after));
        }
    }
}
