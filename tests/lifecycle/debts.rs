//! VMs that made room are started again: once, and only when nobody has done anything about them.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::Account;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, CONF_WITHOUT_HOOK, World, assert_says, done};
use super::yields::{asked, debt, later, occupied, start, stop};
use crate::common::sim::fate::Death;
use crate::common::sim::{TaskSpec, VmSpec};

#[test]
fn a_reboot_takes_the_debt_over() {
    let world = occupied();
    start(&world, 100);
    stop(&world, 100);
    world.reconcile();
    start(&world, 100);
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107"]);
    stop(&world, 100);
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107", "start 107"]);
}

#[test]
fn a_vm_that_is_killed_pays_too() {
    let world = occupied();
    start(&world, 100);
    world.sim.kill_qemu(100);
    later(&world);
    assert!(world.sim.runs(107));
    world.assert_at_rest();
}

#[test]
fn a_failed_start_pays_too() {
    let world = occupied();
    done(world.phase(Phase::PreStart, 100));
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107"], "the start may still go on");
    world.end_worker();
    later(&world);
    assert!(world.sim.runs(107));
    world.assert_at_rest();
}

#[test]
fn release_pays_at_once() {
    let world = occupied();
    start(&world, 100);
    let account = done(world.release(Some(100)));
    assert_says(&account, "vm 107 is being started again");
    assert_eq!(asked(&world), ["shutdown 107", "start 107"]);
    assert!(world.sim.runs(100));
}

#[test]
fn what_somebody_else_has_done_cancels_the_debt() {
    type Act = fn(&World);
    let acts: [(Act, &str); 5] = [
        (|world| world.launch(107, &VmSpec::with_vcpus(2)), ""),
        (
            |world| world.sim.vm_conf(107, "cores: 2\nlock: backup\n"),
            "it is locked (backup)",
        ),
        (
            |world| {
                let path = "/etc/pve/nodes/pve1/qemu-server/107.conf";
                world.sim.state().tree.remove(path).unwrap();
                world
                    .sim
                    .put("/etc/pve/nodes/pve2/qemu-server/107.conf", CONF);
            },
            "it is no longer on this node",
        ),
        (
            |world| {
                world
                    .sim
                    .put("/etc/pve/ha/resources.cfg", "vm: 107\n\tstate started\n");
            },
            "it is now managed by ha",
        ),
        (|world| world.sim.state().systemd.is_stopping = true, ""),
    ];
    for (act, why) in acts {
        let world = occupied();
        // The VM that is started by hand has no CPUs in common.
        world.sim.vm_conf(107, CONF_WITHOUT_HOOK);
        start(&world, 100);
        stop(&world, 100);
        act(&world);
        let said = later(&world);
        assert_eq!(asked(&world), ["shutdown 107"], "{why}");
        assert!(
            said.iter().any(|line| line.contains(why)) || why.is_empty(),
            "{said:?}"
        );
        assert_eq!(debt(&world), None, "{why}");
    }
}

#[test]
fn nothing_is_started_while_pve_shuts_everything_down() {
    shut_all_down(|world| drop(stop(world, 100)), |_| ());
}

#[test]
fn nothing_is_started_when_everything_is_shut_down_within_the_grace() {
    shut_all_down(|_| (), |world| drop(stop(world, 100)));
}

/// VM 100 ends before or during a task that shuts everything down.
fn shut_all_down(during: impl Fn(&World), before: impl Fn(&World)) {
    let world = occupied();
    start(&world, 100);
    before(&world);
    let task = "task UPID:pve1:0000ABCD:00001234:6543210F:stopall::root@pam:";
    let worker = world.sim.spawn(TaskSpec {
        cmdline: vec![task.to_owned()],
        ..TaskSpec::named("task UPID")
    });
    during(&world);
    world.reconcile();
    world.sim.kill(worker);
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107"]);
    world.assert_at_rest();
}

#[test]
fn the_second_half_of_a_backup_in_stop_mode_takes_the_debt_over() {
    let world = occupied();
    start(&world, 100);
    stop(&world, 100);
    world.sim.vm_conf(100, &format!("{CONF}lock: backup\n"));
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2).run_state("prelaunch"));
    done(world.phase(Phase::PostStart, 100));
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107"]);
}

#[test]
fn two_vms_that_need_the_room_pay_when_both_have_ended() {
    let table = "cpus = \"4-5\"\nyield.stop = [107]\n";
    let world = occupied().vm(101, CONF, table);
    start(&world, 100);
    start(&world, 101);
    stop(&world, 100);
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107"]);
    stop(&world, 101);
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107", "start 107"]);
}

/// Asserts that whatever a death has left, VM 107 runs again in the end, started at most once.
fn assert_paid(world: &World, when: &str) {
    world.end_worker();
    world.reconcile();
    world.reconcile();
    for vmid in [100, 101] {
        if world.sim.runs(vmid) {
            stop(world, vmid);
        }
    }
    later(world);
    assert!(world.sim.runs(107), "vm 107 is off: {when}");
    let starts = asked(world)
        .into_iter()
        .filter(|asked| asked == "start 107");
    assert!(starts.count() <= 1, "{when}");
    assert_eq!(debt(world), None, "{when}");
}

/// Does a call again with a death at every write, before it or in its middle, and after the last.
fn die_everywhere(before: &World, call: impl Fn(&World) -> Account) {
    let whole = before.fork();
    whole.sim.take_log();
    call(&whole);
    let log = whole.sim.take_log();
    assert_paid(&whole, "without a death");
    for (n, op) in (1..).zip(&log) {
        let is_torn = op.starts_with("append") || op.starts_with("replace");
        let torn = is_torn.then_some(Death::Torn);
        let last = (n == log.len()).then_some(Death::After);
        for death in [Some(Death::Before), torn, last].into_iter().flatten() {
            let world = before.fork();
            world.sim.die_at(n, death);
            let outcome = world.sim.run_until_death(|| call(&world));
            outcome.expect_err("the program to die");
            assert_paid(&world, &format!("died at write {n} ({death:?}): {op}"));
        }
    }
}

#[test]
fn a_death_while_room_is_made_loses_no_vm() {
    die_everywhere(&occupied(), |world| world.phase(Phase::PreStart, 100));
}

#[test]
fn a_death_in_post_start_or_release_loses_no_vm() {
    let world = occupied();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    die_everywhere(&world, |world| world.phase(Phase::PostStart, 100));
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
    die_everywhere(&world, |world| world.release(Some(100)));
}

#[test]
fn a_death_after_the_end_loses_no_vm() {
    let world = occupied();
    start(&world, 100);
    world.end_qemu(100);
    die_everywhere(&world, |world| world.phase(Phase::PostStop, 100));
    done(world.phase(Phase::PostStop, 100));
    world.end_worker();
    world.sim.advance(Duration::from_secs(15));
    die_everywhere(&world, World::reconcile);
}
