//! Tests of placement and reserve.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::{Pin, Reserve, Smt};
use crate::domain::topology::tests::grid;
use crate::domain::topology::{Core, CpuSets, Parts, Topology};

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn request(cpus: &str, n_vcpus: usize, guest_smt: usize) -> Request {
    Request {
        cpus: set(cpus),
        n_vcpus,
        max_vcpus: n_vcpus,
        guest_smt,
        ..Request::default()
    }
}

fn numbers(cpus: &[CpuId]) -> Vec<u32> {
    cpus.iter().map(|cpu| cpu.0).collect()
}

fn ids(cpus: &[u32]) -> Vec<CpuId> {
    cpus.iter().copied().map(CpuId).collect()
}

fn texts(placement: &Placement) -> Vec<String> {
    placement.notices.iter().map(Notice::to_string).collect()
}

/// Two P-cores with siblings 0,1 and 2,3, then four E-cores 4-7.
fn hybrid() -> Topology {
    let cores = ["0-1", "2-3", "4", "5", "6", "7"];
    Topology::new(Parts {
        sets: CpuSets {
            present: set("0-7"),
            online: set("0-7"),
            ..CpuSets::default()
        },
        cores: cores
            .map(|cpus| Core {
                package: 0,
                die: 0,
                cpus: set(cpus),
            })
            .into(),
        ..Parts::default()
    })
}

#[test]
fn default_order_keeps_guest_siblings_together() {
    let host = grid(1, 2, 6, 2);
    for (cpus, n_vcpus, guest_smt, order) in [
        (
            "6-11,18-23",
            12,
            2,
            vec![6, 18, 7, 19, 8, 20, 9, 21, 10, 22, 11, 23],
        ),
        ("6-11,18-23", 4, 2, vec![6, 18, 7, 19]),
        // Half a core (CPU 6) cannot hold a guest core and comes last.
        ("6-8,19-20", 4, 2, vec![7, 19, 8, 20]),
        ("6-8,19-20", 5, 2, vec![7, 19, 8, 20, 6]),
        ("6-7,18-19", 4, 4, vec![6, 18, 7, 19]),
    ] {
        let placement = place(&request(cpus, n_vcpus, guest_smt), &host).unwrap();
        assert_eq!(numbers(&placement.vcpus), order, "{cpus}");
        assert_eq!(placement.owned(), set(cpus));
    }
}

#[test]
fn default_order_without_guest_smt_gives_each_core_one_vcpu_first() {
    let host = grid(1, 2, 6, 2);
    for (n_vcpus, order, idle) in [
        (1, vec![6], "7-11,18-23"),
        (6, vec![6, 7, 8, 9, 10, 11], "18-23"),
        (8, vec![6, 18, 7, 19, 8, 9, 10, 11], "20-23"),
        (12, vec![6, 18, 7, 19, 8, 20, 9, 21, 10, 22, 11, 23], ""),
    ] {
        let placement = place(&request("6-11,18-23", n_vcpus, 1), &host).unwrap();
        assert_eq!(numbers(&placement.vcpus), order);
        assert_eq!(placement.idle, set(idle));
    }
}

#[test]
fn default_order_on_cores_with_and_without_smt() {
    let host = hybrid();
    let order = |n_vcpus, smt| place(&request("0-5", n_vcpus, smt), &host).unwrap().vcpus;
    assert_eq!(numbers(&order(4, 1)), [0, 2, 4, 5]);
    assert_eq!(numbers(&order(6, 1)), [0, 1, 2, 3, 4, 5]);
    let split = place(&request("0-5", 6, 2), &host).unwrap();
    assert_eq!(
        texts(&split),
        ["smt siblings of guest cores 2 run on different cores (cpus 4-5)"]
    );
}

#[test]
fn default_order_follows_nodes_where_numbers_alternate() {
    let mut parts = Parts::default();
    parts.sets.present = set("0-3");
    parts.sets.online = set("0-3");
    for (id, cpus) in [(0, "0,2"), (1, "1,3")] {
        parts.nodes.push(crate::domain::topology::Node {
            id,
            cpus: set(cpus),
            has_memory: true,
            ..Default::default()
        });
        parts.cores.extend(set(cpus).iter().map(|cpu| Core {
            package: 0,
            die: 0,
            cpus: CpuSet::of(cpu),
        }));
    }
    let placement = place(&request("0-3", 4, 1), &Topology::new(parts)).unwrap();
    assert_eq!(numbers(&placement.vcpus), [0, 2, 1, 3]);
    assert_eq!(
        texts(&placement),
        ["the vcpus are on several numa nodes: node 0 (cpus 0,2), node 1 (cpus 1,3)"]
    );
}

