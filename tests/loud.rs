//! What goes wrong around the tests is said in a line, within a bound: a boot that hangs, a disk that is full, a
//! package that is missing, a machine that is too slow. With stand-ins for QEMU, `df`, `apt-get` and `cargo`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A directory for stand-ins, which are found first, and for what the scripts write.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place {
            dir: TempDir::new().unwrap(),
        };
        fs::create_dir(place.at("bin")).unwrap();
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn script(&self, path: &Path, body: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/bash\n{body}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn stand_in(&self, name: &str, body: &str) {
        self.script(&self.at("bin").join(name), body);
    }

    fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap();
        let bin = self.at("bin");
        let mut command = Command::new(program);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("TMPDIR", self.dir.path())
            .env("LAB_DIR", self.at("lab"));
        command
    }

    /// Runs a case of the lab with a stand-in for QEMU.
    fn lab(&self, qemu: &str) -> Output {
        let image = self
            .command("tests/lab/image")
            .arg("--path")
            .output()
            .unwrap();
        let image = PathBuf::from(String::from_utf8(image.stdout).unwrap().trim());
        self.script(&image.join("root/usr/lib64/ld-linux-x86-64.so.2"), qemu);
        self.command("tests/lab/run")
            .args(["--kernel", "stable", "00-machine"])
            .env("LAB_BOOT_DEADLINE", "2")
            .output()
            .unwrap()
    }
}

#[track_caller]
fn assert_says(output: &Output, line: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout) + stderr.as_ref();
    assert!(!output.status.success(), "{text}");
    assert!(text.lines().any(|said| said.contains(line)), "{text}");
}

#[track_caller]
fn assert_last_line(output: &Output, line: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().last(), Some(line), "{text}");
}

/// A stand-in for QEMU whose guest is ready at once, and then does nothing.
const IDLE: &str = "for word; do case $word in local,path=*) share=${word#local,path=};; esac; done
echo running > \"${share%%,*}/ready\"
exec sleep 1000";

#[test]
fn a_boot_that_hangs() {
    let output = Place::new().lab("exec sleep 1000");
    assert_says(
        &output,
        "lab: error: kernel stable does not boot within 2 s, twice: it hangs, or this machine is too slow",
    );
    assert_last_line(&output, "0 passed, 1 failed");
}

#[test]
fn a_disk_that_is_full_before() {
    let place = Place::new();
    place.stand_in("df", "printf 'Avail\\n  10\\n'");
    let output = place.lab(IDLE);
    assert_says(&output, "vm-run has 10 MB left, and a machine takes 800 MB");
    assert_last_line(&output, "0 passed, 1 failed");
}

#[test]
fn a_disk_that_fills() {
    let place = Place::new();
    place.stand_in(
        "df",
        "free=10; [ -e $TMPDIR/asked ] || free=5000; : > $TMPDIR/asked; printf 'Avail\\n %s\\n' $free",
    );
    let output = place.lab(IDLE);
    assert_says(&output, "vm-run has 10 MB left");
    assert_last_line(&output, "0 passed, 1 failed");
}

#[test]
fn a_guest_that_does_not_answer() {
    let place = Place::new();
    let image = place.lab("exit 1");
    assert_says(&image, "does not boot");
    let output = {
        let ready = place.at("lab");
        let image = fs::read_dir(&ready)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.join("root").exists());
        place.script(
            &image.unwrap().join("root/usr/lib64/ld-linux-x86-64.so.2"),
            IDLE,
        );
        place
            .command("tests/lab/run")
            .args(["--kernel", "stable", "00-machine"])
            .env("LAB_DEADLINE", "5")
            .output()
            .unwrap()
    };
    assert_says(&output, "s: it hangs, or this machine is too slow");
    assert_last_line(&output, "0 passed, 1 failed");
}

#[test]
fn a_package_that_is_missing() {
    let place = Place::new();
    place.stand_in("id", "echo 0");
    place.stand_in("apt-get", "echo 'E: no such thing' >&2; exit 100");
    let need = ". tests/lab/host.sh; need no-such-command:no-such-package";
    let output = place.command("bash").args(["-c", need]).output().unwrap();
    assert_says(
        &output,
        "lab: error: cannot install no-such-package: apt-get says above why",
    );
}

#[test]
fn a_machine_that_is_too_slow() {
    let place = Place::new();
    place.stand_in("cargo", "exec sleep 1000");
    place.stand_in("make", "exec sleep 1000");
    let begin = Instant::now();
    let output = place
        .command("tests/check")
        .env("CHECK_DIR", place.at("check"))
        .env("CHECK_DEADLINE", "2")
        .output()
        .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert_says(&output, "this machine is too slow, or something hangs:");
    assert_says(&output, "not finished after 2 s: cargo");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap();
    assert!(
        last.ends_with(" failed") && !last.ends_with(" 0 failed"),
        "{text}"
    );
}
