//! `disable` where something is missing or goes wrong, on trees of files with a stand-in for `qm`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod pve_tree;

use pin_hook::lifecycle::engine::account::{Account, Exit};
use pve_tree::Node;

const HOOK: &str = "hookscript: local:snippets/pin-hook";

/// A node with VM 100, its table, and a storage with snippets.
fn node() -> Node {
    let node = Node::new();
    node.vm("pve1", 100, "cores: 4\n");
    node.put("/etc/pin-hook/100.toml", "cpus = \"2-5\"\n");
    node
}

fn lines(account: &Account) -> Vec<&str> {
    let lines = account.lines.iter();
    lines.map(|line| line.text.as_str()).collect()
}

/// Error and help of a refusal.
fn refusal(account: &Account) -> String {
    assert_eq!(account.exit, Exit::Refused, "{account:?}");
    lines(account).join("; ")
}

#[test]
fn disabling_what_was_never_enabled_says_so() {
    let node = node();
    let disabled = node.disable(100);
    assert_eq!(
        lines(&disabled),
        ["vm 100 does not have the hookscript of pin-hook"]
    );
    assert_eq!(disabled.exit, Exit::Done);
    assert_eq!(
        refusal(&node.disable(103)),
        "there is no vm 103; qm list shows the vms of this node"
    );
}

#[test]
fn a_former_hook_that_is_gone_does_not_keep_a_vm_enabled() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    node.enable(100);
    node.remove("/var/lib/vz/snippets/gpu.sh");
    let disabled = node.disable(100);
    assert_eq!(disabled.exit, Exit::Done, "{disabled:?}");
    assert_eq!(
        lines(&disabled)[..3],
        [
            "cannot give vm 100 its hookscript local:snippets/gpu.sh back: \
             /var/lib/vz/snippets/gpu.sh does not exist",
            "put /var/lib/vz/snippets/gpu.sh back, then qm set 100 --hookscript local:snippets/gpu.sh",
            "ran qm set 100 --delete hookscript",
        ]
    );
    assert!(!node.config(100).contains("hookscript"));
    assert!(!node.has("/etc/pve/pin-hook/100.chain"));
}

#[test]
fn a_record_that_cannot_be_used_is_named_with_the_remedy() {
    let node = node();
    node.enable(100);
    node.put("/etc/pve/pin-hook/100.chain", "/etc/passwd\n");
    for refused in [node.enable(100), node.disable(100)] {
        assert_eq!(
            refusal(&refused),
            "/etc/pve/pin-hook/100.chain does not name a snippet of another hook; remove \
             /etc/pve/pin-hook/100.chain if the hookscript it should name is no longer needed"
        );
    }
    assert!(node.config(100).contains(HOOK));
    node.remove("/etc/pve/pin-hook/100.chain");
    assert_eq!(node.disable(100).exit, Exit::Done);
}

#[test]
fn what_a_vm_owns_is_let_go_before_its_hookscript_changes() {
    let node = node();
    node.former_hook(100, "gpu.sh", "exit 0");
    node.enable(100);
    let (before, calls) = (node.files_below("/"), node.n_calls());
    node.put("/run/pin-hook/journal", "{\"version\":999}\n");
    let failed = node.disable(100);
    assert_eq!(failed.exit, Exit::Refused, "{failed:?}");
    assert_eq!(node.n_calls(), calls);
    assert_eq!(node.files_below("/"), before);
    node.remove("/run/pin-hook/journal");
    assert_eq!(node.disable(100).exit, Exit::Done);
    assert!(!node.has("/var/lib/vz/snippets/pin-hook") && !node.has("/var/lib/pin-hook"));
}

#[test]
fn a_vm_that_is_hooked_no_more_is_cleaned_up_after() {
    let by_hand = node();
    by_hand.enable(100);
    by_hand.vm("pve1", 100, "cores: 4\n");
    let late = node();
    late.enable(100);
    late.qm_is_late();
    assert_eq!(late.disable(100).exit, Exit::Refused);
    for node in [by_hand, late] {
        let disabled = node.disable(100);
        assert_eq!(disabled.exit, Exit::Done, "{disabled:?}");
        assert!(
            lines(&disabled).contains(&"removed the snippet local:snippets/pin-hook"),
            "{disabled:?}"
        );
        assert!(!node.has("/var/lib/vz/snippets/pin-hook") && !node.has("/var/lib/pin-hook"));
        assert!(!node.has("/run/systemd/system/100.scope.d"));
    }
}

#[test]
fn a_vm_whose_config_is_gone_is_not_said_to_be_disabled() {
    let node = node();
    node.enable(100);
    node.remove("/etc/pve/nodes/pve1/qemu-server/100.conf");
    let disabled = node.disable(100);
    assert_eq!(disabled.exit, Exit::Done, "{disabled:?}");
    let said = "vm 100 has no config on this node: if it comes back with the hookscript, run \
                pin-hook disable 100 again";
    assert_eq!(lines(&disabled).last(), Some(&said), "{disabled:?}");
}

