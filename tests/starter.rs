//! Who holds a lock, asked of the kernel as a phase asks it.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::Read;
use std::process::{Command, Stdio};

use pin_hook::host::files::RootFiles;
use pin_hook::host::privilege;
use pin_hook::host::starter::holder_of;

/// Asks as a phase does, which has dropped capabilities that the one who is asked about has.
fn asked(path: &str) -> Option<i32> {
    let path = path.to_owned();
    let asking = std::thread::spawn(move || {
        privilege::drop_others().unwrap();
        holder_of(&RootFiles::new("/"), &path).map(|holder| holder.id.tid)
    });
    asking.join().unwrap()
}

#[test]
fn the_one_who_holds_the_lock_is_found_without_privileges() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir
        .path()
        .join("lock-100.conf")
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(asked(&path), None, "no such file");
    let mut flock = Command::new("flock")
        .args([&path, "sh", "-c", "echo; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    let out = flock.stdout.as_mut().unwrap();
    out.read_exact(&mut byte).unwrap();
    assert_eq!(asked(&path), i32::try_from(flock.id()).ok());
    drop(flock.stdin.take());
    flock.wait().unwrap();
    assert_eq!(asked(&path), None, "nobody holds it any more");
}
