//! `enable`, `disable` and the former hookscript, on trees of files with a stand-in for PVE's `qm`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "enable/elsewhere.rs"]
mod elsewhere;
mod pve_tree;

use pin_hook::lifecycle::engine::account::{Account, Exit};
use pve_tree::Node;

const HOOK: &str = "hookscript: local:snippets/pin-hook";
const DROP_IN: &str = "/run/systemd/system/100.scope.d/50-pin-hook.conf";

/// A node with VM 100, its table, and a storage with snippets.
fn node() -> Node {
    with_vm(Node::new())
}

fn with_vm(node: Node) -> Node {
    node.vm("pve1", 100, "cores: 4\nname: vr\n");
    node.put("/etc/pin-hook/100.toml", "cpus = \"2-5\"\n");
    node
}

fn lines(account: &Account) -> Vec<&str> {
    account
        .lines
        .iter()
        .map(|line| line.text.as_str())
        .collect()
}

/// Error and help of a refusal.
fn refusal(account: &Account) -> String {
    assert_eq!(account.exit, Exit::Refused, "{account:?}");
    lines(account).join("; ")
}

#[test]
fn enabling_hooks_a_vm_and_disabling_leaves_nothing() {
    let node = node();
    let before = node.files_below("/");
    let enabled = node.enable(100);
    assert_eq!(
        lines(&enabled),
        [
            "saved the config of vm 100 as /var/lib/pin-hook/saved/100.conf",
            "wrote the snippet /var/lib/vz/snippets/pin-hook",
            "ran qm set 100 --hookscript local:snippets/pin-hook",
            "wrote the drop-in /run/systemd/system/100.scope.d/50-pin-hook.conf",
            "enabled pin-hook-boot.service",
            "vm 100 is enabled; this takes effect at its next start",
        ]
    );
    assert!(node.config(100).contains(HOOK));
    assert_eq!(
        node.get("/var/lib/pin-hook/saved/100.conf"),
        "cores: 4\nname: vr\n"
    );
    assert!(node.get(DROP_IN).contains("Delegate=cpuset"));
    assert_eq!(
        node.get("/var/lib/vz/snippets/pin-hook"),
        include_str!("../hooks/pin-hook")
    );
    assert_eq!(node.mode("/var/lib/vz/snippets/pin-hook"), 0o755);
    assert_eq!(node.mode("/var/lib/pin-hook/saved/100.conf"), 0o600);
    assert_eq!(node.announced(), "local:snippets/pin-hook\n");

    let disabled = node.disable(100);
    assert_eq!(
        lines(&disabled),
        [
            "ran qm set 100 --delete hookscript",
            "removed the drop-in /run/systemd/system/100.scope.d/50-pin-hook.conf",
            "removed the snippet local:snippets/pin-hook",
            "removed what was saved and recorded about vm 100",
            "vm 100 is disabled",
        ]
    );
    // That the program is installed here is told to the other nodes as long as it is.
    node.remove("/etc/pve/pin-hook/nodes/pve1");
    assert_eq!(node.files_below("/"), before);
}

#[test]
fn enabling_twice_changes_nothing_more() {
    let node = node();
    node.enable(100);
    let once = node.files_below("/");
    let calls = node.n_calls();
    let twice = node.enable(100);
    assert_eq!(twice.exit, Exit::Done, "{twice:?}");
    assert_eq!(node.files_below("/"), once);
    assert_eq!(node.n_calls(), calls, "qm was asked again");
}

#[test]
fn a_dry_run_changes_nothing() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    let before = node.files_below("/");
    let shown = node.dry_enable(100);
    assert_eq!(
        lines(&shown),
        [
            "would save the config of vm 100 as /var/lib/pin-hook/saved/100.conf",
            "would record local:snippets/gpu.sh in /etc/pve/pin-hook/100.chain: it is called in \
             every phase too",
            "would write the snippet /var/lib/vz/snippets/pin-hook",
            "would run qm set 100 --hookscript local:snippets/pin-hook",
            "would write the drop-in /run/systemd/system/100.scope.d/50-pin-hook.conf",
            "would enable pin-hook-boot.service",
            "vm 100: local:snippets/gpu.sh stays in use, called by pin-hook",
            "vm 100: nothing was changed",
        ]
    );
    assert_eq!(node.files_below("/"), before);
    node.enable(100);
    let enabled = node.files_below("/");
    let shown = node.dry_disable(100);
    assert_eq!(
        lines(&shown),
        [
            "would run qm set 100 --hookscript local:snippets/gpu.sh",
            "would remove the drop-in /run/systemd/system/100.scope.d/50-pin-hook.conf",
            "would remove the snippet local:snippets/pin-hook",
            "would remove what was saved and recorded about vm 100",
            "vm 100: nothing was changed",
        ]
    );
    assert_eq!(node.files_below("/"), enabled);
}