#[test]
fn default_order_follows_packages_where_the_host_tells_of_nothing_else() {
    let mut parts = Parts::default();
    parts.sets.present = set("0-3");
    parts.sets.online = set("0-3");
    parts.cores = (0..4)
        .map(|n| Core {
            package: i32::from(n % 2 == 1),
            die: 0,
            cpus: CpuSet::of(CpuId(n)),
        })
        .collect();
    let placement = place(&request("0-3", 4, 1), &Topology::new(parts)).unwrap();
    assert_eq!(numbers(&placement.vcpus), [0, 2, 1, 3]);
}

#[test]
fn hot_plugged_vcpus_keep_the_others_in_place() {
    let host = grid(1, 2, 6, 2);
    let mut wish = request("6-11,18-23", 4, 1);
    wish.max_vcpus = 8;
    let placement = place(&wish, &host).unwrap();
    assert_eq!(numbers(&placement.vcpus), [6, 7, 8, 9, 10, 11, 18, 19]);
    wish.max_vcpus = 16;
    let placement = place(&wish, &host).unwrap();
    assert_eq!(placement.vcpus.len(), 12);
    assert_eq!(
        texts(&placement),
        ["vcpus 12-15 have no cpu: plugged in later, they run on housekeeping cpus"]
    );
}

#[test]
fn vcpus_run_where_their_memory_is_bound() {
    let host = grid(2, 1, 4, 1);
    let mut wish = request("2-7", 4, 1);
    let home = |number, vcpus: &[u32], node| Home {
        number,
        vcpus: vcpus.iter().copied().collect(),
        host_nodes: [node].into(),
    };
    wish.homes = vec![home(0, &[0, 3], 0), home(1, &[1, 2], 1)];
    let placement = place(&wish, &host).unwrap();
    assert_eq!(numbers(&placement.vcpus), [2, 4, 5, 3]);
    wish.homes = vec![home(0, &[0, 1, 2], 0), home(1, &[3], 7)];
    let placement = place(&wish, &host).unwrap();
    assert_eq!(numbers(&placement.vcpus), [2, 3, 4, 5]);
    let warnings: Vec<String> = texts(&placement).into_iter().take(2).collect();
    assert_eq!(
        warnings,
        [
            "vcpus 2 run on cpus 4, and numa0 of the vm's config takes their memory from node 0: \
             the table has too few cpus there",
            "vcpus 3 run on cpus 5, and numa1 of the vm's config takes their memory from node 7: \
             the table has too few cpus there",
        ]
    );
}

#[test]
fn siblings_stay_idle_or_are_filled_as_the_table_says() {
    let host = grid(1, 2, 6, 2);
    let mut wish = request("6-9", 4, 1);
    wish.smt = Some(Smt::IdleSibling);
    let placement = place(&wish, &host).unwrap();
    assert_eq!(numbers(&placement.vcpus), [6, 7, 8, 9]);
    assert_eq!(placement.idle, set("18-21"));
    assert!(placement.notices.is_empty(), "{:?}", texts(&placement));
    wish.cpus = set("6-8,18-19");
    let error = place(&wish, &host).unwrap_err().to_string();
    assert_eq!(error, "the table has 3 cores for 4 vcpus");
    wish.vcpus = Some(ids(&[6, 18, 7, 8]));
    let error = place(&wish, &host).unwrap_err();
    assert_eq!(error, PlacementError::SharedCore(set("6,18")));
    let mut wish = request("6-9,18-21", 4, 1);
    wish.smt = Some(Smt::Pairs);
    let placement = place(&wish, &host).unwrap();
    assert_eq!(numbers(&placement.vcpus), [6, 18, 7, 19]);
}

#[test]
fn explicit_list_is_taken_as_it_is() {
    let host = grid(1, 2, 6, 2);
    let mut wish = request("6-8,18-20", 3, 1);
    wish.vcpus = Some(ids(&[20, 6, 7, 8]));
    wish.also = set("23");
    let placement = place(&wish, &host).unwrap();
    assert_eq!(numbers(&placement.vcpus), [20, 6, 7]);
    assert_eq!(placement.idle, set("8,18-19,23"));
    assert_eq!(
        texts(&placement),
        [
            "cpu 11 is not the vm's, and on the same core as its cpu 23 (smt): anything running \
             there slows down its vcpus",
            "cpus 8,18-19 of the vm are idle: it has 3 vcpus",
        ]
    );
    assert!(placement.notices[0].is_warning());
    assert!(!placement.notices[1].is_warning());
}