#[test]
fn a_snippet_that_nobody_enabled_is_left_alone() {
    let node = node();
    node.put("/var/lib/vz/snippets/pin-hook", "# calls pin-hook(8)\n");
    node.boot();
    node.disable(100);
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
}

#[test]
fn a_snippet_of_somebody_else_is_said_to_be_left() {
    let node = node();
    node.enable(100);
    let path = "/var/lib/vz/snippets/pin-hook";
    node.put(path, "#!/bin/sh\n");
    let foreign = format!("{path}: it is not the snippet of pin-hook");
    let would = node.dry_disable(100);
    let would_leave = format!("would leave {foreign}");
    assert!(lines(&would).contains(&&*would_leave), "{would:?}");
    let disabled = node.disable(100);
    let left = format!("left {foreign}");
    assert!(lines(&disabled).contains(&&*left), "{disabled:?}");
    assert!(node.has(path));
}

#[test]
fn a_snippet_that_is_gone_is_not_said_to_be_removed() {
    let node = node();
    node.enable(100);
    node.remove("/var/lib/vz/snippets/pin-hook");
    let disabled = node.disable(100);
    assert_eq!(disabled.exit, Exit::Done);
    let is_told = lines(&disabled)
        .iter()
        .any(|line| line.contains("the snippet"));
    assert!(!is_told, "{disabled:?}");
}

#[test]
fn the_snippet_stays_while_a_container_names_it() {
    let node = node();
    node.put("/etc/pve/nodes/pve2/lxc/104.conf", &format!("{HOOK}\n"));
    node.enable(100);
    let disabled = node.disable(100);
    assert!(
        lines(&disabled)
            .contains(&"kept the snippet local:snippets/pin-hook: container 104 names it"),
        "{disabled:?}"
    );
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
}

#[test]
fn the_snippet_stays_while_a_snapshot_of_the_vm_itself_names_it() {
    let node = node();
    node.vm(
        "pve1",
        100,
        &format!("cores: 4\n{HOOK}\n\n[snap]\n{HOOK}\n"),
    );
    node.enable(100);
    let would = "would keep the snippet local:snippets/pin-hook: a snapshot of vm 100 names it";
    let shown = node.dry_disable(100);
    assert!(lines(&shown).contains(&would), "{shown:?}");
    let kept = "kept the snippet local:snippets/pin-hook: a snapshot of vm 100 names it";
    let disabled = node.disable(100);
    assert!(lines(&disabled).contains(&kept), "{disabled:?}");
}

#[test]
fn a_vm_whose_snippet_went_with_its_storage_is_disabled_and_enabled_again() {
    let node = node();
    node.vm("pve1", 100, "hookscript: nas:snippets/pin-hook\n");
    assert_eq!(
        refusal(&node.enable(100)),
        "storage nas, which has the hookscript of vm 100, does not exist; add storage nas again, \
         or pin-hook disable 100, then pin-hook enable 100"
    );
    let disabled = node.disable(100);
    assert_eq!(
        lines(&disabled),
        ["ran qm set 100 --delete hookscript", "vm 100 is disabled"]
    );
    assert_eq!(node.enable(100).exit, Exit::Done);
    assert!(node.config(100).contains(HOOK));
}

#[test]
fn other_nodes_that_could_not_be_told_are_a_warning_with_the_remedy() {
    let node = node();
    // A directory in the place of the file.
    node.put("/etc/pve/pin-hook/nodes/pve1/x", "");
    let warning = "the other nodes do not know which snippets this node has: cannot write \
                   /etc/pve/pin-hook/nodes/pve1";
    let remedy = "pin-hook-announce.service tries again every 30 s";
    for account in [node.enable(100), node.disable(100)] {
        assert_eq!(account.exit, Exit::Done, "{account:?}");
        let lines = lines(&account);
        assert!(
            lines.iter().any(|line| line.starts_with(warning)),
            "{lines:?}"
        );
        assert!(lines.contains(&remedy), "{lines:?}");
    }
}

#[test]
fn a_hookscript_that_stays_is_told_with_where_to_look() {
    let node = node();
    node.enable(100);
    node.qm_does_nothing();
    assert_eq!(
        refusal(&node.disable(100)),
        "qm set 100 --delete hookscript succeeded, but the hookscript is \
         local:snippets/pin-hook; someone else may have changed it: check qm config 100, then try \
         again"
    );
    assert_eq!(node.disable(100).exit, Exit::Done);
}

#[test]
fn a_file_that_cannot_be_removed_is_told_with_what_is_in_its_place() {
    let node = node();
    node.enable(100);
    node.remove("/etc/pve/pin-hook/nodes/pve1");
    node.remove("/var/lib/pin-hook/saved/100.conf");
    // A directory in the place of the file.
    node.put("/var/lib/pin-hook/saved/100.conf/x", "");
    let account = node.disable(100);
    assert_eq!(account.exit, Exit::Refused, "{account:?}");
    assert_eq!(
        lines(&account)[3..],
        [
            "cannot remove /var/lib/pin-hook/saved/100.conf: Is a directory (os error 21)",
            "/var/lib/pin-hook/saved/100.conf is a directory: move it away",
        ]
    );
}
