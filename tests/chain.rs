//! The hookscript that a VM had before: who comes first, what PVE is told, what children get.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod pve_tree;

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use pin_hook::host::files::RootFiles;
use pin_hook::host::programs::{Children, Ended, How, Printed, Program, Programs, close_inherited};
use pin_hook::lifecycle::engine::account::{Account, Exit};
use pin_hook::lifecycle::hooking::chain::{Hook, around};
use pve_tree::{Node, id};
use tempfile::TempDir;

const PATIENT: Duration = Duration::from_secs(60);
const PHASES: [&str; 4] = ["pre-start", "post-start", "pre-stop", "post-stop"];

/// Programs of a tree, executed where it really is; what they print is kept.
#[derive(Debug)]
struct InTree<'n> {
    node: &'n Node,
    children: Children,
    log: RefCell<Vec<String>>,
}

impl Programs for InTree<'_> {
    fn run(&self, program: &Program) -> anyhow::Result<Ended> {
        let there = Program {
            path: self.node.real_path(&program.path),
            output: Printed::Kept,
            ..program.clone()
        };
        let ended = self.children.run(&there)?;
        self.log.borrow_mut().push(ended.text.trim().to_owned());
        Ok(ended)
    }
}

/// Runs a phase of VM 100 whose former hookscript is `script`, with a part of ours that ends with
/// `ours`; returns the exit status, what happened in order, and what was told.
fn phase(script: &str, phase: &str, ours: Exit) -> (u8, Vec<String>, Vec<String>) {
    let node = Node::new();
    node.vm("pve1", 100, "cores: 1\n");
    node.former_hook(100, "gpu.sh", script);
    node.put("/etc/pve/pin-hook/100.chain", "local:snippets/gpu.sh\n");
    run_phase(&node, phase, ours)
}

fn run_phase(node: &Node, phase: &str, ours: Exit) -> (u8, Vec<String>, Vec<String>) {
    let programs = InTree {
        node,
        children: Children::new().unwrap(),
        log: RefCell::default(),
    };
    let hook = Hook {
        files: &*node.host().files,
        programs: &programs,
        vmid: id(100),
    };
    let told = RefCell::new(Vec::new());
    let our_part = || {
        programs.log.borrow_mut().push("ours".to_owned());
        Account {
            exit: ours,
            ..Account::default()
        }
    };
    let status = around(&hook, phase, our_part, |account| {
        let lines = account.lines.iter().map(|line| line.text.clone());
        told.borrow_mut().extend(lines);
    });
    (status, programs.log.take(), told.take())
}

#[test]
fn at_a_start_the_other_hook_comes_first_and_at_a_stop_last() {
    let order = |name| phase("echo theirs $1 $2", name, Exit::Done).1;
    for name in ["pre-start", "post-start"] {
        assert_eq!(
            order(name),
            [format!("theirs 100 {name}"), "ours".to_owned()]
        );
    }
    for name in ["pre-stop", "post-stop", "pre-migrate"] {
        assert_eq!(
            order(name),
            ["ours".to_owned(), format!("theirs 100 {name}")]
        );
    }
}

#[test]
fn when_the_other_hook_refuses_a_start_nothing_of_ours_is_done() {
    let (status, order, told) = phase("echo no; exit 42", "pre-start", Exit::Done);
    assert_eq!(status, 42);
    assert_eq!(order, ["no"]);
    assert_eq!(
        told,
        [
            "vm 100: local:snippets/gpu.sh ended with exit status 42",
            "its own output is above; vm 100 had it before pin-hook enable, remove \
             /etc/pve/pin-hook/100.chain to stop using it",
        ]
    );
}

