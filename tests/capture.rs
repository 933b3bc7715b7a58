//! `capture`: what is read back says the same as the host itself, and nothing that is nobody's business.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/cases.rs"]
mod cases;
#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cases::{cases, root_of};
use hosts::asked;
use tempfile::TempDir;

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Captures a host; the archive is removed with the directory.
fn capture(root: &Path, words: &[&str]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("host.tar");
    let (said, status) = asked(
        root,
        &[&["capture", file.to_str().unwrap()], words].concat(),
    );
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("host.tar: "), "{said}");
    (dir, file)
}

fn unpacked(archive: &Path) -> TempDir {
    let dir = TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap();
    let mut tar = Command::new("tar");
    let status = tar
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(dir.path())
        .status();
    assert!(status.unwrap().success());
    dir
}

/// What is asked of a host and of its capture.
const QUESTIONS: [&[&str]; 7] = [
    &["plan", "100", "-v"],
    &["plan", "100", "--json"],
    &["check", "-v"],
    &["topology"],
    &["status"],
    &["list"],
    &["report"],
];

fn answers(root: &Path) -> Vec<(String, i32)> {
    QUESTIONS.iter().map(|words| asked(root, words)).collect()
}

#[track_caller]
fn check_same(name: &str, expected: &[(String, i32)], root: &Path) {
    for (words, expected) in QUESTIONS.iter().zip(expected) {
        let (shown, status) = asked(root, words);
        assert!(
            (&shown, status) == (&expected.0, expected.1),
            "{name}: {words:?}\n{}\n--- captured:\n{shown}",
            expected.0
        );
    }
}

/// Every host on which a plan is tested, with its devices.
#[test]
fn a_captured_host_says_what_the_host_says() {
    let cases = cases("plan");
    assert!(cases.len() > 60);
    // What takes most time is starting programs: every third case has all kinds of hosts.
    for case in cases.iter().step_by(3) {
        let name = case.display().to_string();
        let root = root_of(case, &fs::read_to_string(case).unwrap());
        let expected = answers(root.path());
        let (_dir, archive) = capture(root.path(), &["--names"]);
        check_same(&name, &expected, &archive);
    }
}

#[test]
fn an_unpacked_capture_is_a_captured_host() {
    for host in [
        "epyc-nps4",
        "lab",
        "alder-lake-sriov",
        "x3d-16-plain",
        "synthetic-offline",
    ] {
        let (dir, _) = hosts::host(host);
        put(
            dir.path(),
            "/etc/pve/qemu-server/100.conf",
            "name: vr\ncores: 2\nmemory: 4096\n",
        );
        put(dir.path(), "/etc/pin-hook/100.toml", "cpus = \"2-3\"\n");
        let expected = answers(dir.path());
        let (_kept, archive) = capture(dir.path(), &["--names"]);
        check_same(host, &expected, &archive);
        check_same(host, &expected, unpacked(&archive).path());
    }
}

