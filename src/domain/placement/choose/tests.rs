//! Tests of the choice.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::domain::cpuset::CpuId;
use crate::domain::table::Prefer;
use crate::domain::topology::tests::grid;
use crate::domain::topology::{Core, CpuSets, L3Domain, Parts, Topology};

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
        memory_mib: 0,
        prefer: None,
        speeds: no_speeds(),
        smt: None,
    }
}

fn no_speeds() -> &'static Speeds {
    static NONE: std::sync::LazyLock<Speeds> = std::sync::LazyLock::new(Speeds::default);
    &NONE
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

/// Cores of one CPU each in these L3 domains; those of `efficient` are slow.
fn domains(domains: &[&str], efficient: &str) -> Topology {
    let all = domains
        .iter()
        .flat_map(|cpus| set(cpus).iter().collect::<Vec<_>>());
    let all: CpuSet = all.collect();
    let core = |cpu| Core {
        package: 0,
        die: 0,
        cpus: CpuSet::of(cpu),
    };
    let domain = |cpus: &&str| L3Domain {
        cpus: set(cpus),
        kib: Some(32 << 10),
    };
    Topology::new(Parts {
        sets: CpuSets {
            present: all.clone(),
            online: all.clone(),
            ..CpuSets::default()
        },
        cores: all.iter().map(core).collect(),
        l3_domains: domains.iter().map(domain).collect(),
        efficient: set(efficient),
        ..Parts::default()
    })
}

/// A neighbour in the same L3 cache throws out what the VM has there.
#[test]
fn a_cache_of_its_own_comes_before_the_rest_of_another_one() {
    let host = domains(&["0-3", "4-7", "8-10"], "");
    let mut wish = search(&host, 3);
    wish.others = set("4");
    assert_eq!(chosen(&wish), ["8-10", ""]);
}

/// The host works on the boot CPU most, and could not leave it.
#[test]
fn the_boot_cpu_is_left_even_where_its_cache_would_fit_exactly() {
    let host = domains(&["0-1", "2-5"], "");
    assert_eq!(chosen(&search(&host, 2)), ["2-3", ""]);
}

