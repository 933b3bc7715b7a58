//! The door to files against the kernel: whatever the umask is, and whatever is in a file's place.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use nix::unistd::mkfifo;
use pin_hook::host::files::{Files, RootFiles};
use pin_hook::host::once::Once;
use pin_hook::host::table::read_table;

fn tree() -> (tempfile::TempDir, RootFiles) {
    let dir = tempfile::tempdir().unwrap();
    let files = RootFiles::new(dir.path());
    (dir, files)
}

/// The case umask: what is made has the mode that it is to have.
#[test]
fn modes_are_set_and_never_inherited() {
    let (_dir, files) = tree();
    for bits in [0o777, 0o077, 0o000] {
        umask(Mode::from_bits(bits).unwrap());
        let path = |name: &str| format!("/{name}-{bits:o}");
        files.make_dir(&path("dir"), 0o755).unwrap();
        files.replace(&path("text"), "text", 0o644).unwrap();
        files.lock(&path("lock"), Duration::ZERO).unwrap().unwrap();
        files.reserve(&path("log"), 10).unwrap();
        for (name, mode) in [
            ("dir", 0o755),
            ("text", 0o644),
            ("lock", 0o600),
            ("log", 0o600),
        ] {
            let owner = files.owner(&path(name)).unwrap();
            assert_eq!(owner.mode, mode, "{name} under umask {bits:o}");
        }
    }
}

/// The case table-no-file: a device, a fifo and a file that is far too large are refused at once.
#[test]
fn what_is_no_text_is_refused_without_being_read() {
    let (dir, files) = tree();
    for path in ["/etc", "/etc/pin-hook"] {
        files.make_dir(path, 0o755).unwrap();
    }
    let path = dir.path().join("etc/pin-hook/100.toml");
    let refused = |why: &str| {
        let error = read_table(&files, "100".parse().unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains(why), "{error:#}");
        std::fs::remove_file(&path).unwrap();
    };
    symlink("/dev/zero", &path).unwrap();
    refused("it is not a regular file");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    refused("it is not a regular file");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    refused("it has more than 65536 bytes");
    let error = files.read("/etc").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IsADirectory);
}

#[test]
fn a_log_keeps_its_room_when_it_is_renewed() {
    let (_dir, files) = tree();
    files.reserve("/log", 8192).unwrap();
    files.renew("/log", "one\n").unwrap();
    files.append("/log", 4, "two\n").unwrap();
    let text = files.read("/log").unwrap();
    assert_eq!(text.trim_end_matches('\0'), "one\ntwo\n");
    assert_eq!(
        (text.len(), files.read("/log.spare").unwrap().len()),
        (8192, 8192)
    );
    files.renew("/log", "1\n").unwrap();
    let text = files.read("/log").unwrap();
    assert_eq!(text.trim_end_matches('\0'), "1\n");
    let error = files.renew("/log", &"x".repeat(8193)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(files.read("/log").unwrap(), text);
}

/// A limit of the caller is an error that names it, and nothing else.
#[test]
fn too_few_open_files_are_an_error() {
    let (dir, files) = tree();
    files.make_dir("/etc", 0o755).unwrap();
    files.replace("/etc/hostname", "pve1\n", 0o644).unwrap();
    let cpus = dir.path().join("sys/devices/system/cpu");
    std::fs::create_dir_all(&cpus).unwrap();
    std::fs::write(cpus.join("possible"), "0-3\n").unwrap();
    let output = Command::new("prlimit")
        .args(["--nofile=3", env!("CARGO_BIN_EXE_pin-hook"), "--root"])
        .arg(dir.path())
        .args(["plan", "100"])
        .output()
        .unwrap();
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Too many open files"), "{text}");
}

/// Some drivers ask the CPU itself, which would be interrupted by everybody who watches.
#[test]
fn what_interrupts_a_cpu_is_read_once_by_who_watches() {
    let dir = tempfile::tempdir().unwrap();
    let files = Once::calm(Box::new(RootFiles::new(dir.path())));
    for name in ["energy_performance_preference", "scaling_governor"] {
        let path = dir.path().join(name);
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(files.read(&format!("/{name}")).unwrap(), "first\n");
        std::fs::write(&path, "second\n").unwrap();
    }
    let again = files.read("/energy_performance_preference").unwrap();
    assert_eq!(again, "first\n");
    assert_eq!(files.read("/scaling_governor").unwrap(), "second\n");
}

/// What was to replace a file and could not is no litter beside it.
#[test]
fn a_replacement_that_fails_leaves_nothing_behind() {
    let (dir, files) = tree();
    files.make_dir("/map.svg", 0o755).unwrap();
    std::fs::write(dir.path().join("map.svg/file"), "").unwrap();
    assert!(files.replace("/map.svg", "text", 0o644).is_err());
    assert!(!files.exists("/map.svg.new"));
}
