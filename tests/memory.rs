//! Where a guest's memory comes from: nodes, pools and shares.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::collections::BTreeSet;

use pin_hook::config::vm_conf::parse_vm_conf;
use pin_hook::domain::claim::Claims;
use pin_hook::domain::guest::Guest;
use pin_hook::domain::memory::refused::refused;
use pin_hook::domain::memory::{MemoryFault, Pool, nodes, pools};
use pin_hook::domain::pools::{Pages, share};
use pin_hook::domain::table::Memory;
use pin_hook::domain::topology::{Node, Parts, Topology};

fn guest(conf: &str) -> Guest {
    parse_vm_conf(conf).guest()
}

fn wish(nodes: &str) -> Memory {
    Memory {
        nodes: Some(nodes.parse().unwrap()),
        hugepages: None,
    }
}

fn pool(node: u32, kib: u32) -> Pool {
    Pool { node, kib }
}

/// Two nodes: CPUs 0-3 and 4-7.
fn nodes_for(wished: &str, conf: &str) -> Result<BTreeSet<u32>, MemoryFault> {
    let node = |id: u32, cpus: &str| Node {
        id,
        cpus: cpus.parse().unwrap(),
        has_memory: true,
        ..Node::default()
    };
    let topology = Topology::new(Parts {
        nodes: vec![node(0, "0-3"), node(1, "4-7")],
        ..Parts::default()
    });
    let cpus = "5-6".parse().unwrap();
    nodes(&wish(wished), Some(&guest(conf)), &cpus, &topology)
}

#[test]
fn nodes_are_those_of_the_owned_cpus_or_those_of_the_table() {
    assert_eq!(nodes_for("auto", ""), Ok(BTreeSet::from([1])));
    assert_eq!(nodes_for("0-1", ""), Ok(BTreeSet::from([0, 1])));
}

#[test]
fn nodes_that_the_guest_cannot_start_with_are_refused() {
    let bound = "numa: 1\nnuma0: cpus=0-1,hostnodes=0,memory=512,policy=bind\n";
    let error = nodes_for("1", bound).unwrap_err();
    assert_eq!(
        error.to_string(),
        "numa0 of the vm's config takes memory from node 0, which memory.nodes does not include"
    );
    // Without a binding PVE fills the pool of node 0 for guest node 0.
    let hugepages = "numa: 1\nhugepages: 2\nmemory: 512\n";
    let error = nodes_for("1", hugepages).unwrap_err();
    assert!(matches!(error, MemoryFault::PoolLeftOut { node: 0, .. }));
    let error = nodes_for("3", "").unwrap_err();
    assert_eq!(error.help(None), "nodes with memory are 0-1");
}

#[test]
fn pools_are_those_that_pve_takes_pages_from() {
    for (conf, has_gigantic, expected) in [
        ("memory: 512\nhugepages: 2\n", false, vec![]),
        (
            "numa: 1\nmemory: 512\nhugepages: 2\n",
            false,
            vec![(pool(0, 2048), 256)],
        ),
        (
            "numa: 1\nsockets: 2\nmemory: 4096\nhugepages: any\n",
            true,
            vec![(pool(0, 1 << 20), 2), (pool(1, 1 << 20), 2)],
        ),
        (
            "numa: 1\nsockets: 2\nmemory: 4096\nhugepages: any\n",
            false,
            vec![(pool(0, 2048), 1024), (pool(1, 2048), 1024)],
        ),
        (
            "numa: 1\nmemory: 1024\nhugepages: 2\n\
             numa0: cpus=0,hostnodes=1,memory=512\nnuma1: cpus=1,hostnodes=1,memory=512\n",
            false,
            vec![(pool(1, 2048), 512)],
        ),
        (
            "numa: 1\nmemory: 4096\nhugepages: 2\nhotplug: memory\n",
            false,
            vec![],
        ),
    ] {
        assert_eq!(pools(&guest(conf), has_gigantic), expected, "{conf}");
    }
}

