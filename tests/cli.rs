//! The program from outside: verbs, both orders of arguments, exit statuses, output.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

fn run<S: AsRef<OsStr>>(words: &[S]) -> Output {
    Command::new(cargo_bin("pin-hook"))
        .args(words)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn help_names_every_command_and_no_phase() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output);
    let commands = [
        "plan",
        "init",
        "check",
        "apply",
        "release",
        "enable",
        "disable",
        "status",
        "list",
        "topology",
        "report",
        "capture",
        "reconcile",
        "boot",
    ];
    for command in commands {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command}: {help}"
        );
        assert_eq!(run(&[command, "--help"]).status.code(), Some(0));
    }
    assert!(!help.contains("unknown-phase"), "{help}");
}

#[test]
fn a_phase_of_a_newer_pve_is_nothing_to_do() {
    let output = run(&["100", "pre-migrate"]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    assert!(text.contains("unknown phase \"pre-migrate\""), "{text}");
}

#[test]
fn a_symbolic_link_to_the_program_is_the_program() {
    let dir = TempDir::new().unwrap();
    let link = dir.path().join("hookscript.pl");
    std::os::unix::fs::symlink(cargo_bin("pin-hook"), &link).unwrap();
    let output = Command::new(link)
        .args(["100", "pre-migrate"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("pre-migrate"));
}

/// Needs no host and no privileges to tell: either both are allowed or none.
#[test]
fn both_orders_of_arguments_are_the_same_phase() {
    let [pve, by_hand] = [["999999999", "pre-stop"], ["pre-stop", "999999999"]].map(|w| run(&w));
    assert_eq!(pve.status.code(), by_hand.status.code());
    assert_eq!(text(&pve), text(&by_hand));
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let wrong: [&[&str]; 13] = [
        &[],
        &["post-strat", "100"],
        &["plan"],
        &["plan", "99"],
        &["enable"],
        &["disable", "99"],
        &["status", "x"],
        &["release"],
        &["plan", "100", "200"],
        &["init", "100", "--force"],
        &["check", "x"],
        &["check", "100", "--table", "x"],
        &["check", "--explain", "iommu", "--json"],
    ];
    for words in wrong {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
    }
}

#[test]
fn a_captured_host_cannot_be_changed() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().to_str().unwrap();
    for words in [
        ["apply", "100"],
        ["release", "100"],
        ["enable", "100"],
        ["disable", "100"],
        ["--color=never", "reconcile"],
        ["init", "100"],
    ] {
        let more = if words[0] == "init" { "--write" } else { "-v" };
        let output = run(&[&words[..], &[more, "--root", root]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output).contains("pin-hook: help: leave out --root"));
    }
}

#[test]
fn a_root_is_not_in_the_help_of_commands_that_always_refuse_it() {
    for (command, shows) in [
        ("apply", false),
        ("release", false),
        ("reconcile", false),
        ("boot", false),
        ("plan", true),
        ("enable", true),
    ] {
        let help = text(&run(&[command, "--help"]));
        assert_eq!(help.contains("--root"), shows, "{command}: {help}");
    }
}

/// One sentence says what is missing there, whatever is asked.
#[test]
fn a_root_that_is_no_host_is_refused() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().to_str().unwrap();
    for words in [
        &["list"][..],
        &["status"],
        &["check"],
        &["topology"],
        &["plan", "100"],
        &["init", "100"],
        &["enable", "--dry-run", "100"],
    ] {
        let output = run(&[words, &["--root", root]].concat());
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {shown}");
        let told =
            format!("pin-hook: error: --root {root} is no copy of a host: it has no /etc/hostname");
        assert!(shown.starts_with(&told), "{words:?}: {shown}");
        let help = "pin-hook: help: give what pin-hook capture has written, or the root directory of a host\n";
        assert!(shown.ends_with(help), "{words:?}: {shown}");
    }
    std::fs::create_dir_all(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/hostname"), "pve1\n").unwrap();
    let shown = text(&run(&["status", "--root", root]));
    let told = format!(
        "pin-hook: error: --root {root} is no copy of a host: it has no /sys/devices/system/cpu/possible\n"
    );
    assert!(shown.starts_with(&told), "{shown}");
}

/// Who names a VM or a directory where a file is wanted is told what to name.
#[test]
fn a_table_that_is_named_in_another_way_is_told_how() {
    for (words, told) in [
        (
            &["check", "vr.toml"][..],
            "tip: pin-hook check --table vr.toml checks a file",
        ),
        (
            &["check", "--table", "100"],
            "help: pin-hook plan 100 checks the table of vm 100, wherever it is",
        ),
        (
            &["check", "--table", "/etc/"],
            "help: give a table in it, such as /etc/100.toml",
        ),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn enabling_is_shown_for_a_captured_host() {
    let dir = TempDir::new().unwrap();
    for (name, content) in [
        ("etc/hostname", "pve1"),
        ("etc/pve/nodes/pve1/qemu-server/100.conf", "cores: 4"),
        ("etc/pin-hook/100.toml", "cpus = \"2-5\""),
        ("var/lib/vz/dump/x", ""),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{content}\n")).unwrap();
    }
    let root = dir.path().to_str().unwrap();
    let output = run(&["--root", root, "enable", "--dry-run", "100"]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let line = "pin-hook: would run qm set 100 --hookscript local:snippets/pin-hook\n";
    assert!(shown.contains(line), "{shown}");
}

#[test]
fn a_closed_standard_output_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(cargo_bin("pin-hook"));
    let command = command
        .args(["100", "pre-migrate"])
        .stdout(Stdio::from(writer));
    assert_eq!(command.status().unwrap().code(), Some(0));
}

/// Standard output of a script is a file, on a file system that may be full.
#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let run = |words: &[&str], stdout: Stdio| {
        let mut command = Command::new(cargo_bin("pin-hook"));
        let output = command.args(words).stdout(stdout).stderr(Stdio::piped());
        let output = output.spawn().unwrap().wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let full = || Stdio::from(std::fs::File::create("/dev/full").unwrap());
    let answers = [
        &["list"][..],
        &["list", "--json"],
        &["plan", "999"],
        &["check", "--short"],
        &["status", "--prometheus"],
        &["topology"],
        &["init", "999"],
    ];
    for words in answers {
        let (status, said) = run(words, full());
        assert_eq!(status, Some(1), "{words:?}");
        let error = "pin-hook: error: cannot write the answer: No space left on device";
        assert!(
            said.starts_with(error) && said.contains("\npin-hook: help: "),
            "{said}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (_, said) = run(words, Stdio::from(writer));
        assert_eq!(said, "", "{words:?}");
    }
    let (status, said) = run(&["100", "pre-migrate"], full());
    assert_eq!((status, said.as_str()), (Some(0), ""));
}