#[test]
fn l3_domains_are_named_when_the_vcpus_span_them() {
    let host = grid(1, 2, 6, 2);
    let placement = place(&request("4-7,16-19", 8, 2), &host).unwrap();
    assert_eq!(
        texts(&placement),
        ["the vcpus are in several l3 domains: cpus 4-5,16-17 and cpus 6-7,18-19"]
    );
}

#[test]
fn refuses_what_cannot_be_placed() {
    let host = {
        let mut parts = Parts::default();
        parts.sets.present = set("0-7");
        parts.sets.online = set("0-6");
        Topology::new(parts)
    };
    let with = |vcpus: &[u32]| Request {
        vcpus: Some(ids(vcpus)),
        ..request("2-5", 2, 1)
    };
    for (wish, fact, help) in [
        (request("", 0, 1), "cpus names no cpu", "cpus = "),
        (
            request("6-9", 1, 1),
            "the host has no cpus 8-9, it has 0-7",
            "choose other cpus than 8-9",
        ),
        (
            request("6-7", 1, 1),
            "cpu 7 is offline",
            "/sys/devices/system/cpu/cpu7/online",
        ),
        (
            request("0-3", 5, 1),
            "the table has 4 cpus for 5 vcpus",
            "name 5 cpus",
        ),
        (with(&[2]), "pin.vcpus has 1 cpu for 2 vcpus", "name 2 cpus"),
        (with(&[2, 2]), "pin.vcpus names cpu 2 twice", "of its own"),
        (
            with(&[2, 6]),
            "pin.vcpus names cpu 6, which is not in cpus = \"2-5\"",
            "add them",
        ),
        (
            Request {
                also: set("5-6"),
                ..request("2-5", 2, 1)
            },
            "isolate.also has cpu 5, which is already in cpus",
            "one of the two",
        ),
    ] {
        let error = place(&wish, &host).unwrap_err();
        assert_eq!(error.to_string(), fact);
        assert!(error.help().contains(help), "{}", error.help());
    }
}

#[test]
fn other_threads_are_pinned_to_cpus_that_are_online() {
    let mut parts = Parts::default();
    parts.sets.present = set("0-7");
    parts.sets.online = set("0-6");
    let host = Topology::new(parts);
    let pins: [fn(CpuSet) -> Pin; 3] = [
        |cpus| Pin {
            emulator: Some(cpus),
            ..Pin::default()
        },
        |cpus| Pin {
            iothreads: BTreeMap::from([("scsi0".to_owned(), cpus)]),
            ..Pin::default()
        },
        |cpus| Pin {
            vhost: BTreeMap::from([("net0".to_owned(), cpus)]),
            ..Pin::default()
        },
    ];
    let (absent, offline) = ("the host has no cpu 8, it has 0-7", "cpu 7 is offline");
    for pin in pins {
        for (cpus, fact) in [("0-6", None), ("6-7", Some(offline)), ("7-8", Some(absent))] {
            let error = threads_fit(&pin(set(cpus)), &host).err();
            let told = error.map(|error| error.to_string());
            assert_eq!(told.as_deref(), fact, "{:?}", pin(set(cpus)));
        }
    }
}

#[test]
fn every_cpu_that_a_table_names_has_to_be_there() {
    let mut also = request("2-5", 2, 1);
    also.also = set("99");
    let mut listed = request("2-5", 2, 1);
    listed.vcpus = Some(ids(&[2, 99]));
    for wish in [request("2-5,99", 2, 1), also, listed] {
        let error = place(&wish, &grid(1, 1, 6, 1)).unwrap_err();
        assert_eq!(error.to_string(), "the host has no cpu 99, it has 0-5");
    }
}

#[test]
fn each_vcpu_that_runs_has_a_cpu_whatever_can_be_plugged_in() {
    let wish = Request {
        max_vcpus: 0,
        ..request("6-8", 2, 1)
    };
    let placement = place(&wish, &grid(1, 2, 6, 2)).unwrap();
    assert_eq!(numbers(&placement.vcpus), [6, 7]);
}