/// A host with secrets everywhere.
fn indiscreet() -> TempDir {
    let mut entries = hosts::entries("synthetic-5900x");
    trees::add(&mut entries, "hba");
    let dir = hosts::unpack(&entries);
    let root = dir.path();
    let all = |path: &str, text: &str| put(root, path, text);
    all("/etc/hostname", "falcon7.example.org\n");
    all("/proc/sys/kernel/hostname", "falcon7\n");
    let conf = "#notes: SECRET-NOTE\nname: customer-db\ncores: 2\ncpu: host\nmemory: 4096\n\
                args: -smp 2,threads=2 -vnc 0.0.0.0:1,password=SECRET-VNC\ncipassword: SECRET-CI\n\
                ciuser: SECRET-USER\nsshkeys: ssh-rsa%20SECRET-SSH\ntags: SECRET-TAG\n\
                scsi0: local:vm-100-disk-0,iothread=1,serial=SECRET-SERIAL\n\
                scsi1: /dev/disk/by-id/ata-WDC-SECRET-DISK,size=1G\n\
                net0: virtio=BC:24:11:2E:6A:01,bridge=vmbr0\n\
                smbios1: uuid=1b4e28ba-2fa1-11d2-883f-0016d3cca427\n\n[SECRETSNAP]\nname: SECRET-SNAP\n";
    all("/etc/pve/nodes/falcon7/qemu-server/100.conf", conf);
    all(
        "/etc/pve/nodes/kestrel9/qemu-server/200.conf",
        "name: SECRET-OTHER\n",
    );
    all(
        "/etc/pve/nodes/falcon7/lxc/101.conf",
        "hostname: SECRET-CT\ncores: 1\n",
    );
    let table = "# for falcon7, later on kestrel9\n[node.falcon7]\ncpus = \"11,23\"\n\
                 [node.kestrel9]\ncpus = \"5\"\n";
    all("/etc/pve/pin-hook/100.toml", table);
    all(
        "/etc/pve/storage.cfg",
        "cifs: nas\n\tserver SECRET-SERVER\n\tcontent snippets\n",
    );
    all(
        "/proc/cmdline",
        "root=UUID=1b4e28ba-2fa1-11d2-883f-0016d3cca427 luks.key=SECRET-KEY quiet\n",
    );
    all(
        "/etc/systemd/system/a.service",
        "[Service]\nEnvironment=X=SECRET-ENV\nCPUAffinity=1\n",
    );
    all("/proc/77/cmdline", "mysql\0-pSECRET-ARG\0");
    all("/run/qemu-server/100.pid", "500\n");
    all(
        "/proc/500/cmdline",
        "/usr/bin/kvm\0-pidfile\0/var/run/qemu-server/100.pid\0-name\0SECRET-QEMU\0",
    );
    all("/proc/500/task/500/stat", &hosts::stat(500, "kvm", 0));
    all("/proc/500/task/500/cgroup", "0::/qemu.slice/100.scope\n");
    all("/proc/500/status", "Cpus_allowed_list:\t0-23\n");
    let measured = format!("{}/tests/trace/nothing.json", env!("CARGO_MANIFEST_DIR"));
    let measured = fs::read_to_string(measured).unwrap();
    all(
        "/var/lib/pin-hook/measured/a.json",
        &measured.replace("\"vm100\"", "\"customer-db\""),
    );
    let group = "/sys/fs/cgroup/system.slice/dev-disk-by\\x2did-ata\\x2dSECRET.swap";
    all(&format!("{group}/cpuset.cpus.partition"), "member\n");
    dir
}

#[test]
fn nothing_secret_is_in_a_capture() {
    let dir = indiscreet();
    let (_kept, archive) = capture(dir.path(), &[]);
    let text = fs::read_to_string(&archive).unwrap();
    let names = ["falcon7", "kestrel9", "customer-db", "BC:24:11", "1b4e28ba"];
    for secret in names.iter().chain(&["SECRET", "example.org"]) {
        let at = text.find(secret);
        let around = at.map(|at| &text[at.saturating_sub(80)..at + 40]);
        assert_eq!(around, None, "{secret}");
    }
    // What was asked for is there; what is a secret in any case is not.
    let (_kept, archive) = capture(dir.path(), &["--names"]);
    let text = fs::read_to_string(&archive).unwrap();
    assert!(names[..4].iter().all(|name| text.contains(name)));
    for secret in [
        "NOTE", "VNC", "CI", "USER", "SSH", "KEY", "ENV", "ARG", "SERVER", "QEMU",
    ] {
        assert!(!text.contains(&format!("SECRET-{secret}")), "{secret}");
    }
}

/// The report of a host is as clean as its capture, and the same.
#[test]
fn a_capture_without_names_gives_the_same_report() {
    let dir = indiscreet();
    let (_kept, archive) = capture(dir.path(), &[]);
    let (expected, _) = asked(dir.path(), &["report"]);
    assert_eq!(asked(&archive, &["report"]).0, expected);
    assert!(
        expected.contains("[node.node]")
            && expected.contains("11,23")
            && expected.contains("taken from the vm"),
        "{expected}"
    );
    for secret in ["falcon7", "customer-db", "SECRET"] {
        assert!(!expected.contains(secret), "{secret}: {expected}");
    }
    let (plan, _) = asked(dir.path(), &["plan", "100"]);
    let plan = plan.replace(" (customer-db)", "");
    let plan = plan.replace("ata-WDC-SECRET-DISK", "disk-1");
    let of_capture = asked(&archive, &["plan", "100"]).0;
    assert_eq!(of_capture, plan);
    // A capture of a capture is the same again.
    let (_again, second) = capture(&archive, &[]);
    assert_eq!(fs::read(&second).unwrap(), fs::read(&archive).unwrap());
}

#[test]
fn a_file_is_not_overwritten() {
    let (dir, _) = hosts::host("one-core");
    let (_kept, archive) = capture(dir.path(), &[]);
    let before = fs::read(&archive).unwrap();
    let (said, status) = asked(dir.path(), &["capture", archive.to_str().unwrap()]);
    assert!(said.contains("host.tar exists") && status == 1, "{said}");
    let (printed, _) = asked(dir.path(), &["capture", "-"]);
    assert!(printed.as_bytes() == before && fs::read(&archive).unwrap() == before);
}

