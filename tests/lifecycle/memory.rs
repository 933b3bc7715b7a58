//! Where a guest's memory comes from: NUMA nodes for the scope, hugepages for the start.

use std::collections::BTreeSet;
use std::time::Duration;

use pin_hook::domain::target::Target;
use pin_hook::lifecycle::engine::account::{Account, Exit};
use pin_hook::lifecycle::engine::journal::read_state;
use pin_hook::lifecycle::start::phase::Phase;

use super::refused_targets::{REFUSALS, warnings};
use super::scenario::{Scenario, Then};
use super::world::{CONF, World, assert_says, changes, done, id};
use crate::common::sim::hugepages::Room;
use crate::common::sim::{Kernel, Machine, VmSpec};

/// 64 pages of 2 MiB on node 0.
const PAGES_CONF: &str =
    "cores: 2\nmemory: 128\nnuma: 1\nhugepages: 2\nhookscript: local:snippets/pin-hook\n";
const PAGES: &str = "cpus = \"2-3\"\n[memory]\nhugepages = { compact = true, timeout = \"30s\" }\n";
const DROP_IN: &str = "/run/systemd/system/100.scope.d/50-pin-hook-memory.conf";

fn number(world: &World, node: u32, file: &str) -> u64 {
    let dir = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
    let text = world.sim.get(&format!("{dir}/{file}_hugepages"));
    text.trim().parse().unwrap()
}

fn node(table: &str) -> World {
    World::lab().vm(100, PAGES_CONF, table)
}

fn scattered(world: World, room: Room) -> World {
    world.sim.room(0, room);
    world
}

/// Returns the files that children were asked to write to, without what is before their name.
fn asked(world: &World) -> Vec<String> {
    let state = world.sim.state();
    let jobs = state.systemd.jobs.iter();
    let words = jobs.flat_map(|job| job.arguments[2..].chunks(2));
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    words
        .map(|pair| format!("{} {}", name(&pair[0]), pair[1]))
        .collect()
}

fn refused(account: &Account) {
    assert_eq!(account.exit, Exit::Refused, "{:?}", account.lines);
}

#[test]
fn nodes_are_in_force_before_the_start_and_gone_after_the_stop() {
    let node = || World::lab().vm(100, CONF, "cpus = \"2-3\"\nmemory.nodes = \"auto\"\n");
    Scenario::new("memory nodes", node)
        .start(100)
        .check(|world| {
            let text = world.sim.get(DROP_IN);
            assert!(text.ends_with("[Scope]\nAllowedMemoryNodes=0\n"), "{text}");
            assert!(!read_state(&*world.host.files).unwrap().needs_reload);
        })
        .owns(100)
        .stop(100)
        .prove();
}

#[test]
fn memory_of_a_vm_that_runs_is_left_where_it_is() {
    let world = World::with_vm();
    world.launch(100, &VmSpec::with_vcpus(2));
    world
        .sim
        .table(100, "cpus = \"2-3\"\nmemory.nodes = \"1\"\n");
    let account = done(world.apply(100));
    assert_says(&account, "memory.nodes takes effect at its next start");
    assert!(world.host.files.read(DROP_IN).is_err());
}

#[test]
fn an_applied_table_keeps_the_nodes_that_the_vm_was_started_with() {
    let world = World::lab().vm(100, CONF, "cpus = \"2-3\"\nmemory.nodes = \"0\"\n");
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world
        .sim
        .table(100, "cpus = \"4-5\"\nmemory.nodes = \"auto\"\n");
    done(world.apply(100));
    assert!(world.sim.get(DROP_IN).ends_with("AllowedMemoryNodes=0\n"));
}

#[test]
fn nodes_of_a_vm_that_is_let_go_are_all_again() {
    for kernel in [Kernel::V6_12, Kernel::V7_3] {
        let machine = Machine {
            kernel,
            ..Machine::default()
        };
        let node =
            move || World::of(&machine).vm(100, CONF, "cpus = \"2-3\"\nmemory.nodes = \"0\"\n");
        let mems = "/sys/fs/cgroup/qemu.slice/100.scope/cpuset.mems";
        Scenario::new("let go", node)
            .start(100)
            .known()
            .check(move |world| assert_eq!(world.sim.get(mems), "0\n"))
            .call("release", Then::Either, |world| {
                done(world.release(Some(100)))
            })
            .check(move |world| {
                let all = if kernel == Kernel::V7_3 {
                    "\n"
                } else {
                    "0-1\n"
                };
                assert_eq!(world.sim.get(mems), all);
            })
            .stopped(100)
            .prove();
    }
}

