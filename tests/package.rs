//! The maintainer scripts of the Debian package, with stand-ins for PVE's and Debian's programs.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const HOOKED: &str = "cores: 1\nhookscript: local:snippets/pin-hook\n";

/// A node below a directory, as the scripts see it.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Node {
            dir: TempDir::new().unwrap(),
        };
        node.program("uname", "echo pve1.example.org");
        node.program("pvesm", "echo $ROOT/var/lib/vz/${2#local:}");
        node.program(
            "qm",
            "f=$ROOT/etc/pve/nodes/pve1/qemu-server/$2.conf; sed -i '/^hookscript:/d' $f
             [ $3 = --delete ] || echo \"hookscript: $4\" >> $f",
        );
        for name in [
            "systemctl",
            "deb-systemd-helper",
            "deb-systemd-invoke",
            "pin-hook",
        ] {
            node.program(name, "true");
        }
        node.put(
            "/var/lib/vz/snippets/pin-hook",
            "#!/bin/sh\n# calls pin-hook(8)\n",
        );
        node.put("/etc/pve/pin-hook/nodes/pve1", "local:snippets/pin-hook\n");
        node.put(
            "/run/systemd/system/100.scope.d/50-pin-hook.conf",
            "[Scope]\n",
        );
        node.put("/run/pin-hook/journal", "");
        node.put("/var/lib/pin-hook/saved/100.conf", "cores: 1\n");
        node
    }

    /// A program that writes its call into a log and then does `body`.
    fn program(&self, name: &str, body: &str) {
        let text = format!("#!/bin/sh\necho \"{name} $*\" >> $ROOT/log\n{body}\n");
        self.executable(&format!("/bin/{name}"), &text);
    }

    fn executable(&self, path: &str, text: &str) {
        self.put(path, text);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.at(path), mode).unwrap();
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.dir.path().display())
    }

    fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(Path::new(&self.at(path)).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    fn vm(&self, node: &str, vmid: u32, config: &str) {
        self.put(
            &format!("/etc/pve/nodes/{node}/qemu-server/{vmid}.conf"),
            config,
        );
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        Path::new(&self.at(path)).exists()
    }

    /// Runs a maintainer script; returns its exit status, and what it called. What it says is in
    /// the file `/errors`.
    fn script(&self, name: &str, argument: &str) -> (Option<i32>, String) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("packaging/deb")
            .join(name);
        let mut text = fs::read_to_string(source).unwrap();
        for top in ["/etc/", "/run/", "/sys/", "/var/"] {
            text = text.replace(top, &self.at(top));
        }
        fs::write(self.at("/script"), text).unwrap();
        fs::write(self.at("/log"), "").unwrap();
        let path = format!("{}:{}", self.at("/bin"), std::env::var("PATH").unwrap());
        let mut command = Command::new("/bin/sh");
        let command = command.arg(self.at("/script")).arg(argument);
        let command = command.env("PATH", path).env("ROOT", self.dir.path());
        let output = command.output().unwrap();
        fs::write(self.at("/output"), &output.stdout).unwrap();
        fs::write(self.at("/errors"), &output.stderr).unwrap();
        (output.status.code(), self.get("/log"))
    }
}

#[test]
fn an_upgrade_leaves_what_runs_alone() {
    let node = Node::new();
    for (name, argument) in [("prerm", "upgrade"), ("postrm", "upgrade")] {
        let (status, calls) = node.script(name, argument);
        assert_eq!(status, Some(0), "{name}");
        assert!(
            !calls.contains("pin-hook release") && !calls.contains("stop"),
            "{calls}"
        );
    }
    let (status, calls) = node.script("postinst", "configure");
    assert_eq!(status, Some(0));
    assert!(
        calls.contains("deb-systemd-invoke restart pin-hook-boot.service"),
        "{calls}"
    );
    assert!(!calls.contains("release"), "{calls}");
    assert!(node.has("/run/pin-hook/journal") && node.has("/etc/pve/pin-hook/nodes/pve1"));
}

