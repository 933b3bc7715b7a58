//! A VM, and what is narrowed for it, may end at any moment of a run.

use std::collections::BTreeMap;

use pin_hook::lifecycle::start::phase::Phase;

use super::refused_targets::{running, tuned, warnings};
use super::scenario::stride;
use super::world::{CONF, World, changes, done};
use crate::common::sim::VmSpec;
use crate::common::sim::fate::End;

const ISOLATED: &str = "cpus = \"2-3\"\n";
const SLICES: &str = "cpus = \"2-3\"\n[isolate]\nbackend = \"slices\"\n";
const NEXT_TO_IT: &str = "cpus = \"4-5\"\n[isolate]\nbackend = \"slices\"\n";
const EVERY_KNOB: &str = "cpus = \"2-3\"\n[isolate]\nhotplug = true\n[power]\ngovernor = \"performance\"\n\
                          max-idle-latency = \"2us\"\n[host]\ntransparent-hugepages = \"never\"\n\
                          sysctl = { \"vm.stat_interval\" = 120 }\n";

/// Lets VM 100 end before every `step`-th operation of a call, those that only look too; afterwards
/// PVE calls post-stop, and the host has to be what it was without the VM.
#[track_caller]
fn may_end_during(ready: &World, without: &World, step: usize, call: impl Fn(&World)) {
    let without = without.capture();
    let mut wrong: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for n in (1..).step_by(step * stride()) {
        let world = ready.fork();
        world.sim.end_at(n, End::Vm(100));
        world.sim.take_log();
        call(&world);
        let log = world.sim.take_log();
        if world.sim.call_end_off() {
            assert!(n > 100, "only {n} operations");
            break;
        }
        assert_nothing_is_passed_on(&world, &log);
        world.end_worker();
        world.phase(Phase::PostStop, 100);
        world.end_worker();
        let mut left = world.reconcile_until_quiet().err().unwrap_or_default();
        left.push_str(&changes(&without, &world.capture()));
        if !left.is_empty() {
            wrong.entry(left).or_default().push(n);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Asserts that a slice was not told again to pass the controller on when its VM had gone: systemd,
/// which had just told it not to, does not see that.
fn assert_nothing_is_passed_on(world: &World, log: &[String]) {
    let is_passed_on = |op: &String| op.ends_with("qemu.slice/cgroup.subtree_control +cpuset");
    let is_beside_another = world.claim(101).is_some();
    assert!(
        is_beside_another || !log.iter().any(is_passed_on),
        "{log:#?}"
    );
}

fn may_end_during_post_start(without: &World, step: usize) {
    let ready = without.fork();
    done(ready.phase(Phase::PreStart, 100));
    ready.launch(100, &VmSpec::with_vcpus(2));
    may_end_during(&ready, without, step, |world| {
        world.phase(Phase::PostStart, 100);
    });
}

#[test]
fn a_vm_ends_during_post_start() {
    may_end_during_post_start(&World::with_vm(), 1);
}

#[test]
fn a_vm_ends_during_post_start_with_every_knob() {
    may_end_during_post_start(&World::lab().vm(100, CONF, EVERY_KNOB), 7);
}

#[test]
fn a_vm_ends_during_post_start_with_slices() {
    may_end_during_post_start(&World::lab().vm(100, CONF, SLICES), 7);
}

#[test]
fn a_vm_ends_during_post_start_while_another_has_its_cpus_by_slices() {
    for table in [ISOLATED, SLICES, EVERY_KNOB] {
        let world = World::lab().vm(100, CONF, table).vm(101, CONF, NEXT_TO_IT);
        world.start(101);
        may_end_during_post_start(&world, 23);
    }
}

/// Lets a VM that owns its CPUs end during a call.
fn may_end_while_it_owns(call: impl Fn(&World)) {
    let without = World::with_vm();
    let ready = without.fork();
    ready.start(100);
    may_end_during(&ready, &without, 1, call);
}

#[test]
fn a_vm_ends_during_the_run_that_looks_after_it() {
    may_end_while_it_owns(|world| drop(world.reconcile()));
}

#[test]
fn a_vm_ends_during_its_release() {
    may_end_while_it_owns(|world| drop(world.release(Some(100))));
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

/// A kernel thread, one that belongs to a NUMA node, an interrupt, one of a disk's queue, a container, and
/// the policy of the VM's CPUs.
const OTHERS: [End; 6] = [
    End::Task(5),
    End::Task(43),
    End::Irq(30),
    End::Irq(24),
    End::Container(201),
    End::Policy(2),
];

/// Lets something end before every eleventh operation of a phase, those that only look too: nobody is told, and
/// the host is what it would be had it ended before.
fn others_may_end_during(phase: Phase, ready: fn() -> World) {
    let ready = ready();
    for other in OTHERS {
        let without = ready.fork();
        without.sim.end(other);
        let usual = warnings(&done(without.phase(phase, 100)));
        end(&without, phase);
        let without = without.capture();
        for n in (1..).step_by(11 * stride()) {
            let world = ready.fork();
            world.sim.end_at(n, other);
            let mut told = warnings(&done(world.phase(phase, 100)));
            if world.sim.call_end_off() {
                assert!(n > 100, "{other:?}: only {n} operations");
                break;
            }
            told.retain(|text| !usual.contains(text));
            assert!(told.is_empty(), "{other:?} before {n}: {told:#?}");
            end(&world, phase);
            world.reconcile_until_quiet().unwrap();
            let left = changes(&without, &world.capture());
            assert!(left.is_empty(), "{other:?} before {n}:\n{left}");
            world.assert_at_rest();
        }
    }
}

/// Ends what a phase leaves running.
fn end(world: &World, phase: Phase) {
    world.end_worker();
    if phase == Phase::PostStart {
        world.stop(100);
    }
}

#[test]
fn what_is_narrowed_ends_during_post_start() {
    others_may_end_during(Phase::PostStart, tuned);
}

#[test]
fn what_is_narrowed_ends_while_it_is_given_back() {
    others_may_end_during(Phase::PostStop, || {
        let world = running();
        world.end_qemu(100);
        world
    });
}
