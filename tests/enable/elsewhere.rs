//! Other nodes that a VM may be started on, and what it would lack there.

use pin_hook::lifecycle::engine::account::Account;

use crate::pve_tree::Node;
use crate::{lines, node};

#[test]
fn a_vm_that_may_move_is_named_with_what_is_missing_there() {
    let node = node();
    node.put(
        "/etc/pve/ha/resources.cfg",
        "vm: 100\n\tstate started\n\nct: 101\n",
    );
    let told = |account: &Account| lines(account)[..2].join("; ");
    assert_eq!(
        told(&node.dry_enable(100)),
        "ha may start vm 100 on pve2, where it cannot start: pin-hook is not installed; install \
         pin-hook on pve2"
    );
    node.put("/etc/pve/pin-hook/nodes/pve2", "");
    node.put("/etc/pve/replication.cfg", "local: 100-0\n\ttarget pve2\n");
    assert_eq!(
        told(&node.dry_enable(100)),
        "vm 100 is replicated to pve2, where it cannot start: local:snippets/pin-hook is missing; \
          run on pve2: systemctl restart pin-hook-boot.service"
    );
    node.put("/etc/pve/pin-hook/nodes/pve2", "local:snippets/pin-hook\n");
    assert_eq!(
        told(&node.dry_enable(100)),
        "vm 100 is replicated to pve2, where it may have no cpus of its own: \
         /etc/pin-hook/100.toml is on this node only; put the table into /etc/pve/pin-hook/, for \
         all nodes"
    );
    node.remove("/etc/pin-hook/100.toml");
    node.put("/etc/pve/pin-hook/100.toml", "cpus = \"2-5\"\n");
    assert!(told(&node.dry_enable(100)).starts_with("would save"));
}

/// A VM of HA in a cluster of 40 nodes, of which pve1 and pve2 have pin-hook.
fn of_large_cluster() -> Node {
    let node = node();
    node.remove("/etc/pin-hook/100.toml");
    node.put("/etc/pve/pin-hook/100.toml", "cpus = \"2-5\"\n");
    node.put("/etc/pve/ha/resources.cfg", "vm: 100\n\tgroup small\n");
    for n in 2..=40 {
        node.put(&format!("/etc/pve/nodes/pve{n}/lrm_status"), "");
    }
    node.put("/etc/pve/pin-hook/nodes/pve2", "local:snippets/pin-hook\n");
    node
}

#[test]
fn nodes_that_lack_the_same_are_told_in_one_line() {
    let node = of_large_cluster();
    let account = node.dry_enable(100);
    let told = lines(&account);
    assert_eq!(
        told[..2],
        [
            "ha may start vm 100 on pve10, pve11 and 36 more, where it cannot start: pin-hook is not \
             installed",
            "install pin-hook on pve10, pve11 and 36 more",
        ]
    );
    assert!(told[2].starts_with("would save"), "{told:?}");
}

#[test]
fn ha_starts_a_vm_only_where_a_strict_rule_lets_it() {
    let rule = |more: &str| {
        format!(
            "node-affinity: own\n\tresources ct:9,vm:100\n\tnodes pve1,pve2:5\n{more}\n\
             resource-affinity: apart\n\tresources vm:100,vm:101\n\taffinity negative\n"
        )
    };
    let group = |more: &str| format!("group: small\n\tnodes pve2:2,pve1\n{more}");
    let twice = format!(
        "{}\nnode-affinity: b\n\tresources vm:100\n\tnodes pve3\n",
        rule("\tstrict 1\n")
    );
    for (rules, groups, is_restricted) in [
        (rule("\tstrict 1\n"), String::new(), true),
        (rule("\tstrict 0\n"), String::new(), false),
        (rule("\tstrict 1\n\tdisable 1\n"), String::new(), false),
        // PVE drops both rules of a resource that two are about.
        (twice, String::new(), false),
        (String::new(), group("\trestricted 1\n"), true),
        (String::new(), group(""), false),
    ] {
        let node = of_large_cluster();
        node.put("/etc/pve/ha/rules.cfg", &rules);
        node.put("/etc/pve/ha/groups.cfg", &groups);
        let account = node.dry_enable(100);
        let is_silent = lines(&account)[0].starts_with("would save");
        assert_eq!(is_silent, is_restricted, "{rules}{groups}");
    }
}

#[test]
fn a_node_with_another_version_is_named() {
    let node = of_large_cluster();
    node.put(
        "/etc/pve/ha/groups.cfg",
        "group: small\n\tnodes pve2\n\trestricted 1\n",
    );
    let announced = "# pin-hook 0.0.9\nlocal:snippets/pin-hook\n";
    node.put("/etc/pve/pin-hook/nodes/pve2", announced);
    let account = node.dry_enable(100);
    let version = env!("CARGO_PKG_VERSION");
    let told = format!(
        "ha may start vm 100 on pve2, where pin-hook has version 0.0.9, not {version} as on this node"
    );
    assert_eq!(
        lines(&account)[..2],
        [&*told, "install the same version on all nodes"]
    );
}
