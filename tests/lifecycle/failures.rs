//! Writes without which a VM does not own its CPUs, and that the kernel refuses or takes without doing them.

use std::time::Duration;

use pin_hook::domain::claim::ClaimState;
use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::engine::run::PHASE_TIME;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, changes, done};
use crate::common::sim::capture::Capture;
use crate::common::sim::fate::SHORT_WRITE;
use crate::common::sim::{VmSpec, cpus};

const SLICES: &str = "cpus = \"2-3\"\n[isolate]\nbackend = \"slices\"\n";

/// Returns a node whose VM is up and waits for its post-start.
fn launched() -> World {
    launched_on(World::with_vm())
}

fn launched_on(world: World) -> World {
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.take_log();
    world
}

/// Returns what post-start does to the host, without what it writes for itself.
fn ops_of_post_start(world: World) -> Vec<String> {
    let world = launched_on(world);
    done(world.phase(Phase::PostStart, 100));
    let ops = world.writes().into_iter();
    ops.filter(|op| !op.contains(" /run/pin-hook/")).collect()
}

/// Tells whether a VM does not own its CPUs without an operation.
pub fn is_essential(op: &str) -> bool {
    let threads = launched().sim.vm_tids(100);
    let of_thread = || {
        let tid = op
            .strip_prefix("set_affinity ")
            .and_then(|op| op.split(' ').next());
        tid.is_some_and(|tid| threads.contains(&tid.parse().unwrap()))
    };
    op.starts_with("set_allowed_cpus ")
        || op.contains("/sys/fs/cgroup/") && !op.contains("/lxc/")
        || of_thread()
}

/// Asserts that a VM whose post-start failed runs as if it had no table, until it stops.
fn assert_taken_back(world: &World, before: &Capture, what: &str) {
    let claim = world.claim(100).expect("a claim");
    assert!(
        matches!(claim.state, ClaimState::Failed { .. }),
        "{what}: {}",
        claim.state
    );
    let left = changes(before, &world.capture());
    assert!(left.is_empty(), "{what}: not taken back:\n{left}");
    world.end_worker();
    world.sim.take_log();
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Refused, "{what}: {account:#?}");
    let writes = world.writes();
    assert!(writes.is_empty(), "{what}: reconcile writes {writes:#?}");
    world.stop(100);
    world.assert_at_rest();
}

#[test]
fn an_essential_error_at_any_write_of_post_start_is_taken_back_completely() {
    prove_taken_back(World::with_vm, 10);
    prove_taken_back(|| World::lab().vm(100, CONF, SLICES), 7);
}

/// Has every essential operation of a post-start fail; there are to be more than `n` of them.
fn prove_taken_back(node: fn() -> World, n: usize) {
    let rest = node().capture();
    let ops = ops_of_post_start(node()).into_iter();
    let essential: Vec<String> = ops.filter(|op| is_essential(op)).collect();
    assert!(essential.len() > n, "{essential:#?}");
    for op in &essential {
        for error in [
            libc::EINVAL,
            libc::EBUSY,
            libc::EIO,
            libc::ENOSPC,
            libc::EPERM,
            SHORT_WRITE,
        ] {
            let world = launched_on(node());
            let before = world.capture();
            world.sim.fail(op, error, 1);
            let account = world.phase(Phase::PostStart, 100);
            let what = format!("error {error} at \"{op}\"");
            assert_eq!(account.exit, Exit::Refused, "{what}: {account:#?}");
            assert_says(&account, "vm 100: cannot isolate cpus 2-3: ");
            assert_taken_back(&world, &before, &what);
            world.assert_as(&rest);
        }
    }
}

#[test]
fn an_interrupt_without_a_free_vector_is_a_warning() {
    let world = launched();
    world.sim.fail("write /proc/irq/30/", libc::ENOSPC, 1);
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        "/proc/irq/30/smp_affinity_list: writing \"0-1,4-7\" failed",
    );
    assert_eq!(world.claim_state(100), "running");
}

#[test]
fn a_partition_that_the_kernel_takes_and_finds_invalid_is_taken_back() {
    let world = launched();
    world.foreign_partition("3");
    let before = world.capture();
    let account = world.phase(Phase::PostStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, "cannot isolate cpus 2-3");
    assert_taken_back(&world, &before, "foreign partition");
}