#[test]
fn reports_owned_cpus_in_isolcpus() {
    let mut parts = Parts::default();
    parts.sets.present = set("0-7");
    parts.sets.online = set("0-7");
    parts.sets.isolcpus = set("6-7");
    let placement = place(&request("4-6", 3, 1), &Topology::new(parts)).unwrap();
    assert_eq!(placement.isolcpus, set("6"));
}

#[test]
fn reserve_is_two_cores_or_one_on_small_hosts() {
    assert_eq!(default_reserve(&grid(1, 1, 7, 2)), 1);
    assert_eq!(default_reserve(&grid(1, 1, 8, 1)), 2);
}

#[test]
fn reserve_is_checked_in_cores_or_cpus() {
    let host = grid(1, 2, 6, 2);
    let cores = Some(Reserve::Cores(4));
    let cpus = Some(Reserve::Cpus(set("0-1,12-13")));
    for (reserve, claimed, fact) in [
        (&None, "2-11,14-23", None),
        (
            &None,
            "1-11,14-23",
            Some(
                "2 cores with all their smt siblings must stay with the host, 1 would be left \
                 (housekeeping cpus 0,12-13)",
            ),
        ),
        (&None, "0-23", Some("no cpu would be left for the host")),
        (&cores, "4-11,16-23", None),
        (
            &cores,
            "3-11",
            Some(
                "4 cores with all their smt siblings must stay with the host, 3 would be left \
                 (housekeeping cpus 0-2,12-23)",
            ),
        ),
        (&cpus, "2-11,14-23", None),
        (
            &cpus,
            "13-23",
            Some("cpu 13 must stay with the host (reserve = \"0-1,12-13\")"),
        ),
    ] {
        let left = housekeeping(&host, &set(claimed), &CpuSet::new());
        let error = check_reserve(&host, reserve.as_ref(), &left).err();
        assert_eq!(error.as_ref().map(ToString::to_string).as_deref(), fact);
        assert!(error.is_none_or(|error| error.help().contains("fewer cpus")));
    }
}

prop_compose! {
    fn any_host()(nodes in 1u32..=2, l3s in 1u32..=2, cores in 1u32..=3, smt in 1u32..=2)
        -> Topology { grid(nodes, l3s, cores, smt) }
}

fn any_cpus() -> impl Strategy<Value = CpuSet> {
    proptest::collection::btree_set(0u32..26, 0..16)
        .prop_map(|cpus| cpus.into_iter().map(CpuId).collect())
}

prop_compose! {
    fn any_request()(
        cpus in any_cpus(),
        also in any_cpus(),
        with_also in proptest::bool::weighted(0.2),
        listed in proptest::option::weighted(0.3, proptest::collection::vec(0u32..26, 0..6)),
        n_vcpus in 0usize..16,
        more in 0usize..4,
        guest_smt in 0usize..4,
    ) -> Request {
        Request {
            cpus,
            also: if with_also { also } else { CpuSet::new() },
            vcpus: listed.map(|cpus| ids(&cpus)),
            n_vcpus,
            max_vcpus: n_vcpus + more,
            guest_smt,
            ..Request::default()
        }
    }
}

proptest! {
    #[test]
    fn placement_is_total_and_has_no_duplicates(host in any_host(), wish in any_request()) {
        let result = place(&wish, &host);
        prop_assert_eq!(&result, &place(&wish, &host));
        let Ok(placement) = result else { return Ok(()) };
        let used: CpuSet = placement.vcpus.iter().copied().collect();
        prop_assert_eq!(used.len(), placement.vcpus.len());
        prop_assert!(used.is_subset(&wish.cpus));
        prop_assert!(used.is_disjoint(&placement.idle));
        prop_assert!(placement.vcpus.len() >= wish.n_vcpus);
        prop_assert_eq!(placement.owned(), wish.cpus.union(&wish.also));
        for notice in placement.notices {
            prop_assert!(!notice.to_string().is_empty());
        }
    }

    #[test]
    fn isolated_and_housekeeping_share_no_cpu(
        host in any_host(), claimed in any_cpus(), foreign in any_cpus(),
    ) {
        let left = housekeeping(&host, &claimed, &foreign);
        prop_assert!(left.is_disjoint(&claimed));
        prop_assert!(left.is_disjoint(&foreign));
        prop_assert!(left.is_subset(host.online()));
        prop_assert_eq!(
            left.is_empty(),
            check_reserve(&host, Some(&Reserve::Cores(0)), &left).is_err()
        );
    }
}