#[test]
fn a_former_hook_is_recorded_and_comes_back() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    let before = node.files_below("/");
    node.enable(100);
    assert_eq!(
        node.get("/etc/pve/pin-hook/100.chain"),
        "local:snippets/gpu.sh\n"
    );
    assert!(node.config(100).contains(HOOK));
    node.disable(100);
    assert!(
        node.config(100)
            .contains("hookscript: local:snippets/gpu.sh")
    );
    node.remove("/etc/pve/pin-hook/nodes/pve1");
    assert_eq!(node.files_below("/"), before);
}

#[test]
fn the_snippet_stays_while_another_vm_or_a_snapshot_names_it() {
    let node = node();
    node.vm(
        "pve2",
        101,
        "cores: 1\n\n[snap]\nhookscript: local:snippets/pin-hook\n",
    );
    node.enable(100);
    let disabled = node.disable(100);
    assert!(
        lines(&disabled)
            .contains(&"kept the snippet local:snippets/pin-hook: a snapshot of vm 101 names it"),
        "{disabled:?}"
    );
    assert!(
        node.get("/var/lib/vz/snippets/pin-hook")
            .contains("pin-hook(8)")
    );
}

#[test]
fn a_hook_that_was_given_up_by_hand_is_not_called_again() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    node.enable(100);
    node.vm("pve1", 100, "cores: 4\n");
    node.enable(100);
    assert!(node.config(100).contains(HOOK));
    assert!(!node.has("/etc/pve/pin-hook/100.chain"));
    assert_eq!(node.get("/var/lib/pin-hook/saved/100.conf"), "cores: 4\n");
}

#[test]
fn a_missing_folder_for_snippets_is_made() {
    let node = node();
    node.remove_dir("/var/lib/vz/snippets");
    assert_eq!(node.enable(100).exit, Exit::Done);
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
}

#[test]
fn enabling_goes_on_where_it_was_interrupted() {
    let whole = node();
    whole.former_hook(100, "gpu.sh", "exit 0");
    let half = node();
    half.former_hook(100, "gpu.sh", "exit 0");
    half.put("/var/lib/pin-hook/saved/100.conf", "");
    half.put("/etc/pve/pin-hook/100.chain", "local:snippets/");
    half.put(
        "/var/lib/vz/snippets/pin-hook",
        "#!/bin/sh\n# calls pin-hook(8)",
    );
    for node in [&whole, &half] {
        let enabled = node.enable(100);
        assert_eq!(enabled.exit, Exit::Done, "{enabled:?}");
    }
    assert_eq!(half.files_below("/"), whole.files_below("/"));
}

#[test]
fn a_running_vm_is_told_apart() {
    let node = node();
    node.qemu(100);
    let enabled = node.enable(100);
    let told = "this takes effect at its next start; run pin-hook apply 100 to apply it now";
    let last = lines(&enabled).last().copied();
    assert_eq!(last, Some(format!("vm 100 is enabled; {told}").as_str()));
}

#[test]
fn every_refusal_has_fact_and_remedy_and_changes_nothing() {
    let told = |node: &Node, vmid: u32| {
        let before = node.files_below("/");
        let refused = refusal(&node.enable(vmid));
        assert_eq!(node.files_below("/"), before);
        refused
    };
    let plain = node();
    plain.vm("pve1", 101, "cores: 1\n");
    plain.vm("pve1", 102, "template: 1\n");
    plain.vm("pve2", 103, "cores: 1\n");
    plain.put("/etc/pve/nodes/pve1/lxc/104.conf", "cores: 1\n");
    plain.put("/etc/pin-hook/102.toml", "cpus = \"2-5\"\n");
    let expected = [
        (
            101,
            "vm 101 has no table in /etc/pin-hook or /etc/pve/pin-hook; pin-hook init 101 --write writes one",
        ),
        (
            102,
            "vm 102 is a template, which runs for backups only; enable the vms that are cloned from it",
        ),
        (103, "vm 103 is on node pve2; run it on pve2"),
        (
            104,
            "104 is a container, and only a vm can own its cpus; containers are kept off owned \
               cpus without a table",
        ),
        (
            105,
            "there is no vm 105; qm list shows the vms of this node",
        ),
    ];
    for (vmid, text) in expected {
        assert_eq!(told(&plain, vmid), text);
    }
}