/// The guest cannot know which of its vCPUs is slow, and waits for it.
#[test]
fn cores_of_one_kind_come_before_one_cache() {
    let host = domains(&["0-3", "4-7"], "2-3,6-7");
    let mut wish = search(&host, 4);
    assert_eq!(chosen(&wish), ["0-1,4-5", ""]);
    wish.others = set("4-5");
    assert_eq!(chosen(&wish), ["2-3,6-7", ""]);
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

/// cores-absurd: work is counted, not timed.
#[test]
fn absurd_numbers_are_not_searched_one_by_one() {
    let host = grid(2, 4, 8, 2);
    for n_vcpus in [129, 10_000_000, usize::MAX] {
        let wish = search(&host, n_vcpus);
        let free = free_cores(&wish, &CpuSet::new());
        assert!(candidates(&wish, &free).is_empty(), "{n_vcpus}");
        assert_eq!(choose(&wish).unwrap_err().fitting(), 124);
    }
    for bound in [0, 1, 5, 1280] {
        for limit in 0..=bound {
            let mut looks = 0;
            let found = most(bound, |n| {
                looks += 1;
                n <= limit
            });
            assert_eq!(found, limit);
            assert!(looks <= usize::BITS - bound.leading_zeros() + 1, "{looks}");
        }
    }
}

/// A host of nodes with so many cores of one CPU each and so much memory (GiB).
fn uneven(nodes: &[(u32, u64)]) -> Topology {
    let mut parts = Parts::default();
    let mut next = 0;
    for (id, (n_cores, gib)) in (0..).zip(nodes) {
        let cpus: CpuSet = (next..next + n_cores).map(CpuId).collect();
        next += n_cores;
        parts.cores.extend(cpus.iter().map(|cpu| Core {
            package: 0,
            die: 0,
            cpus: CpuSet::of(cpu),
        }));
        parts.sets.online = parts.sets.online.union(&cpus);
        parts.nodes.push(crate::domain::topology::Node {
            id,
            cpus,
            has_memory: *gib > 0,
            memory_kib: Some(gib << 20),
            ..Default::default()
        });
    }
    parts.sets.present = parts.sets.online.clone();
    Topology::new(parts)
}

#[test]
fn many_nodes_are_searched_as_few_are() {
    let host = uneven(&[(4, 8); 20]);
    let mut wish = search(&host, 8);
    assert_eq!(chosen(&wish), ["4-11", ""]);
    wish.others = set("5,9,13,17");
    let choice = choose(&wish).unwrap();
    assert_eq!(nodes_of(&host, &choice).len(), 2);
}

#[test]
fn memory_beyond_one_node_takes_two_evenly() {
    let host = uneven(&[(12, 64), (12, 64), (12, 0)]);
    let mut wish = search(&host, 8);
    wish.memory_mib = 96 << 10;
    assert_eq!(chosen(&wish), ["8-15", ""]);
    wish.memory_mib = 32 << 10;
    assert_eq!(chosen(&wish), ["12-19", ""]);
}

/// A guest that fits one node would have half of its memory far away.
#[test]
fn memory_that_just_fits_stays_in_one_node() {
    let host = uneven(&[(12, 64), (12, 64)]);
    let mut wish = search(&host, 8);
    wish.memory_mib = 64 << 10;
    assert_eq!(chosen(&wish), ["12-19", ""]);
}

/// What a node without memory of its own has is what the node beside it has.
#[test]
fn a_node_with_memory_beside_it_has_as_much() {
    let mut parts = Parts::default();
    let gib = [64, 0, 8];
    parts.nodes = (0..)
        .zip(gib)
        .map(|(id, gib): (u32, u64)| crate::domain::topology::Node {
            id,
            cpus: (id * 4..id * 4 + 4).map(CpuId).collect(),
            has_memory: gib > 0,
            memory_kib: Some(gib << 20),
            ..Default::default()
        })
        .collect();
    parts.nodes[1].distances = [(0, 11), (2, 32)].into();
    parts.sets.present = set("0-11");
    parts.sets.online = set("0-11");
    parts.cores = (0..12)
        .map(|n| Core {
            package: 0,
            die: 0,
            cpus: CpuSet::of(CpuId(n)),
        })
        .collect();
    let host = Topology::new(parts);
    let mut wish = search(&host, 4);
    wish.memory_mib = 16 << 10;
    assert_eq!(chosen(&wish), ["4-7", ""]);
}

#[test]
fn speed_is_preferred_within_one_l3_domain() {
    let host = grid(1, 2, 4, 1);
    let speeds = Speeds {
        max_khz: (0..8)
            .map(|n| (CpuId(n), if n == 1 || n == 6 { 6 } else { 5 }))
            .collect(),
        ..Speeds::default()
    };
    let mut wish = search(&host, 1);
    wish.speeds = &speeds;
    wish.prefer = Some(Prefer::Frequency);
    assert_eq!(chosen(&wish), ["6", ""]);
    wish.n_vcpus = 2;
    assert_eq!(chosen(&wish), ["4,6", ""]);
    wish.prefer = Some(Prefer::Performance);
    assert_eq!(chosen(&wish), ["4-5", ""]);
}

#[test]
fn siblings_are_idle_or_used_as_asked() {
    let host = grid(1, 2, 6, 2);
    let mut wish = search(&host, 8);
    wish.smt = Some(Smt::IdleSibling);
    let choice = choose(&wish).unwrap();
    assert_eq!((choice.cpus.len(), choice.idle.len()), (8, 8));
    wish.n_vcpus = 4;
    wish.smt = Some(Smt::Pairs);
    assert_eq!(chosen(&wish), ["6-7,18-19", ""]);
}

fn nodes_of(host: &Topology, choice: &Choice) -> BTreeSet<u32> {
    let nodes = choice.cpus.iter().filter_map(|cpu| host.node_of(cpu));
    nodes.map(|node| node.id).collect()
}

/// Returns with how few nodes there is room at all, by trying every set of them.
fn fewest_nodes(usable: &[&crate::domain::topology::Node], wish: &Search<'_>) -> Option<u32> {
    let room = |bits: u32| -> usize {
        let inside = (0..).zip(usable).filter(|(n, _)| bits >> n & 1 == 1);
        let cores = inside.map(|(_, node)| {
            let free = free_cores(wish, &CpuSet::new()).into_iter();
            let free = free.filter(|core| core.cpus.is_subset(&node.cpus));
            free.map(|core| core.cpus.len()).sum::<usize>()
        });
        cores.sum()
    };
    let sets = 1..1_u32 << usable.len();
    let enough = sets.filter(|bits| room(*bits) >= wish.n_vcpus);
    enough.map(u32::count_ones).min()
}

proptest! {
    #[test]
    fn few_nodes_whole_cores_and_memory(
        nodes in proptest::collection::vec((1..5_u32, prop_oneof![Just(0_u64), Just(64)]), 1..6),
        n_vcpus in 1..12_usize,
        others in proptest::collection::btree_set(0..20_u32, 0..5),
    ) {
        let host = uneven(&nodes);
        let others: CpuSet = others.into_iter().map(CpuId).collect();
        let reserve = Reserve::Cores(1);
        let wish = Search { others, reserve: Some(&reserve), ..search(&host, n_vcpus) };
        let Ok(choice) = choose(&wish) else { return Ok(()) };
        let used = nodes_of(&host, &choice);
        let with_memory: Vec<_> = host.nodes().iter().filter(|node| node.has_memory).collect();
        // Cores have one CPU each here, so what is left for the host does not depend on the choice.
        match fewest_nodes(&with_memory, &wish) {
            Some(fewest) => {
                prop_assert!(used.iter().all(|id| host.node(*id).unwrap().has_memory));
                prop_assert_eq!(used.len(), fewest as usize);
            }
            None => prop_assert!(used.iter().any(|id| !host.node(*id).unwrap().has_memory)),
        }
    }

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
            let owned = choice.owned();
            let cut = |core: &Core| {
                !core.cpus.is_disjoint(&owned) && !core.cpus.is_subset(&owned)
            };
            prop_assert!(!host.cores().iter().any(cut));
            prop_assert!(check(&search, &choice).is_ok());
            prop_assert_eq!(choose(&search), Ok(choice));
        }
    }
}
