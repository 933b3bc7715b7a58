use proptest::prelude::*;

use super::draw::{Paper, draw};
use super::*;
use crate::domain::topology::tests::grid;

#[track_caller]
fn drawn(map: &Map, width: usize) -> String {
    let is_ascii = true;
    let lines = draw(map, Paper { width, is_ascii });
    let text: String = lines.iter().map(|line| line.text() + "\n").collect();
    assert!(lines.iter().all(|line| line.width() <= width), "{text}");
    text
}

fn map(topology: &Topology, vms: &[(u32, &str)]) -> Map {
    let vms = vms.iter().map(|(vmid, cpus)| Owner {
        vmid: vmid.to_string().parse().ok(),
        ..Owner::new(OwnerKind::Vm, cpus.parse().unwrap())
    });
    Map::new(topology, vms.collect(), Vec::new())
}

/// Returns the numbers in the cells, in order.
fn cpus_in_cells(text: &str) -> Vec<u32> {
    let framed = text.lines().filter(|line| line.starts_with('|'));
    let cells = framed.flat_map(|line| line.split('|'));
    // What is left are the edges of frames within frames.
    let cells = cells.filter(|cell| !cell.contains('+'));
    let words = cells.flat_map(str::split_whitespace);
    let numbers = words.map(|word| word.trim_end_matches(char::is_alphabetic).parse().unwrap());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// Returns the CPUs in the rows of folded cores, in order.
fn cpus_in_rows(text: &str) -> Vec<u32> {
    let framed = text.lines().filter(|line| line.starts_with('|'));
    let last = framed.filter_map(|line| line.trim_end_matches([' ', '|']).rsplit(' ').next());
    let lists = last.map(|list| list.parse::<CpuSet>().unwrap());
    let mut numbers: Vec<u32> = Vec::new();
    lists.for_each(|list| numbers.extend(list.iter().map(|cpu| cpu.0)));
    numbers.sort_unstable();
    numbers
}

#[test]
fn one_cpu_is_a_frame_with_a_cell() {
    let text = drawn(&map(&grid(1, 1, 1, 1), &[]), 40);
    let frame = "+ package 0, node 0, L3 (32 MiB) +\n\
                 | 0                              |\n\
                 +--------------------------------+\n";
    assert!(text.starts_with(frame), "{text}");
}

#[test]
fn cpus_have_the_mark_of_their_owner() {
    let map = map(&grid(1, 2, 2, 2), &[(100, "2-3,6"), (101, "7")]);
    let text = drawn(&map, 80);
    for part in [
        "| 0  4  | 1  5  |",
        "| 2A 6A | 3A 7B |",
        "\nA vm 100: cpus 2-3,6\n",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.ends_with("  host: cpus 0-1,4-5\n"), "{text}");
}

#[test]
fn no_cpu_has_two_owners() {
    let isolcpus = Owner::new(OwnerKind::Partition, "0-3".parse().unwrap());
    let vm = Owner::new(OwnerKind::Vm, "2-3,9".parse().unwrap());
    let map = Map::new(&grid(1, 1, 2, 2), vec![vm, isolcpus], Vec::new());
    let cpus = map.owners.iter().map(|owner| owner.cpus.to_string());
    assert_eq!(cpus.collect::<Vec<_>>(), ["2-3,9", "0-1"]);
}

#[test]
fn equal_cores_are_folded_where_there_are_many() {
    let map = map(
        &grid(1, 32, 8, 2),
        &[(100, "8-15,264-271,40"), (101, "300")],
    );
    let text = drawn(&map, 80);
    for part in [
        "| L3 0 (32 MiB)          8 cores    host    cpus 0-7,256-263 ",
        "| L3 1 (32 MiB)          8 cores  A vm 100  cpus 8-15,264-271 ",
        "| L3 2-4 (32 MiB each)  24 cores    host    cpus 16-39,272-295 ",
    ] {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&text).contains(&squeezed(part)), "{text}");
    }
    assert!(text.lines().count() < 30, "{text}");
    assert_eq!(
        cpus_in_rows(&drawn(&map, 200)),
        (0..512).collect::<Vec<_>>()
    );
}

/// Takes a second; a loop over all CPUs for each of them would take minutes.
#[test]
fn large_hosts_are_drawn_at_once() {
    let every_third: CpuSet = (0..4096).step_by(3).map(CpuId).collect();
    for topology in [grid(2, 64, 16, 2), grid(4096, 1, 1, 1), grid(1, 1, 4096, 1)] {
        for width in [40, 1000] {
            drawn(&map(&topology, &[]), width);
            drawn(&map(&topology, &[(100, &every_third.to_string())]), width);
        }
    }
}

proptest! {
    #[test]
    fn every_cpu_is_drawn_once_and_no_line_is_too_long(
        (nodes, l3s, cores, smt) in (1_u32..4, 1_u32..4, 1_u32..10, 1_u32..4),
        owned in proptest::collection::btree_set(0_u32..300, 0..40),
        width in 40_usize..200,
    ) {
        let topology = grid(nodes, l3s, cores, smt);
        let owned: CpuSet = owned.into_iter().map(CpuId).collect();
        let owned = owned.intersection(topology.online());
        let map = map(&topology, &[(100, &owned.to_string())]);
        let text = drawn(&map, width);
        if text.contains("a cell is a core") {
            let expected: Vec<u32> = topology.online().iter().map(|cpu| cpu.0).collect();
            prop_assert_eq!(cpus_in_cells(&text), expected, "{}", text);
        }
    }
}

#[test]
fn around_a_vm_is_what_it_shares() {
    // Two nodes with two L3 domains of two cores each, without SMT.
    let host = grid(2, 2, 2, 1);
    let map = map(&host, &[(100, "2"), (101, "3"), (102, "6-7")]);
    let around = |vmid: &str| map.around(vmid.parse().unwrap());
    let text = drawn(&around("101").unwrap(), 80);
    assert_eq!(cpus_in_cells(&text), [2, 3], "{text}");
    assert!(
        text.contains("A vm 100: cpu 2") && text.contains("B vm 101: cpu 3"),
        "{text}"
    );
    assert!(!text.contains("vm 102") && !text.contains("host"), "{text}");
    let text = drawn(&around("102").unwrap(), 80);
    assert!(text.contains("A vm 102: cpus 6-7"), "{text}");
    assert!(around("103").is_none());
}