#[test]
fn a_storage_or_hook_that_cannot_be_used_is_refused_with_the_remedy() {
    let told = |node: &Node, vmid: u32| {
        let before = node.files_below("/");
        let refused = refusal(&node.enable(vmid));
        assert_eq!(node.files_below("/"), before);
        refused
    };
    let closed = node();
    closed.put(
        "/etc/pve/storage.cfg",
        "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup\n",
    );
    assert_eq!(
        told(&closed, 100),
        "no storage of this node has snippets enabled; pvesm set local --content \
         iso,vztmpl,backup,snippets"
    );
    let gone = node();
    gone.put("/etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\ndir: usb\n\tpath /mnt/usb\n\tcontent snippets\n");
    assert_eq!(
        told(&gone, 100),
        "/mnt/usb of storage usb does not exist; pvesm status shows what is wrong with storage usb"
    );
    let taken = node();
    taken.put("/var/lib/vz/snippets/pin-hook", "#!/bin/sh\necho mine\n");
    assert_eq!(
        told(&taken, 100),
        "/var/lib/vz/snippets/pin-hook exists and is not pin-hook's; rename \
         /var/lib/vz/snippets/pin-hook, and the hookscript of vms that mean that file; then pin-hook enable puts its own there"
    );
    let broken = node();
    broken.vm("pve1", 100, "hookscript: local:snippets/lost.pl\n");
    assert_eq!(
        told(&broken, 100),
        "the hookscript local:snippets/lost.pl of vm 100 cannot be run: \
         /var/lib/vz/snippets/lost.pl does not exist; put /var/lib/vz/snippets/lost.pl back, or \
         remove it: qm set 100 --delete hookscript"
    );
    let forbidden = node();
    forbidden.vm("pve1", 100, "hookscript: local:snippets/lost.pl\n");
    forbidden.put("/var/lib/vz/snippets/lost.pl", "#!/bin/sh\n");
    assert_eq!(
        told(&forbidden, 100),
        "the hookscript local:snippets/lost.pl of vm 100 cannot be run: \
         /var/lib/vz/snippets/lost.pl is not executable; chmod +x /var/lib/vz/snippets/lost.pl, \
         or remove it: qm set 100 --delete hookscript"
    );
}

#[test]
fn a_wrong_table_is_refused_as_everywhere() {
    let node = node();
    node.put("/etc/pin-hook/100.toml", "cpu = \"2-5\"\n");
    let refused = node.enable(100);
    assert_eq!(refused.exit, Exit::Usage);
    assert!(lines(&refused)[0].starts_with("vm 100: /etc/pin-hook/100.toml:1:1: "));
    assert!(!node.config(100).contains("hookscript"));
}

#[test]
fn what_pve_refuses_is_taken_back() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    let before = node.files_below("/");
    node.qm_fails("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout\n");
    let refused = node.enable(100);
    assert_eq!(refused.exit, Exit::Refused);
    assert_eq!(
        lines(&refused)[3..],
        [
            "took this back: vm 100 is as it was before",
            "qm set 100 --hookscript local:snippets/pin-hook failed: can't lock file \
             '/var/lock/qemu-server/lock-100.conf' - got timeout",
            "try again; qm set 100 --hookscript local:snippets/pin-hook by hand may tell more",
        ]
    );
    assert_eq!(node.files_below("/"), before);
}

#[test]
fn a_full_disk_is_no_reason_to_try_again() {
    let node = node();
    assert_eq!(node.enable(100).exit, Exit::Done);
    let full = "unable to write '/etc/pve/nodes/pve1/qemu-server/100.conf.tmp' - No space left on device\n";
    node.qm_fails(full);
    let refused = node.disable(100);
    assert_eq!(refused.exit, Exit::Refused);
    let help = "free up space (df shows what is full), then qm set 100 --delete hookscript";
    assert_eq!(lines(&refused).last(), Some(&help));
}

#[test]
fn a_hookscript_that_is_not_set_afterwards_is_told_with_where_to_look() {
    let node = node();
    let before = node.files_below("/");
    node.qm_does_nothing();
    let refused = node.enable(100);
    assert_eq!(refused.exit, Exit::Refused, "{refused:?}");
    assert_eq!(
        lines(&refused)[2..],
        [
            "took this back: vm 100 is as it was before",
            "qm set 100 --hookscript local:snippets/pin-hook succeeded, but the hookscript is \
             not set",
            "someone else may have changed it: check qm config 100, then try again",
        ]
    );
    assert_eq!(node.files_below("/"), before);
}