#[test]
fn nodes_are_given_back_when_the_state_is_lost() {
    for is_up in [true, false] {
        let world = World::lab().vm(100, CONF, "cpus = \"2-3\"\nmemory.nodes = \"0\"\n");
        done(world.phase(Phase::PreStart, 100));
        if is_up {
            world.launch(100, &VmSpec::with_vcpus(2));
            done(world.phase(Phase::PostStart, 100));
        }
        world.end_worker();
        world.lose_state();
        done(world.release(None));
        assert!(world.host.files.read(DROP_IN).is_err(), "{is_up}");
    }
}

#[test]
fn nodes_without_memory_refuse_the_start() {
    let world = World::lab().vm(100, CONF, "cpus = \"2-3\"\nmemory.nodes = \"3\"\n");
    let account = world.phase(Phase::PreStart, 100);
    refused(&account);
    assert_says(&account, "node 3 of memory.nodes has no memory");
    world.end_worker();
    world.assert_at_rest();
}

#[test]
fn hugepages_are_ready_before_the_start_and_pves_own_afterwards() {
    let world = node(PAGES);
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "64 hugepages of 2 MiB are ready on node 0");
    assert_eq!(number(&world, 0, "free"), 64);
    world.sim.take_pages(0, 64);
    world.launch(100, &VmSpec::with_vcpus(2));
    // What PVE does when QEMU is up: none but those in use.
    world.sim.pve_frees_pages();
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
    let state = read_state(&*world.host.files).unwrap();
    assert!(state.claims[&id(100)].wishes.memory.shares.is_empty());
    assert!(!state.held.keys().any(is_pool));
    world.end_qemu(100);
    world.sim.leave_pages(0, 64);
    done(world.phase(Phase::PostStop, 100));
    world.end_worker();
    world.assert_at_rest();
    assert_eq!(asked(&world), ["nr_hugepages 64"]);
}

fn is_pool(target: &Target) -> bool {
    target.path().ends_with("nr_hugepages")
}

#[test]
fn pages_of_a_start_that_failed_go_back_wherever_it_died() {
    Scenario::new("hugepages", || node(PAGES))
        .pre_start(100)
        .outside(World::end_worker)
        .reconcile()
        .prove();
}

#[test]
fn pages_that_are_free_already_are_not_asked_for() {
    let world = node(PAGES);
    world
        .sim
        .poke(
            "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
            "70",
        )
        .unwrap();
    done(world.phase(Phase::PreStart, 100));
    assert!(asked(&world).is_empty());
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    assert_eq!(number(&world, 0, "nr"), 70);
}

#[test]
fn memory_is_compacted_when_pages_are_short_and_caches_dropped_last() {
    let room = Room {
        found: 10,
        scattered: 20,
        cached: 100,
    };
    let world = scattered(node(PAGES), room);
    done(world.phase(Phase::PreStart, 100));
    let expected = [
        "nr_hugepages 64",
        "compact 1",
        "nr_hugepages 64",
        "drop_caches 1",
        "compact 1",
        "nr_hugepages 64",
    ];
    assert_eq!(asked(&world), expected);
}

#[test]
fn without_enough_memory_the_start_is_refused_and_nothing_stays() {
    for (table, is_compacted) in [
        (PAGES, true),
        ("cpus = \"2-3\"\nmemory.hugepages = {}\n", false),
    ] {
        let room = Room {
            found: 10,
            ..Room::default()
        };
        let world = scattered(node(table), room);
        let account = world.phase(Phase::PreStart, 100);
        refused(&account);
        assert_says(
            &account,
            "node 0 has only 10 of the 64 hugepages of 2 MiB that the vm needs",
        );
        let help = match is_compacted {
            true => "give the vm less memory",
            false => "hugepages = { compact = true } below [memory]",
        };
        assert_says(&account, help);
        let parameters = "(hugepagesz=2M hugepages=0:64 on the kernel's command line";
        assert_says(&account, parameters);
        assert_eq!(number(&world, 0, "nr"), 0);
        assert!(read_state(&*world.host.files).unwrap().claims.is_empty());
    }
}

