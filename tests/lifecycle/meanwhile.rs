//! A VM may end at any moment of a run that is about it.

use std::collections::BTreeMap;

use pin_hook::lifecycle::phase::Phase;

use super::world::{World, changes, done};
use crate::common::sim::VmSpec;

/// Lets VM 100 end before every operation of a call, those that only look too; afterwards PVE calls
/// post-stop, and the host has to be what it was without the VM.
#[track_caller]
fn may_end_during(ready: &World, expected: &World, call: impl Fn(&World)) {
    let expected = expected.capture();
    let mut wrong: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for n in 1.. {
        let world = ready.fork();
        world.sim.end_vm_at(n, 100);
        world.sim.take_log();
        call(&world);
        let passed_on = "qemu.slice/cgroup.subtree_control +cpuset";
        let log = world.sim.take_log();
        assert!(
            !log.iter().any(|op| op.ends_with(passed_on)),
            "{n}: {log:#?}"
        );
        if world.sim.call_end_off() {
            assert!(n > 100, "only {n} operations");
            break;
        }
        world.end_worker();
        world.phase(Phase::PostStop, 100);
        world.end_worker();
        let mut left = world.reconcile_until_quiet().err().unwrap_or_default();
        left.push_str(&changes(&expected, &world.capture()));
        if !left.is_empty() {
            wrong.entry(left).or_default().push(n);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns a host on which QEMU has just been started, and the one without it.
fn launched(world: World) -> (World, World) {
    let before = world.fork();
    world.phase(Phase::PreStart, 100);
    world.launch(100, &VmSpec::with_vcpus(2));
    (world, before)
}

#[test]
fn a_vm_ends_during_post_start() {
    let (ready, before) = launched(World::with_vm());
    may_end_during(&ready, &before, |world| {
        world.phase(Phase::PostStart, 100);
    });
}

#[test]
fn a_vm_ends_during_the_run_that_looks_after_it() {
    let before = World::with_vm();
    let ready = before.fork();
    ready.start(100);
    may_end_during(&ready, &before, |world| {
        world.reconcile();
    });
}

#[test]
fn a_vm_ends_during_its_release() {
    let before = World::with_vm();
    let ready = before.fork();
    ready.start(100);
    may_end_during(&ready, &before, |world| {
        world.release(Some(100));
    });
}

#[test]
fn a_controller_that_was_passed_on_too_late_is_taken_away() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    world.end_qemu(100);
    // What systemd has just taken away at the slice keeps it from doing so at the root.
    for group in ["", "qemu.slice/"] {
        let path = format!("/sys/fs/cgroup/{group}cgroup.subtree_control");
        world.sim.poke(&path, "+cpuset").unwrap();
    }
    done(world.phase(Phase::PostStop, 100));
    world.end_worker();
    let passed_on = world
        .sim
        .get("/sys/fs/cgroup/qemu.slice/cgroup.subtree_control");
    assert!(!passed_on.contains("cpuset"), "{passed_on}");
    world.systemd_looks_at_a_unit();
    world.assert_as(&before);
}
