//! Tests of the choice.

use proptest::prelude::*;

use super::*;
use crate::domain::topology::tests::grid;
use crate::domain::topology::{Core, CpuSets, L3Domain, Parts};

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn search(topology: &Topology, n_vcpus: usize) -> Search<'_> {
    Search {
        topology,
        n_vcpus,
        guest_smt: 1,
        others: CpuSet::new(),
        kept: CpuSet::new(),
        avoid: CpuSet::new(),
        near: BTreeSet::new(),
        reserve: None,
    }
}

/// Returns the chosen CPUs and those that stay idle.
fn chosen(search: &Search<'_>) -> [String; 2] {
    let choice = choose(search).unwrap();
    [choice.cpus.to_string(), choice.idle.to_string()]
}

#[test]
fn a_vm_stays_in_one_l3_domain_away_from_the_boot_cpu() {
    let host = grid(1, 2, 6, 2);
    for (n_vcpus, cpus, idle) in [
        (1, "6", "18"),
        (4, "6-9", "18-21"),
        (6, "6-11", "18-23"),
        (7, "6-9,18-21", ""),
        (12, "6-11,18-23", ""),
        (14, "5-11,17-23", ""),
        (20, "2-11,14-23", ""),
    ] {
        let found = chosen(&search(&host, n_vcpus));
        assert_eq!(found, [cpus, idle], "{n_vcpus}");
    }
}

#[test]
fn a_guest_with_smt_gets_siblings() {
    let host = grid(1, 2, 6, 2);
    let with_smt = Search {
        guest_smt: 2,
        ..search(&host, 4)
    };
    assert_eq!(chosen(&with_smt), ["6-7,18-19", ""]);
}

#[test]
fn cpus_of_others_are_never_chosen_and_small_gaps_are_filled_first() {
    let host = grid(1, 4, 4, 1);
    let mut next = search(&host, 2);
    next.others = set("4-5");
    assert_eq!(chosen(&next), ["6-7", ""]);
    next.n_vcpus = 3;
    assert_eq!(chosen(&next), ["8-10", ""]);
    next.kept = set("8-9");
    assert_eq!(chosen(&next), ["12-14", ""]);
}

#[test]
fn what_others_are_set_to_is_chosen_last() {
    let host = grid(1, 1, 8, 1);
    let mut next = search(&host, 3);
    next.avoid = set("5");
    assert_eq!(chosen(&next), ["4,6-7", ""]);
    next.avoid = set("1-5");
    assert_eq!(chosen(&next), ["0,6-7", ""]);
    next.n_vcpus = 4;
    assert_eq!(chosen(&next), ["4-7", ""]);
}

#[test]
fn devices_decide_between_nodes() {
    let host = grid(4, 1, 4, 2);
    let mut next = search(&host, 4);
    assert_eq!(chosen(&next), ["4-7", "20-23"]);
    next.near = BTreeSet::from([2]);
    assert_eq!(chosen(&next), ["8-11", "24-27"]);
    next.near = BTreeSet::from([0]);
    assert_eq!(chosen(&next), ["2-3,18-19", ""]);
    next.others = set("1");
    assert_eq!(chosen(&next), ["2-3,18-19", ""]);
    next.others = set("1-3");
    assert_eq!(chosen(&next), ["4-7", "20-23"]);
}

/// Two L3 domains of four cores; the one with the boot CPU has `kib` of cache, the other 32 MiB.
fn two_caches(kib: u64) -> Topology {
    let core = |n: u32| Core {
        package: 0,
        die: 0,
        cpus: CpuSet::of(crate::domain::cpuset::CpuId(n)),
    };
    let domain = |cpus, kib| L3Domain {
        cpus: set(cpus),
        kib: Some(kib),
    };
    Topology::new(Parts {
        sets: CpuSets {
            present: set("0-7"),
            online: set("0-7"),
            ..CpuSets::default()
        },
        cores: (0..8).map(core).collect(),
        l3_domains: vec![domain("0-3", kib), domain("4-7", 32 << 10)],
        ..Parts::default()
    })
}

#[test]
fn much_more_cache_outweighs_the_boot_cpu() {
    assert_eq!(chosen(&search(&two_caches(96 << 10), 2)), ["2-3", ""]);
    assert_eq!(chosen(&search(&two_caches(96 << 10), 4)), ["0-3", ""]);
    assert_eq!(chosen(&search(&two_caches(48 << 10), 4)), ["4-7", ""]);
}

#[test]
fn too_little_room_is_told_with_what_would_fit() {
    let host = grid(1, 1, 4, 2);
    let error = choose(&search(&host, 8)).unwrap_err();
    assert_eq!(error.fitting(), 6);
    assert!(error.to_string().starts_with("8 vcpus leave too little: "));
    let mut next = search(&host, 4);
    next.others = set("1-7");
    let error = choose(&next).unwrap_err();
    assert_eq!(
        error.to_string(),
        "4 vcpus need a cpu each, no core of the host is free"
    );
    assert_eq!(error.fitting(), 0);
    let reserve = Reserve::Cores(3);
    next.others = CpuSet::new();
    next.reserve = Some(&reserve);
    assert_eq!(choose(&next).unwrap_err().fitting(), 2);
}

proptest! {
    #[test]
    fn a_choice_is_free_enough_and_always_the_same(
        shape in (1..3_u32, 1..4_u32, 1..5_u32, 1..3_u32),
        n_vcpus in 1..20_usize,
        guest_smt in 1..3_usize,
        others in proptest::collection::btree_set(0..40_u32, 0..8),
    ) {
        let (nodes, l3s, cores, smt) = shape;
        let host = grid(nodes, l3s, cores, smt);
        let others = others.into_iter().map(crate::domain::cpuset::CpuId).collect();
        let search = Search { guest_smt, others, ..search(&host, n_vcpus) };
        if let Ok(choice) = choose(&search) {
            prop_assert!(choice.cpus.len() >= n_vcpus);
            prop_assert!(choice.owned().is_disjoint(&search.others));
            prop_assert!(choice.owned().is_subset(host.online()));
            prop_assert!(choice.cpus.is_disjoint(&choice.idle));
            prop_assert!(check(&search, &choice).is_ok());
            prop_assert_eq!(choose(&search), Ok(choice));
        }
    }
}