#[test]
fn what_is_free_is_not_added() {
    let now = |persistent, free| Pages { persistent, free };
    let of = |before, now| {
        let asked = (pool(0, 2048), 100);
        share("100".parse().unwrap(), asked, before, now, &Claims::new()).added
    };
    assert_eq!(of(0, now(0, 0)), 100);
    assert_eq!(of(30, now(30, 30)), 70);
    assert_eq!(of(300, now(300, 200)), 0);
    // Half of it is there already, from the same start before.
    assert_eq!(of(0, now(50, 50)), 100);
}

/// Two nodes with memory and one without.
fn said_of_memory(conf: &str) -> String {
    let node = |id: u32, has_memory| Node {
        id,
        has_memory,
        ..Node::default()
    };
    let topology = Topology::new(Parts {
        nodes: vec![node(0, true), node(1, true), node(2, false)],
        ..Parts::default()
    });
    let refused = refused(&guest(conf), &topology);
    refused.map_or(String::new(), |refused| refused.to_string())
}

fn assert_said(rows: &[(String, &str)]) {
    for (conf, expected) in rows {
        let told = said_of_memory(conf);
        let is_same = told.contains(expected) && told.is_empty() == expected.is_empty();
        assert!(is_same, "{conf}{told}");
    }
}

/// Each text is of `PVE::QemuServer::Memory`.
#[test]
fn hugepages_that_pve_refuses_are_known_before() {
    assert_said(&[
        ("hugepages: 2\n".to_owned(), "hugepages without numa: pve"),
        ("numa: 1\nhugepages: 2\n".to_owned(), ""),
        (
            "numa: 1\nhugepages: any\nmemory: 33\n".to_owned(),
            "each socket has 33 MiB",
        ),
        (
            "numa: 1\nhugepages: 1024\nmemory: 32\n".to_owned(),
            "each socket has 32 MiB of memory, no multiple of the hugepage size (1024 MiB): pve",
        ),
        (
            "numa: 1\nhugepages: 1024\nmemory: 2048\nsockets: 2\n".to_owned(),
            "",
        ),
        (
            "numa: 1\nhugepages: 2\nmemory: 1025\nsockets: 2\n".to_owned(),
            "",
        ),
        (
            "numa: 1\nhugepages: 2\nmemory: 512\nsockets: 4\n".to_owned(),
            "of socket 3 would come from node 3, which is not there: pve",
        ),
        ("numa: 1\nmemory: 512\nsockets: 4\n".to_owned(), ""),
    ]);
}

#[test]
fn numa_nodes_that_pve_or_qemu_refuse_are_known_before() {
    let bound = |from: &str, memory: u32| {
        format!("numa: 1\nnuma0: cpus=0-1,hostnodes={from},memory={memory},policy=bind\n")
    };
    assert_said(&[
        (bound("0", 512), ""),
        (bound("0-1", 512), ""),
        (
            bound("5", 512),
            "numa0 of the vm's config takes memory from node 5, which is not there",
        ),
        (bound("5", 512).replace("numa: 1", "numa: 0"), ""),
        (
            bound("2", 512),
            "takes memory from node 2, where there is none: qemu",
        ),
        (bound("1-2", 512), ""),
        (
            bound("0", 256),
            "the numa nodes of the vm's config have 256 MiB of its 512 MiB: pve",
        ),
        (bound("0", 0), "numa0 of the vm's config has no memory"),
        (
            bound("0", 512).replace(",policy=bind", ""),
            "has hostnodes and no policy",
        ),
        (bound("0", 512).replace("hostnodes=0,", ""), ""),
        (
            bound("0", 512).replace("hostnodes=0,", "") + "hugepages: 2\n",
            "numa0 of the vm's config has no hostnodes, which hugepages need",
        ),
        (
            bound("0-1", 512) + "hugepages: 2\n",
            "has several hostnodes, and hugepages",
        ),
        (
            bound("0", 512) + "hugepages: 1024\n",
            "numa0 has 512 MiB of memory, no multiple",
        ),
        (bound("5", 512) + "hotplug: memory\n", ""),
    ]);
}