#[test]
fn in_the_other_phases_both_parts_are_done_and_the_first_failure_counts() {
    for name in ["post-start", "pre-stop", "post-stop"] {
        let (status, order, _) = phase("exit 7", name, Exit::Done);
        assert_eq!((status, order.len()), (7, 2), "{name}");
        let (status, order, _) = phase("exit 0", name, Exit::Incomplete);
        assert_eq!((status, order.len()), (3, 2), "{name}");
    }
    assert_eq!(phase("exit 7", "post-start", Exit::Incomplete).0, 7);
    assert_eq!(phase("exit 7", "post-stop", Exit::Incomplete).0, 3);
    let (status, _, told) = phase("kill -9 $$", "post-start", Exit::Done);
    assert_eq!(status, 137);
    assert_eq!(
        told[0],
        "vm 100: local:snippets/gpu.sh was killed by signal 9"
    );
}

#[test]
fn a_hook_that_cannot_be_called_refuses_the_start_as_pve_would() {
    let node = Node::new();
    node.vm("pve1", 100, "cores: 1\n");
    node.put("/etc/pve/pin-hook/100.chain", "local:snippets/gpu.sh\n");
    let (status, order, told) = run_phase(&node, "pre-start", Exit::Done);
    assert_eq!((status, order.len()), (1, 0));
    assert_eq!(
        told,
        [
            "the hookscript local:snippets/gpu.sh of vm 100 cannot be run: \
             /var/lib/vz/snippets/gpu.sh does not exist",
            "put /var/lib/vz/snippets/gpu.sh back, or remove /etc/pve/pin-hook/100.chain to stop \
             using it",
        ]
    );
    node.put("/var/lib/vz/snippets/gpu.sh", "#!/bin/sh\n");
    let (_, _, told) = run_phase(&node, "pre-start", Exit::Done);
    assert!(told[0].ends_with("gpu.sh is not executable"), "{told:?}");
    assert!(
        told[1].starts_with("chmod +x /var/lib/vz/snippets/gpu.sh, or"),
        "{told:?}"
    );
    node.former_hook(100, "gpu.sh", "exit 0");
    node.put(
        "/var/lib/vz/snippets/gpu.sh",
        "#!/nonexistent/interpreter\n",
    );
    let (_, _, told) = run_phase(&node, "pre-start", Exit::Done);
    assert!(
        told[1].starts_with("its first line has to name"),
        "{told:?}"
    );
    for record in [
        "local:snippets/pin-hook\n",
        "/etc/passwd\n",
        "",
        "local:snippets/../x\n",
    ] {
        node.put("/etc/pve/pin-hook/100.chain", record);
        let (status, order, told) = run_phase(&node, "pre-start", Exit::Done);
        assert_eq!((status, order.len()), (1, 0), "{record}");
        assert!(
            told[0].ends_with("does not name a snippet of another hook"),
            "{told:?}"
        );
        assert_eq!(
            told[1],
            "write into it the volume of the hookscript that the vm had before, or remove \
             /etc/pve/pin-hook/100.chain to stop using it"
        );
    }
}

#[test]
fn a_vm_without_a_former_hook_has_only_ours() {
    let node = Node::new();
    for name in PHASES {
        let (status, order, told) = run_phase(&node, name, Exit::Refused);
        assert_eq!((status, order), (1, vec!["ours".to_owned()]));
        assert!(told.is_empty());
    }
}

/// Runs a shell script in a directory of its own.
fn script(text: &str, wait: Duration) -> (TempDir, Ended) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("script");
    fs::write(&path, format!("#!/bin/sh\ncd ${{0%/*}}\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let program = Program {
        path: path.to_str().unwrap().to_owned(),
        arguments: vec!["100".to_owned(), "pre-start".to_owned()],
        wait,
        output: Printed::Kept,
    };
    let ended = Children::new().unwrap().run(&program).unwrap();
    (dir, ended)
}

#[test]
fn a_child_gets_its_arguments_and_an_empty_standard_input() {
    let (_dir, ended) = script("echo \"$#: $1 $2\"; cat; echo wrong >&2", PATIENT);
    assert_eq!(ended.how, How::Exited(0));
    assert!(ended.text.contains("2: 100 pre-start\n"), "{ended:?}");
    assert!(ended.text.contains("wrong\n"), "{ended:?}");
}