#[test]
fn a_removal_gives_everything_back_and_leaves_vms_hooked() {
    let node = Node::new();
    node.vm("pve1", 100, HOOKED);
    let (status, calls) = node.script("prerm", "remove");
    assert_eq!(status, Some(0));
    assert!(calls.contains("pin-hook release --all"), "{calls}");
    assert!(node.get("/output").contains(
        "stays in the configs of these vms unless this is a purge; without the program it does nothing: 100\n"
    ));
    assert!(!node.has("/etc/pve/pin-hook/nodes/pve1"));
    assert_eq!(node.script("postrm", "remove").0, Some(0));
    assert_eq!(node.get("/etc/pve/nodes/pve1/qemu-server/100.conf"), HOOKED);
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
}

#[test]
fn a_removal_that_would_leave_a_partition_is_refused() {
    let node = Node::new();
    node.program("pin-hook", "exit 3");
    for group in [
        "100.scope/vcpu",
        "100.scope/io",
        "101.scope/vcpu",
        "102.scope",
    ] {
        node.put(
            &format!("/sys/fs/cgroup/qemu.slice/{group}/cgroup.procs"),
            "",
        );
    }
    assert_eq!(node.script("prerm", "remove").0, Some(1));
    assert!(node.has("/etc/pve/pin-hook/nodes/pve1"));
    let said = node.get("/errors");
    assert!(said.contains("still own cpus: 100 101 \n"), "{said}");
    assert!(
        said.contains("stop them, then: pin-hook release --all"),
        "{said}"
    );
}

#[test]
fn a_removal_that_leaves_no_partition_warns_of_the_rest() {
    let node = Node::new();
    node.program("pin-hook", "exit 3");
    node.put("/sys/fs/cgroup/qemu.slice/100.scope/cgroup.procs", "");
    assert_eq!(node.script("prerm", "remove").0, Some(0));
    assert!(!node.has("/etc/pve/pin-hook/nodes/pve1"));
    let said = node.get("/errors");
    assert!(
        said.contains("warning: not everything was restored"),
        "{said}"
    );
}

/// Somebody has deleted it by hand: only the program can give back what is held.
#[test]
fn a_removal_without_the_program_says_how_the_host_is_restored() {
    let node = Node::new();
    fs::remove_file(node.at("/bin/pin-hook")).unwrap();
    node.put("/run/pin-hook/journal", "something is held\n");
    assert_eq!(node.script("prerm", "remove").0, Some(1));
    let said = node.get("/errors");
    assert!(said.contains("install the package again"), "{said}");
    node.put("/run/pin-hook/journal", "");
    assert_eq!(node.script("prerm", "remove").0, Some(0));
    assert_eq!(node.get("/errors"), "");
}

#[test]
fn after_a_purge_every_vm_has_the_hookscript_that_it_had() {
    let node = Node::new();
    node.vm("pve1", 100, HOOKED);
    node.vm("pve1", 101, HOOKED);
    node.vm("pve1", 102, "cores: 1\nhookscript: local:snippets/other\n");
    node.put("/etc/pve/pin-hook/101.chain", "local:snippets/gpu.sh\n");
    assert_eq!(node.script("prerm", "remove").0, Some(0));
    assert_eq!(node.script("postrm", "purge").0, Some(0));
    let config = |vmid: u32| node.get(&format!("/etc/pve/nodes/pve1/qemu-server/{vmid}.conf"));
    assert_eq!(config(100), "cores: 1\n");
    assert_eq!(config(101), "cores: 1\nhookscript: local:snippets/gpu.sh\n");
    assert_eq!(config(102), "cores: 1\nhookscript: local:snippets/other\n");
    for path in [
        "/var/lib/vz/snippets/pin-hook",
        "/var/lib/pin-hook",
        "/run/pin-hook",
        "/run/systemd/system/100.scope.d",
        "/etc/pve/pin-hook",
    ] {
        assert!(!node.has(path), "{path}");
    }
}