#[test]
fn a_pool_that_keeps_what_a_refused_start_added_is_told() {
    let room = Room {
        found: 10,
        ..Room::default()
    };
    let world = scattered(node(PAGES), room);
    world.sim.fail("nr_hugepages 0", libc::EIO, 1);
    let account = world.phase(Phase::PreStart, 100);
    refused(&account);
    assert_says(&account, "nr_hugepages: writing \"0\" failed");
}

#[test]
fn where_nobody_reads_a_refusal_pve_decides() {
    let table = format!("{PAGES}[start]\non-refusal = \"warn\"\n");
    let world = scattered(node(&table), Room::default());
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "pve will try to find the others");
    assert!(
        read_state(&*world.host.files)
            .unwrap()
            .claims
            .contains_key(&id(100))
    );
}

#[test]
fn a_wait_ends_with_its_time_and_with_whoever_started_the_vm() {
    let world = scattered(node(PAGES), Room::default());
    let before = world.sim.state().since_boot;
    refused(&world.phase(Phase::PreStart, 100));
    let waited = world.sim.state().since_boot - before;
    assert!(waited >= Duration::from_secs(29), "{waited:?}");
    assert!(waited < Duration::from_secs(60), "{waited:?}");
}

#[test]
fn a_kernel_that_does_not_answer_costs_the_time_of_the_table_and_no_more() {
    let world = node(PAGES);
    world.sim.hang("nr_hugepages");
    let account = world.phase(Phase::PreStart, 100);
    refused(&account);
    assert_says(&account, "the kernel does not respond");
}

#[test]
fn two_starts_at_once_have_pages_each() {
    let world = node(PAGES).vm(101, PAGES_CONF, &PAGES.replace("2-3", "4-5"));
    done(world.phase(Phase::PreStart, 100));
    done(world.phase(Phase::PreStart, 101));
    assert_eq!(number(&world, 0, "free"), 128);
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    assert_eq!(number(&world, 0, "nr"), 0);
    world.assert_at_rest();
}

#[test]
fn a_table_that_wishes_for_hugepages_in_vain_says_so() {
    let world = World::lab().vm(100, CONF, PAGES);
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "memory.hugepages has no effect for vm 100: it needs hugepages and numa: 1",
    );
}

/// Every operation of a start that has memory of its own fails in every way: it is told once, and nothing is left.
#[test]
fn an_error_at_any_operation_for_memory_is_told_once_and_nothing_is_left() {
    let nodes = || World::lab().vm(100, CONF, "cpus = \"2-3\"\nmemory.nodes = \"0\"\n");
    let pages = || node(PAGES);
    for node in [nodes as fn() -> World, pages] {
        let rest = node().capture();
        let reference = node();
        done(reference.phase(Phase::PreStart, 100));
        let ops = reference.writes().into_iter();
        let ops: Vec<String> = ops.filter(|op| !op.contains(" /run/pin-hook/")).collect();
        assert!(ops.len() > 3, "{ops:#?}");
        for (op, error) in ops.iter().flat_map(|op| REFUSALS.map(|error| (op, error))) {
            let (world, what) = (node(), format!("error {error} at \"{op}\""));
            world.sim.fail(&format!("={op}"), error, 9);
            let account = world.phase(Phase::PreStart, 100);
            let told = warnings(&account);
            let different: BTreeSet<&String> = told.iter().collect();
            assert!(!told.is_empty(), "{what} is not told: {account:#?}");
            assert_eq!(different.len(), told.len(), "{what}: {told:#?}");
            world.end_worker();
            world.sim.fail_no_more();
            world.reconcile_until_quiet().unwrap();
            let left = changes(&rest, &world.capture());
            assert!(left.is_empty(), "{what}: left:\n{left}");
        }
    }
}
