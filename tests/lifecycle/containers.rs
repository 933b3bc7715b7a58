//! Containers beside VMs that own CPUs: each keeps its number of CPUs, PVE finds nothing to
//! correct, and afterwards each has the list that it had.

use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, World, done};
use crate::common::sim::VmSpec;
use crate::common::sim::fate::Death;

/// A node with a VM for CPUs 2 and 3, and with containers: 201 has just these, 202 has others, 203
/// has all, and 204 was made by hand so that PVE does not care for it.
fn world() -> World {
    with_containers(World::with_vm())
}

fn with_containers(world: World) -> World {
    let sim = &world.sim;
    sim.start_container(201, "cores: 2\n", "2-3");
    let inside = "/sys/fs/cgroup/lxc/201/ns/cpuset.cpus";
    sim.poke(inside, "2-3").unwrap();
    sim.start_container(202, "cores: 2\n", "4-5");
    sim.start_container(203, "memory: 512\n", "");
    sim.start_container(204, "", "1-2");
    let conf = "/etc/pve/nodes/pve1/lxc/204.conf";
    sim.state().tree.remove(conf).unwrap();
    assert_eq!(sim.pvestatd(), [203]);
    assert_eq!(sim.pvestatd(), [0; 0]);
    world
}

/// Returns the lists of containers; one inside differs from that of its container only by being
/// empty.
fn lists<const N: usize>(world: &World, ctids: [u32; N]) -> [String; N] {
    ctids.map(|ctid| {
        let [outer, inner] = world.sim.container_cpus(ctid);
        assert!(
            inner.is_empty() || inner == outer,
            "{ctid}: {inner} in {outer}"
        );
        outer
    })
}

const ALL: [u32; 4] = [201, 202, 203, 204];
const BEFORE: [&str; 4] = ["2-3", "4-5", "0-7", "1-2"];
const BESIDE: [&str; 4] = ["0-1", "4-5", "0-1,4-7", "1,6"];

/// Nobody has anything to correct: neither PVE nor the program.
fn assert_quiet(world: &World) {
    for _ in 0..3 {
        assert_eq!(world.sim.pvestatd(), [0; 0]);
        world.sim.take_log();
        done(world.reconcile());
        assert_eq!(world.writes(), [""; 0]);
    }
}

/// A scenario in which VM 100 runs.
fn started(name: &'static str) -> Scenario {
    Scenario::new(name, world).start(100).known()
}

#[test]
fn containers_keep_their_number_of_cpus_and_get_their_lists_back() {
    Scenario::new("containers", world)
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .known()
        .call("post-start 100", Then::Owned, |world| {
            done(world.phase(Phase::PostStart, 100))
        })
        .outside(World::end_worker)
        .owns(100)
        .check(|world| assert_eq!(lists(world, ALL), BESIDE))
        .check(assert_quiet)
        .stop(100)
        .check(|world| assert_eq!(lists(world, ALL), BEFORE))
        .check(|world| assert_eq!(world.sim.pvestatd(), [0; 0]))
        .prove();
}

#[test]
fn what_pve_balances_meanwhile_is_followed_and_given_back() {
    started("balanced meanwhile")
        .outside(|world| {
            for inner in ["", "/ns"] {
                let list = format!("/sys/fs/cgroup/lxc/201{inner}/cpuset.cpus");
                world.sim.poke(&list, "1,7").unwrap();
            }
        })
        .reconcile()
        .check(|world| assert_eq!(lists(world, [201]), ["1,7"]))
        .outside(|world| {
            let list = "/sys/fs/cgroup/lxc/202/cpuset.cpus";
            world.sim.poke(list, "0,6").unwrap();
        })
        .stop(100)
        .check(|world| assert_eq!(lists(world, ALL), BEFORE))
        .prove();
}

/// Lets the program die in a phase before it writes the first list of a container.
fn die_before_lists(world: &World, phase: Phase) {
    let fork = world.fork();
    fork.sim.take_log();
    done(fork.phase(phase, 100));
    let ops = fork.sim.take_log();
    let first = ops.iter().position(|op| op.contains("/lxc/")).unwrap();
    world.sim.take_log();
    world.sim.die_at(first + 1, Death::Before);
    let died = world.sim.run_until_death(|| world.phase(phase, 100));
    died.expect_err("the program to die");
    world.end_worker();
}