#[test]
fn a_purge_keeps_the_snippet_that_a_config_still_names() {
    let node = Node::new();
    node.vm("pve1", 100, &format!("cores: 1\n\n[snap]\n{HOOKED}"));
    node.put("/etc/pve/pin-hook/103.toml", "cpus = \"2\"\n");
    assert_eq!(node.script("prerm", "remove").0, Some(0));
    assert_eq!(node.script("postrm", "purge").0, Some(0));
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
    assert!(
        node.has("/etc/pve/pin-hook/103.toml"),
        "tables were written by people"
    );
}

#[test]
fn a_purge_keeps_the_snippet_that_a_container_names() {
    let node = Node::new();
    node.put("/etc/pve/nodes/pve2/lxc/104.conf", HOOKED);
    assert_eq!(node.script("prerm", "remove").0, Some(0));
    assert_eq!(node.script("postrm", "purge").0, Some(0));
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
}

/// A purge on a node whose VM 100 had a hookscript that PVE does not take now; returns what was
/// warned of.
fn purge_while_pve_refuses(node: &Node) -> String {
    node.vm("pve1", 100, HOOKED);
    node.put("/etc/pve/pin-hook/100.chain", "local:snippets/gpu.sh\n");
    node.program(
        "qm",
        "[ $3 = --delete ] || exit 255
         sed -i '/^hookscript:/d' $ROOT/etc/pve/nodes/pve1/qemu-server/$2.conf",
    );
    assert_eq!(node.script("prerm", "remove").0, Some(0));
    assert_eq!(node.script("postrm", "purge").0, Some(0));
    node.get("/errors")
}

#[test]
fn a_former_hook_that_is_gone_does_not_keep_the_vm_from_starting() {
    let node = Node::new();
    let warned = purge_while_pve_refuses(&node);
    assert!(
        warned.contains("vm 100 had the hookscript local:snippets/gpu.sh, which is gone"),
        "{warned}"
    );
    assert_eq!(
        node.get("/etc/pve/nodes/pve1/qemu-server/100.conf"),
        "cores: 1\n"
    );
    assert!(!node.has("/etc/pve/pin-hook"));
}

#[test]
fn a_former_hook_that_pve_does_not_take_now_is_not_lost() {
    let node = Node::new();
    node.executable("/var/lib/vz/snippets/gpu.sh", "#!/bin/sh\n");
    let warned = purge_while_pve_refuses(&node);
    let line = format!(
        "by hand: qm set 100 --hookscript local:snippets/gpu.sh && rm {}",
        node.at("/etc/pve/pin-hook/100.chain")
    );
    assert!(warned.contains(&line), "{warned}");
    assert_eq!(node.get("/etc/pve/nodes/pve1/qemu-server/100.conf"), HOOKED);
    assert!(node.has("/etc/pve/pin-hook/100.chain"));
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
}

/// Returns every file below a directory, as it would be named there.
fn files_below(dir: &Path) -> Vec<String> {
    let mut left = vec![dir.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => left.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => found.push(path.strip_prefix(dir).unwrap().display().to_string()),
        }
    }
    found
}

/// A package has what "make install" installs.
#[test]
fn what_notifies_is_installed_where_pve_looks_for_it_and_removed_again() {
    let dir = TempDir::new().unwrap();
    let make = |target: &str| {
        let mut make = Command::new("make");
        let make = make.current_dir(env!("CARGO_MANIFEST_DIR"));
        // Manual pages that are there are taken, and none is made.
        let make = make.args(["-s", "-o", "man", target, "binary=/bin/true"]);
        let output = make
            .arg(format!("DESTDIR={}", dir.path().display()))
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        files_below(dir.path())
    };
    let installed = make("install");
    for file in [
        "usr/sbin/pin-hook",
        "usr/libexec/pin-hook/notify",
        "usr/share/pve-manager/templates/default/pin-hook-subject.txt.hbs",
        "usr/share/pve-manager/templates/default/pin-hook-body.txt.hbs",
        "usr/share/pve-manager/templates/default/pin-hook-body.html.hbs",
    ] {
        assert!(
            installed.iter().any(|one| one == file),
            "{file}: {installed:#?}"
        );
    }
    let mode = dir.path().join("usr/libexec/pin-hook/notify");
    assert_eq!(mode.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(make("uninstall"), [""; 0]);
}
