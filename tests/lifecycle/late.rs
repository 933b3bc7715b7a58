//! Calls that cannot finish: late, locked out, or before anything runs.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::engine::run::PHASE_TIME;
use pin_hook::lifecycle::hooking::boot::boot;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, World, assert_says, done};
use crate::common::sim::VmSpec;

const LOCK: &str = "/run/pin-hook/lock";
const RECONCILE: &str = "pin-hook-reconcile.service";

#[test]
fn a_post_start_without_time_is_not_taken_back_and_reconcile_finishes_it() {
    Scenario::new("no time", World::with_vm)
        .pre_start(100)
        .known()
        .outside(|world| {
            world.launch(100, &VmSpec::with_vcpus(2));
            world.allow(Duration::ZERO);
        })
        .outside(|world| {
            let account = done(world.phase(Phase::PostStart, 100));
            assert_says(
                &account,
                "not everything was done in time, reconcile will finish it",
            );
            assert_eq!(world.claim_state(100), "running");
            assert!(world.sim.is_active(RECONCILE));
            world.allow(PHASE_TIME);
            world.end_worker();
        })
        .reconcile()
        .owns(100)
        .stopped(100)
        .prove();
}

#[test]
fn a_post_stop_without_time_is_finished_by_reconcile() {
    Scenario::new("no time at the end", World::with_vm)
        .start(100)
        .known()
        .outside(|world| {
            world.end_qemu(100);
            world.allow(Duration::ZERO);
            done(world.phase(Phase::PostStop, 100));
            assert!(world.sim.is_active(RECONCILE));
            world.allow(PHASE_TIME);
            world.end_worker();
        })
        .reconcile()
        .prove();
}

#[test]
fn a_post_start_that_is_locked_out_is_finished_by_reconcile() {
    Scenario::new("locked out", World::with_vm)
        .pre_start(100)
        .known()
        .outside(|world| {
            world.launch(100, &VmSpec::with_vcpus(2));
            world.sim.lock_by_other(LOCK);
            done(world.phase(Phase::PostStart, 100));
            assert!(world.sim.is_active(RECONCILE));
            world.end_worker();
            // While the other one works, nothing is lost.
            assert_says(&world.reconcile(), "has held /run/pin-hook/lock");
            world.sim.unlock_by_other(LOCK);
        })
        .reconcile()
        .owns(100)
        .stopped(100)
        .prove();
}

#[test]
fn a_vm_without_the_hook_that_is_locked_out_is_adopted_by_reconcile() {
    let world = World::with_vm();
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.put(LOCK, "");
    world.sim.lock_by_other(LOCK);
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(world.claim_state(100), "none");
    world.sim.unlock_by_other(LOCK);
    done(world.reconcile());
    world.assert_owns(100);
}

#[test]
fn a_pre_start_that_is_locked_out_refuses() {
    let world = World::with_vm();
    let before = world.capture();
    world.sim.put(LOCK, "");
    world.sim.lock_by_other(LOCK);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    let fact = "vm 100: another pin-hook process has held /run/pin-hook/lock for too long";
    assert_says(&account, fact);
    assert_says(
        &account,
        "start vm 100 again; lslocks shows which process it is",
    );
    world.end_worker();
    world.assert_as(&before);
}

#[test]
fn a_post_stop_that_is_locked_out_is_finished_by_reconcile() {
    Scenario::new("locked out at the end", World::with_vm)
        .start(100)
        .known()
        .outside(|world| {
            world.end_qemu(100);
            world.sim.lock_by_other(LOCK);
            done(world.phase(Phase::PostStop, 100));
            assert!(world.sim.is_active(RECONCILE));
            world.sim.unlock_by_other(LOCK);
            world.end_worker();
        })
        .reconcile()
        .prove();
}

/// A scrub of another VM, or KSM taking pages apart for it, has the host for up to 6 s.
#[test]
fn a_pre_start_waits_for_what_another_vm_has_to_wait_for() {
    let world = World::with_vm();
    world.sim.put(LOCK, "");
    world.sim.lock_by_other_for(LOCK, Duration::from_secs(6));
    let begin = world.sim.state().since_boot;
    done(world.phase(Phase::PreStart, 100));
    assert_eq!(world.claim_state(100), "reserved");
    assert!(world.sim.state().since_boot - begin < PHASE_TIME);
}

