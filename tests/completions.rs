//! The completions of shells: ids of VMs, where one may be. bash is asked as when somebody presses the key.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(
    dead_code,
    reason = "the program that writes the scripts, without its arguments"
)]
#[path = "../examples/completions.rs"]
mod completions;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A node with two VMs, and a program that looks at it whoever calls.
fn node() -> TempDir {
    let dir = TempDir::new().unwrap();
    let root = dir.path().display();
    let put = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("etc/hostname", "pve1\n");
    put("etc/pve/qemu-server/100.conf", "name: vr\n");
    put("etc/pve/qemu-server/1043.conf", "cores: 2\n");
    let program = env!("CARGO_BIN_EXE_pin-hook");
    put(
        "bin/pin-hook",
        &format!("#!/bin/sh\nexec {program} --root {root} \"$@\"\n"),
    );
    let bin = dir.path().join("bin/pin-hook");
    fs::set_permissions(bin, PermissionsExt::from_mode(0o755)).unwrap();
    completions::write(&dir.path().join("completions")).unwrap();
    dir
}

/// Returns what bash offers for the last of these words.
fn offered(dir: &Path, words: &[&str]) -> Vec<String> {
    let script = format!(
        "PATH={}/bin:$PATH; . {}/completions/pin-hook.bash
         COMP_WORDS=(pin-hook {}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
         f=$(complete -p pin-hook | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
         $f pin-hook \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        dir.display(),
        dir.display(),
        words.join(" "),
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn ids_are_offered_where_one_may_be() {
    let dir = node();
    let offered = |words: &[&str]| offered(dir.path(), words);
    let commands = [
        "plan", "init", "apply", "release", "enable", "disable", "status", "check",
    ];
    for command in commands {
        assert_eq!(offered(&[command, "''"]), ["100", "1043"], "{command}");
    }
    assert_eq!(offered(&["plan", "104"]), ["1043"]);
    assert_eq!(
        offered(&["-v", "--color", "never", "plan", "''"]),
        ["100", "1043"]
    );
    assert_eq!(
        offered(&["init", "--prefer", "cache", "''"]),
        ["100", "1043"]
    );
    // Where there is none to be, what clap knows is left.
    assert!(offered(&["plan", "--j"]).contains(&"--json".to_owned()));
    assert!(offered(&["pl"]).contains(&"plan".to_owned()));
    assert!(offered(&["init", "--prefer", "ca"]).contains(&"cache".to_owned()));
    for words in [["list", "''"], ["plan 100", "''"]] {
        assert!(!offered(&words).contains(&"100".to_owned()), "{words:?}");
    }
}

#[test]
fn other_shells_show_names_as_well() {
    let dir = node();
    let script =
        |name: &str| fs::read_to_string(dir.path().join("completions").join(name)).unwrap();
    let zsh = script("_pin-hook");
    assert_eq!(zsh.matches(":_pin-hook_ids'").count(), 9);
    assert!(zsh.contains("_pin-hook_ids() {"));
    let fish = script("pin-hook.fish");
    assert_eq!(fish.matches("(pin-hook list --ids").count(), 9);
    let ids = Command::new(dir.path().join("bin/pin-hook"))
        .args(["list", "--ids"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(ids.stdout).unwrap(), "100\tvr\n1043\n");
}