#[test]
fn a_file_that_cannot_be_written_is_told_with_what_is_in_its_place() {
    let node = node();
    // A file in the place of the directory.
    node.put("/var/lib/pin-hook", "");
    let before = node.files_below("/");
    assert_eq!(
        refusal(&node.enable(100)),
        "cannot write /var/lib/pin-hook/saved/100.conf: Not a directory (os error 20); namei \
         -l /var/lib/pin-hook/saved/100.conf shows what is there, and on the way to it"
    );
    assert_eq!(node.files_below("/"), before);
}

#[test]
fn what_fails_on_an_enabled_vm_forgets_nothing() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    node.enable(100);
    node.put("/var/lib/vz/snippets/pin-hook", "# calls pin-hook(8)\n");
    // A directory in the place of the new file: it cannot be written.
    node.put("/var/lib/vz/snippets/pin-hook.new/x", "");
    let before = node.files_below("/");
    let failed = node.enable(100);
    assert_eq!(failed.exit, Exit::Incomplete, "{failed:?}");
    assert_eq!(
        lines(&failed),
        [
            "cannot write /var/lib/vz/snippets/pin-hook: Is a directory (os error 21); vm 100 has \
             the hookscript local:snippets/pin-hook anyway",
            "pin-hook enable 100 continues with it, pin-hook disable 100 undoes it",
        ]
    );
    assert_eq!(node.files_below("/"), before);
}

#[test]
fn a_hookscript_that_pve_set_before_it_was_late_forgets_nothing() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    node.qm_is_late();
    let failed = node.enable(100);
    assert_eq!(failed.exit, Exit::Incomplete, "{failed:?}");
    assert_eq!(
        lines(&failed)[3],
        "qm set 100 --hookscript local:snippets/pin-hook did not finish within 40s; vm 100 has the \
         hookscript local:snippets/pin-hook anyway"
    );
    assert!(node.config(100).contains(HOOK));
    assert_eq!(
        node.get("/etc/pve/pin-hook/100.chain"),
        "local:snippets/gpu.sh\n"
    );
    assert_eq!(node.enable(100).exit, Exit::Done);
    node.disable(100);
    assert!(
        node.config(100)
            .contains("hookscript: local:snippets/gpu.sh")
    );
}

#[test]
fn an_old_snippet_is_not_removed_when_pve_refuses() {
    let node = node();
    node.put("/var/lib/vz/snippets/pin-hook", "# calls pin-hook(8)\n");
    node.qm_fails("no\n");
    assert_eq!(node.enable(100).exit, Exit::Refused);
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
}

#[test]
fn a_service_manager_that_does_not_answer_costs_a_warning() {
    let node = with_vm(Node::without_systemd());
    let enabled = node.enable(100);
    assert_eq!(enabled.exit, Exit::Done, "{enabled:?}");
    assert!(lines(&enabled).contains(&"systemd did not answer"));
    assert!(node.config(100).contains(HOOK));
    let disabled = node.disable(100);
    assert_eq!(disabled.exit, Exit::Done, "{disabled:?}");
    assert!(!node.has(DROP_IN) && !node.has("/var/lib/pin-hook"));
}

#[test]
fn a_shared_storage_needs_the_program_on_every_node() {
    let node = node();
    node.put(
        "/etc/pve/storage.cfg",
        "dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\nnfs: nas\n\tcontent snippets\n",
    );
    node.put("/mnt/pve/nas/README", "");
    assert_eq!(
        refusal(&node.enable(100)),
        "storage nas is shared with pve2, where pin-hook is not installed; install pin-hook \
         there, or run: pvesm set local --content iso,snippets"
    );
    node.put("/etc/pve/pin-hook/nodes/pve2", "");
    assert_eq!(node.enable(100).exit, Exit::Done);
    assert!(
        node.config(100)
            .contains("hookscript: nas:snippets/pin-hook")
    );
    assert!(
        node.get("/mnt/pve/nas/snippets/pin-hook")
            .starts_with("#!/bin/sh")
    );
}

#[test]
fn a_locked_vm_is_neither_enabled_nor_disabled() {
    let node = node();
    node.vm("pve1", 100, "cores: 4\nlock: backup\n");
    let told = "vm 100 is locked (backup); wait for the task that is running; if there is none: qm unlock 100";
    assert_eq!(refusal(&node.enable(100)), told);
    node.vm("pve1", 100, &format!("cores: 4\nlock: backup\n{HOOK}\n"));
    assert_eq!(refusal(&node.disable(100)), told);
    assert_eq!(node.n_calls(), 0);
}