#[test]
fn a_child_that_takes_too_long_is_ended() {
    let (_dir, ended) = script("mkfifo pipe; exec cat pipe", Duration::from_millis(300));
    assert_eq!(ended.how, How::Late);
}

#[test]
fn what_a_child_leaves_behind_blocks_nobody() {
    let (dir, ended) = script("mkfifo pipe; cat pipe & echo done", PATIENT);
    assert_eq!(
        ended,
        Ended {
            how: How::Exited(0),
            text: "done\n".to_owned()
        }
    );
    // Ends what was left behind.
    fs::write(dir.path().join("pipe"), "").unwrap();
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let program = Program {
        path: "/nonexistent/hook".to_owned(),
        arguments: Vec::new(),
        wait: PATIENT,
        output: Printed::Kept,
    };
    let error = Children::new().unwrap().run(&program).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "cannot execute /nonexistent/hook: No such file or directory (os error 2)"
    );
}

/// In a process of its own: leaves a descriptor open for children, closes what was inherited, and
/// relays what a child prints.
#[test]
fn relaying_process() {
    let Some(path) = std::env::var_os("RELAYED_SCRIPT") else {
        return;
    };
    let open = fs::File::open("/proc/self/status").unwrap();
    let flags = nix::fcntl::FdFlag::empty();
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(flags)).unwrap();
    std::mem::forget(open);
    close_inherited(&RootFiles::new("/"));
    let program = Program {
        path: path.into_string().unwrap(),
        arguments: Vec::new(),
        wait: PATIENT,
        output: Printed::Relayed,
    };
    Children::new().unwrap().run(&program).unwrap();
}

#[test]
fn output_is_relayed_and_no_other_descriptor_is_inherited() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("script");
    let text = "#!/bin/sh\necho out\necho err >&2\necho descriptors $(ls /proc/self/fd)\n";
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "relaying_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("RELAYED_SCRIPT", &path)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(out.contains("out\n") && err.contains("err\n"), "{output:?}");
    // 3 is the directory that is listed.
    assert!(out.contains("descriptors 0 1 2 3\n"), "{out}");
}

/// Runs the snippet on a node with the program at these places; `former` is what its record would
/// say.
fn snippet(former: Option<&str>, programs: &[&str]) -> (Option<i32>, String) {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let executable = |name: &str, text: &str| {
        fs::write(at(name), text).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/hooks/pin-hook")).unwrap();
    let text = text
        .replace("/usr/sbin/pin-hook", &at("usr"))
        .replace("/usr/local/sbin/pin-hook", &at("local"))
        .replace("/etc/pve/pin-hook", &at(""));
    executable("snippet", &text);
    executable(
        "pvesm",
        &format!("#!/bin/sh\necho {}/$2\n", dir.path().display()),
    );
    for program in programs {
        executable(program, &format!("#!/bin/sh\necho {program} $1 $2\n"));
    }
    executable("gpu.sh", "#!/bin/sh\necho theirs $1 $2\nexit 5\n");
    if let Some(former) = former {
        fs::write(at("100.chain"), format!("{former}\n")).unwrap();
    }
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = Command::new(at("snippet"));
    let output = command
        .args(["100", "pre-start"])
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn without_the_program_a_vm_starts_and_its_former_hook_is_called() {
    let (status, said) = snippet(None, &[]);
    assert_eq!(status, Some(0));
    assert!(
        said.ends_with("guest 100 has no cpus of its own\n"),
        "{said}"
    );
    let (status, said) = snippet(Some("gpu.sh"), &[]);
    assert_eq!(status, Some(5));
    assert!(said.ends_with("theirs 100 pre-start\n"), "{said}");
}

#[test]
fn the_snippet_finds_the_program_of_the_package_first() {
    for (programs, called) in [
        (&["usr", "local"][..], "usr 100 pre-start\n"),
        (&["local"][..], "local 100 pre-start\n"),
    ] {
        assert_eq!(
            snippet(Some("gpu.sh"), programs),
            (Some(0), called.to_owned())
        );
    }
}
