use proptest::prelude::*;

use super::*;
use crate::domain::backend::Backend;
use crate::domain::container::ContainerConfig;
use crate::domain::desired::desired;
use crate::domain::desired::tests::{claim, claims, facts, set};
use crate::domain::facts::Facts;
use crate::domain::state::Held;

fn container(ctid: u32, cores: Option<usize>, cpus: CpuSet) -> Container {
    Container {
        ctid: ctid.to_string().parse().unwrap(),
        run: 7,
        cpus,
        inner: Some(CpuSet::new()),
        config: Some(ContainerConfig { cores, cpus: None }),
    }
}

/// Returns the new lists of containers, given as `cores` (0 for all) and list.
fn lists(counted: &str, free: &str, containers: &[(usize, &str)]) -> Vec<String> {
    let containers = (200..)
        .zip(containers)
        .map(|(ctid, (cores, list))| container(ctid, Some(*cores).filter(|n| *n > 0), set(list)));
    let containers: Vec<Container> = containers.collect();
    let (counted, free) = (set(counted), set(free));
    let offer = Offer { counted, free };
    let shared: Vec<(&Container, usize)> = containers
        .iter()
        .map(|container| (container, container.share(offer.counted.len()).unwrap()))
        .collect();
    let lists = offer.lists(&shared);
    let list = |container: &Container| {
        lists
            .get(&container.ctid)
            .unwrap_or(&container.cpus)
            .clone()
    };
    containers
        .iter()
        .map(|container| list(container).to_string())
        .collect()
}

#[test]
fn a_container_keeps_its_number_of_cpus_beside_the_owned_ones() {
    let in_partition = |containers| lists("0-1,6-7", "0-1,6-7", containers);
    // All CPUs are all that are left.
    assert_eq!(in_partition(&[(0, "0-7")]), ["0-1,6-7"]);
    assert_eq!(in_partition(&[(6, "0-5")]), ["0-1,6-7"]);
    // What PVE cut to the first of the old list.
    assert_eq!(in_partition(&[(0, "0-3")]), ["0-1,6-7"]);
    assert_eq!(in_partition(&[(2, "2-3")]), ["0-1"]);
    assert_eq!(in_partition(&[(2, "1-2")]), ["0-1"]);
    assert_eq!(in_partition(&[(2, "6-7")]), ["6-7"]);
    // Those who stay and those who come make room for each other.
    assert_eq!(in_partition(&[(2, "0-1"), (2, "2-3")]), ["0-1", "6-7"]);
    assert_eq!(in_partition(&[(2, "0,2"), (2, "1,3")]), ["0,6", "1,7"]);
    assert_eq!(in_partition(&[(2, "0,2"), (2, "0,3")]), ["1,7", "0,6"]);
}

#[test]
fn where_pve_counts_owned_cpus_its_length_is_kept_with_them() {
    let in_slices = |containers| lists("0-7", "0-1,6-7", containers);
    assert_eq!(in_slices(&[(0, "0-7")]), ["0-7"]);
    assert_eq!(in_slices(&[(5, "1-5")]), ["0-2,6-7"]);
    assert_eq!(in_slices(&[(2, "2-3")]), ["0-1"]);
    // A list that has every free CPU cannot be better: PVE would exchange the others again.
    assert_eq!(in_slices(&[(5, "0-1,5-7")]), ["0-1,5-7"]);
}

/// Returns the list of a container and what it is given back to.
fn of_container(
    backend: Backend,
    (cores, list): (Option<usize>, &str),
    shared: &str,
    held: &BTreeMap<Target, Held>,
) -> (String, Option<String>) {
    let mut claim = claim();
    claim.wishes.backend = backend;
    let facts = Facts {
        containers: vec![container(200, cores, set(list))],
        shared: set(shared),
        ..facts()
    };
    let wishes = desired(&claims([claim]), held, &facts);
    let wish = &wishes[&outer()];
    let baseline = wish.baseline.as_ref().map(ToString::to_string);
    (wish.value.to_string(), baseline)
}

fn outer() -> Target {
    Target::Knob(
        Knob::ContainerCpus,
        Place::Container("200".parse().unwrap(), 7),
    )
}

/// The container would run on the CPUs of the VM as soon as those are its own.
#[test]
fn containers_leave_owned_cpus_whatever_takes_those() {
    for (backend, container, expected) in [
        // The partition is about to be made: PVE does not count its CPUs any more.
        (Backend::Isolated, (None, "0-7"), "0-1,5-7"),
        (Backend::Isolated, (Some(2), "2-3"), "0-1"),
        (Backend::Slices, (Some(2), "2-3"), "0-1"),
    ] {
        let (list, _) = of_container(backend, container, "0-7", &BTreeMap::new());
        assert_eq!(list, expected, "{backend} {container:?}");
    }
}

/// A container would have fewer CPUs than before, or more than an admin saw it have.
#[test]
fn a_container_is_given_back_what_pve_would_have_given_it() {
    let born = |shared: &str, held: &BTreeMap<Target, Held>| {
        of_container(Backend::Isolated, (Some(6), "0-1,5-7"), shared, held).1
    };
    let none = BTreeMap::new();
    assert_eq!(born("0-1,5-7", &none).as_deref(), Some("0-2,5-7"));
    // Without a partition it was not cut, so it has what it had.
    assert_eq!(born("0-7", &none), None);
    // What is in hand is known.
    let held = Held::new(Value::Cpus(set("0-5")), Value::Cpus(set("0-1,5-7")));
    let held = BTreeMap::from([(outer(), held)]);
    assert_eq!(born("0-1,5-7", &held), None);
}

proptest! {
    #[test]
    fn every_list_suits_and_stays(
        owned in prop::collection::btree_set(0u32..16, 1..10),
        containers in prop::collection::vec((0usize..8, prop::collection::btree_set(0u32..16, 1..8)), 1..8),
    ) {
        let all: CpuSet = (0..16).map(CpuId).collect();
        let free = all.difference(&owned.into_iter().map(CpuId).collect());
        let offer = Offer { counted: free.clone(), free };
        let mut containers: Vec<Container> = (200..)
            .zip(containers)
            .map(|(ctid, (cores, list))| {
                let list = list.into_iter().map(CpuId).collect();
                container(ctid, Some(cores).filter(|n| *n > 0), list)
            })
            .collect();
        let of = |containers: &[Container]| {
            let n = offer.counted.len();
            let shared: Vec<(&Container, usize)> =
                containers.iter().map(|c| (c, c.share(n).unwrap())).collect();
            offer.lists(&shared)
        };
        for (ctid, list) in of(&containers) {
            let found = containers.iter_mut().find(|c| c.ctid == ctid);
            let container = found.unwrap();
            prop_assert_eq!(list.len(), container.share(offer.counted.len()).unwrap());
            prop_assert!(list.is_subset(&offer.free));
            container.cpus = list;
        }
        prop_assert!(of(&containers).is_empty());
    }
}