/// Returns what the program says of something that is to be a captured host.
fn said_of(bytes: &[u8]) -> String {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("host.tar");
    fs::write(&file, bytes).unwrap();
    let (said, status) = asked(&file, &["topology"]);
    assert_eq!(status, 2, "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    said
}

/// Returns an archive that tar(1) makes of the files that a script leaves.
fn archive_of(script: &str, options: &str) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let script = format!("set -e; {script}; tar -P {options} -cf - --exclude=./out *");
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn what_is_no_capture_is_refused_with_the_reason() {
    let (dir, _) = hosts::host("one-core");
    let (_kept, archive) = capture(dir.path(), &[]);
    let whole = fs::read(&archive).unwrap();
    let mut flipped = whole.clone();
    flipped[130] ^= 1;
    let up = "echo x > x; mkdir d";
    for (bytes, reason) in [
        (b"not a tar".to_vec(), "it is not a tar archive"),
        (vec![b'x'; 4096], "it is not a tar archive"),
        (Vec::new(), "it is not a tar archive"),
        (flipped, "it is not a tar archive"),
        (
            whole[..whole.len() / 2].to_vec(),
            "it is damaged or incomplete after",
        ),
        (
            whole[..whole.len() - 1024].to_vec(),
            "it is damaged or incomplete after",
        ),
        (
            archive_of(up, "--transform=s,x,../x,"),
            "\"../x\" leads out of it",
        ),
        (
            archive_of(up, "--transform=s,x,/etc/x,"),
            "\"/etc/x\" leads out of it",
        ),
        (
            archive_of("ln -s ../etc x", ""),
            "\"/x -> ../etc\" leads out of it",
        ),
        (
            archive_of("mkfifo x", ""),
            "\"x\" is not a file, a directory or a symbolic link",
        ),
        (
            archive_of("echo x > x; ln x y", ""),
            "\"y\" is not a file, a directory or",
        ),
    ] {
        let said = said_of(&bytes);
        assert!(said.contains(reason), "{reason}: {said}");
    }
    let huge = dir.path().join("huge.tar");
    fs::File::create(&huge).unwrap().set_len(65 << 20).unwrap();
    let (said, _) = asked(&huge, &["topology"]);
    assert!(said.contains("it has more than 67108864 bytes"), "{said}");
    let (said, _) = asked(&dir.path().join("nothing"), &["topology"]);
    assert!(said.contains("no such file or directory"), "{said}");
}

/// Other programs that write archives are understood: long names as GNU and as POSIX have them.
#[test]
fn a_capture_that_was_packed_again_is_read() {
    let (dir, _) = hosts::host("epyc-nps4");
    let (expected, _) = asked(dir.path(), &["topology"]);
    let long = "d".repeat(120);
    put(dir.path(), &format!("/{long}/{long}"), "x");
    for format in ["gnu", "pax", "ustar"] {
        let kept = TempDir::new().unwrap();
        let archive = kept.path().join("host.tar");
        let mut tar = Command::new("tar");
        let tar = tar
            .arg(format!("--format={format}"))
            .arg("-cf")
            .arg(&archive);
        assert!(
            tar.arg("-C")
                .arg(dir.path())
                .arg(".")
                .status()
                .unwrap()
                .success()
                || format == "ustar"
        );
        assert_eq!(asked(&archive, &["topology"]).0, expected, "{format}");
    }
}

/// What a user has sent becomes a host for tests.
#[test]
fn a_capture_becomes_a_host_of_the_tests() {
    let dir = indiscreet();
    let (_kept, archive) = capture(dir.path(), &[]);
    let expected = answers(&archive);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host-from-capture");
    let output = Command::new(script).arg(&archive).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let entries = hosts::parse(&String::from_utf8(output.stdout).unwrap());
    check_same("from-capture", &expected, hosts::unpack(&entries).path());
}

/// Looking never writes, and a capture of a captured host is a look.
#[test]
fn nothing_is_changed() {
    let (dir, _) = hosts::host("lab");
    let before = Command::new("find")
        .arg(dir.path())
        .args(["-ls"])
        .output()
        .unwrap()
        .stdout;
    asked(dir.path(), &["report"]);
    capture(dir.path(), &[]);
    let after = Command::new("find")
        .arg(dir.path())
        .args(["-ls"])
        .output()
        .unwrap()
        .stdout;
    assert!(before == after);
}