/// Everybody is late at once: what each may take does not add up.
#[test]
fn a_phase_has_one_deadline_for_bus_monitor_and_lock_together() {
    let begun = || {
        let world = World::with_vm();
        done(world.phase(Phase::PreStart, 100));
        world.launch(100, &VmSpec::with_vcpus(2));
        world
    };
    for (held, is_first) in [(5, true), (8, true), (60, true), (60, false)] {
        let world = if is_first { World::with_vm() } else { begun() };
        world.sim.put(LOCK, "");
        world.sim.lock_by_other_for(LOCK, Duration::from_secs(held));
        world.sim.silence();
        let begin = world.sim.state().since_boot;
        let phase = if is_first {
            Phase::PreStart
        } else {
            Phase::PostStart
        };
        world.phase(phase, 100);
        let took = world.sim.state().since_boot - begin;
        assert!(
            took <= PHASE_TIME,
            "{phase}, lock held for {held} s: {took:?}"
        );
        world.sim.speak();
        world.sim.unlock_by_other(LOCK);
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        if !is_first {
            world.assert_owns(100);
        }
    }
}

fn drop_in(vmid: u32) -> String {
    format!("/run/systemd/system/{vmid}.scope.d/50-pin-hook.conf")
}

#[test]
fn boot_delegates_every_vm_with_a_table_by_one_reload() {
    let world = World::with_two_vms();
    world.sim.vm_conf(102, CONF);
    done(boot(&world.host));
    let n_reloads = |world: &World| world.writes().iter().filter(|op| *op == "reload").count();
    assert_eq!(n_reloads(&world), 1);
    for (vmid, expected) in [(100, true), (101, true), (102, false)] {
        assert_eq!(
            world.sim.state().exists(&drop_in(vmid)),
            expected,
            "vm {vmid}"
        );
    }
    done(boot(&world.host));
    assert_eq!(world.writes(), Vec::<String>::new());
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(n_reloads(&world), 0);
    world.assert_owns(100);
}

#[test]
fn a_vm_owns_its_cpus_after_a_death_at_any_write_of_boot() {
    Scenario::new("boot", World::with_vm)
        .call("boot", Then::Done, |world| done(boot(&world.host)))
        .start(100)
        .owns(100)
        .stop(100)
        .play();
    let world = World::with_vm();
    boot(&world.host);
    for n in 1..=world.sim.writes() {
        let world = World::with_vm();
        world.sim.die_at_write(n);
        world.sim.run_until_death(|| boot(&world.host)).unwrap_err();
        done(world.phase(Phase::PreStart, 100));
        world.launch(100, &VmSpec::with_vcpus(2));
        done(world.phase(Phase::PostStart, 100));
        world.sim.set_property("100.scope");
        world.assert_owns(100);
    }
}

#[test]
fn a_monitor_that_does_not_answer_costs_a_warning() {
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.fail("run_state 100", libc::ETIMEDOUT, u32::MAX);
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        "its monitor (qmp) does not respond, assuming that it runs",
    );
    world.assert_owns(100);
}

#[test]
fn a_systemd_that_does_not_answer_costs_a_warning_and_reconcile_goes_on() {
    let world = World::with_vm();
    let before = world.capture();
    world.sim.fail("=reload", libc::ETIMEDOUT, 1);
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "systemd daemon-reload failed");
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    world.assert_owns(100);
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn an_idle_node_is_not_written_to() {
    let world = World::with_vm();
    done(world.reconcile());
    world.writes();
    assert_eq!(done(world.reconcile()).lines, []);
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[test]
fn a_reload_that_boot_was_not_granted_is_made_up_for() {
    let failed = || {
        let world = World::with_vm();
        world.sim.fail("=reload", libc::ETIMEDOUT, 1);
        let account = boot(&world.host);
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        assert_says(&account, "systemd has not loaded the drop-ins");
        assert!(world.sim.state().exists(&drop_in(100)));
        world.sim.take_log();
        world
    };
    let n_reloads = |world: &World| world.writes().iter().filter(|op| *op == "reload").count();
    let by_boot = failed();
    done(boot(&by_boot.host));
    assert_eq!(n_reloads(&by_boot), 1);
    by_boot.assert_at_rest();
    let by_units = failed();
    done(by_units.reconcile());
    assert_eq!(n_reloads(&by_units), 1);
    by_units.assert_at_rest();
    // Its guest runs only later, so nobody asks systemd about the scope in between.
    let by_start = failed();
    done(by_start.phase(Phase::PreStart, 100));
    assert_eq!(n_reloads(&by_start), 1);
    by_start.launch(100, &VmSpec::with_vcpus(2));
    by_start.end_worker();
    by_start.reconcile_until_quiet().unwrap();
    by_start.sim.set_property("100.scope");
    by_start.assert_owns(100);
}