/// A VM whose post-start had no time: what is left is done by reconcile.
fn late() -> World {
    let world = launched();
    world.allow(Duration::ZERO);
    done(world.phase(Phase::PostStart, 100));
    world.allow(PHASE_TIME);
    world.end_worker();
    world
}

#[test]
fn a_first_settling_by_reconcile_is_all_or_nothing_too() {
    let world = late();
    let before = world.capture();
    world
        .sim
        .fail("write*cpuset.cpus.partition isolated", libc::EINVAL, 1);
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_taken_back(&world, &before, "reconcile");
}

#[test]
fn what_was_settled_once_is_not_taken_back_by_reconcile() {
    let world = late();
    done(world.reconcile());
    world.assert_owns(100);
    let (_, tid) = world.sim.vm(100).vcpus.into_iter().next().unwrap();
    world.sim.state().set_affinity(tid, &cpus("2-3")).unwrap();
    world
        .sim
        .fail(&format!("set_affinity {tid} "), libc::EINVAL, 1);
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_eq!(world.claim_state(100), "running");
}

#[test]
fn a_failure_of_one_vm_leaves_the_one_that_was_late() {
    let world = World::with_two_vms();
    for vmid in [100, 101] {
        done(world.phase(Phase::PreStart, vmid));
        world.launch(vmid, &VmSpec::with_vcpus(2));
    }
    world.allow(Duration::ZERO);
    done(world.phase(Phase::PostStart, 101));
    world.allow(PHASE_TIME);
    world
        .sim
        .fail("write*100.scope/vcpu/cgroup.threads", libc::EINVAL, 1);
    assert_eq!(world.phase(Phase::PostStart, 100).exit, Exit::Refused);
    world.end_worker();
    world.reconcile();
    assert_eq!(world.claim_state(100), "failed");
    world.assert_owns(101);
}

/// A VM that runs, and whose post-start failed.
fn failed() -> World {
    let world = launched();
    world
        .sim
        .fail("write*cpuset.cpus.partition isolated", libc::EINVAL, 1);
    assert_eq!(world.phase(Phase::PostStart, 100).exit, Exit::Refused);
    world.end_worker();
    world
}

#[test]
fn a_failed_claim_is_tried_again_by_apply() {
    let world = failed();
    done(world.apply(100));
    world.assert_owns(100);
}

#[test]
fn the_cpus_of_a_failed_claim_are_free_for_others() {
    let world = failed();
    let world = world.vm(101, CONF, "cpus = \"3-4\"\n");
    done(world.phase(Phase::PreStart, 101));
    world.launch(101, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 101));
    world.assert_owns(101);
}

#[test]
fn a_failure_of_one_vm_leaves_the_other() {
    let world = World::with_two_vms();
    for vmid in [100, 101] {
        done(world.phase(Phase::PreStart, vmid));
        world.launch(vmid, &VmSpec::with_vcpus(2));
    }
    done(world.phase(Phase::PostStart, 100));
    let before = world.capture();
    world
        .sim
        .fail("write*101.scope/vcpu/cgroup.threads", libc::EINVAL, 1);
    assert_eq!(world.phase(Phase::PostStart, 101).exit, Exit::Refused);
    world.assert_as(&before);
    world.assert_owns(100);
}

#[test]
fn taking_back_that_fails_is_told_and_kept_for_reconcile() {
    let world = launched();
    world
        .sim
        .fail("write*cpuset.cpus.partition isolated", libc::EINVAL, 1);
    world.sim.fail("remove_dir*100.scope/vcpu", libc::EBUSY, 1);
    let before = world.capture();
    let account = world.phase(Phase::PostStart, 100);
    assert_eq!(account.exit, Exit::Incomplete, "{account:#?}");
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
}

#[test]
fn a_journal_that_cannot_be_written_stops_the_phase_and_nothing_is_lost() {
    for record in [
        "\"claim\"",
        "\"group\"",
        "\"affinity\"",
        "\"kernel-thread\"",
    ] {
        let world = launched();
        world.sim.fail(
            &format!("append /run/pin-hook/journal*{record}"),
            libc::ENOSPC,
            1,
        );
        let account = world.phase(Phase::PostStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        assert_says(&account, "cannot append to /run/pin-hook/journal");
        assert_says(&account, "free up space: df /run shows what is full");
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        world.assert_owns(100);
    }
}