#[test]
fn what_pve_does_between_the_end_of_the_partition_and_the_lists_is_no_harm() {
    let world = world();
    let before = world.capture();
    world.start(100);
    world.end_qemu(100);
    die_before_lists(&world, Phase::PostStop);
    assert_eq!(world.sim.pvestatd(), [203]);
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
}

/// PVE cuts a container without `cores:` to the first CPUs of its old list when it is quicker.
#[test]
fn what_pve_cuts_between_the_partition_and_the_lists_is_made_whole() {
    let world = world();
    let before = world.capture();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    die_before_lists(&world, Phase::PostStart);
    assert_eq!(world.sim.pvestatd(), [201, 203]);
    assert_eq!(lists(&world, [203]), ["0-5"]);
    world.reconcile_until_quiet().unwrap();
    world.assert_owns(100);
    assert_eq!(lists(&world, [201, 203]), ["6-7", "0-1,4-7"]);
    world.stop(100);
    world.assert_as(&before);
}

fn end_births(world: &World) {
    let is_there = |ctid: &u32| {
        world
            .sim
            .state()
            .exists(&format!("/sys/fs/cgroup/lxc/{ctid}"))
    };
    for ctid in [205, 206].into_iter().filter(is_there) {
        world.sim.stop_container(ctid);
        let conf = format!("/etc/pve/nodes/pve1/lxc/{ctid}.conf");
        world.sim.state().tree.remove(&conf).unwrap();
    }
}

#[test]
fn containers_that_are_born_beside_a_vm_have_afterwards_what_pve_would_have_given_them() {
    started("born containers")
        .outside(|world| {
            // PVE chooses among the CPUs that are left; those without cores: get a list later.
            world.sim.start_container(205, "cores: 2\n", "6-7");
            world.sim.start_container(206, "", "");
            world.sim.pvestatd();
        })
        .reconcile()
        .check(|world| assert_eq!(lists(world, [206]), ["0-1,4-7"]))
        .check(assert_quiet)
        .stop(100)
        .check(|world| assert_eq!(lists(world, [206]), ["0-7"]))
        .check(|world| assert_eq!(lists(world, ALL), BEFORE))
        .at_last(end_births)
        .prove();
}

#[test]
fn a_container_that_ends_meanwhile_is_forgotten() {
    let world = world();
    world.start(100);
    world.sim.stop_container(202);
    done(world.reconcile());
    // A new run of it, on CPUs that PVE chose.
    world.sim.start_container(202, "cores: 2\n", "6-7");
    done(world.reconcile());
    assert_quiet(&world);
    world.stop(100);
    assert_eq!(lists(&world, [202]), ["6-7"]);
}

#[test]
fn a_container_that_is_started_again_at_once_is_another_one() {
    let world = world();
    world.start(100);
    world.sim.stop_container(201);
    let pinned = "lxc.cgroup2.cpuset.cpus: 6\n";
    world.sim.start_container(201, pinned, "6");
    world.stop(100);
    assert_eq!(world.sim.container_cpus(201), ["6", ""]);
    world.assert_at_rest();
}

#[test]
fn containers_make_room_for_two_vms_in_every_order() {
    for (first, second) in [(100, 101), (101, 100)] {
        Scenario::new("two vms", || with_containers(World::with_two_vms()))
            .start(100)
            .check(assert_quiet)
            .start(101)
            .check(|world| assert_eq!(lists(world, [203]), ["0-1,6-7"]))
            .check(assert_quiet)
            .stop(first)
            .check(assert_quiet)
            .stop(second)
            .check(|world| assert_eq!(lists(world, ALL), BEFORE))
            .play();
    }
}

#[test]
fn a_lost_journal_makes_containers_whole() {
    let world = world();
    world.start(100);
    world.lose_state();
    done(world.release(None));
    assert_eq!(lists(&world, [201, 203]), ["0-1", "0-7"]);
    assert_eq!(world.sim.pvestatd(), [0; 0]);
}

#[test]
fn nothing_is_done_to_containers_where_nothing_is_taken_from_them() {
    let table = "cpus = \"2-3\"\n[isolate]\nbackend = \"affinity\"\n";
    Scenario::new("affinity", move || {
        with_containers(World::lab().vm(100, CONF, table))
    })
    .start(100)
    .known()
    .check(|world| assert_eq!(lists(world, ALL), BEFORE))
    .check(assert_quiet)
    .stop(100)
    .play();
}
