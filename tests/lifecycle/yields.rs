//! VMs that make room: shut down before the start of another one, or the start is refused.

use std::time::Duration;

use pin_hook::domain::debt::Debt;
use pin_hook::lifecycle::engine::account::{Account, Exit};
use pin_hook::lifecycle::engine::journal::read_state;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done, id};
use crate::common::sim::qm::Guest;
use crate::common::sim::{TaskSpec, VmSpec};

const TABLE: &str = "cpus = \"2-3\"\n[yield]\nstop = [107]\n";

/// VM 100 has VM 107 make room, which has the same CPUs.
fn node() -> World {
    World::with_vm()
        .vm(100, CONF, TABLE)
        .vm(107, CONF, "cpus = \"2-3\"\n")
}

/// The same, and VM 107 runs.
pub(super) fn occupied() -> World {
    let world = node();
    start(&world, 107);
    world.assert_owns(107);
    world
}

pub(super) fn start(world: &World, vmid: u32) {
    done(world.phase(Phase::PreStart, vmid));
    launch(world, vmid);
}

pub(super) fn launch(world: &World, vmid: u32) {
    world.launch(vmid, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, vmid));
    world.end_worker();
}

pub(super) fn stop(world: &World, vmid: u32) -> Account {
    world.end_qemu(vmid);
    let account = done(world.phase(Phase::PostStop, vmid));
    world.end_worker();
    account
}

pub(super) fn debt(world: &World) -> Option<Debt> {
    let state = read_state(&*world.host.files).unwrap();
    state.debts.get(&id(107)).cloned()
}

/// What `qm` was asked for, such as `start 107`.
pub(super) fn asked(world: &World) -> Vec<String> {
    let state = world.sim.state();
    let words = state.systemd.jobs.iter().map(|job| &job.arguments[..2]);
    words.map(|words| words.join(" ")).collect()
}

/// The timer runs for five minutes or until nothing is left to do, and `qm` does what it was asked
/// for.
pub(super) fn later(world: &World) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..20 {
        said.extend(world.reconcile().lines.into_iter().map(|line| line.text));
        if read_state(&*world.host.files).unwrap().is_empty() {
            break;
        }
    }
    world.sim.work_on_jobs();
    said
}

/// Asserts that a start of VM 100 is refused, and that VM 107 was not asked for anything.
#[track_caller]
fn assert_refused(world: &World, error: &str, help: &str) {
    let before = world.capture();
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, error);
    assert_says(&account, help);
    world.end_worker();
    world.assert_as(&before);
    assert_eq!(asked(world), Vec::<String>::new());
    assert_eq!(debt(world), None);
}

#[test]
fn a_vm_makes_room_and_is_started_again() {
    let world = occupied();
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "vm 107 is being shut down, and will be started again when vm 100",
    );
    assert!(!world.sim.runs(107));
    assert_eq!(world.claim_state(100), "reserved");
    // Its own hook comes later, if PVE calls it at all.
    done(world.phase(Phase::PostStop, 107));
    launch(&world, 100);
    world.assert_owns(100);
    assert_eq!(later(&world), Vec::<String>::new());
    let account = stop(&world, 100);
    assert_says(
        &account,
        "vm 107 made room and will be started again in 30 s",
    );
    world.reconcile();
    assert_eq!(asked(&world), ["shutdown 107"]);
    world.reconcile();
    assert_eq!(asked(&world), ["shutdown 107", "start 107"]);
    later(&world);
    assert!(world.sim.runs(107));
    assert_eq!(asked(&world).len(), 2);
    world.assert_at_rest();
}

#[test]
fn a_vm_that_does_not_run_is_neither_stopped_nor_started() {
    let world = node();
    start(&world, 100);
    assert_eq!(debt(&world), None);
    stop(&world, 100);
    later(&world);
    assert_eq!(asked(&world), Vec::<String>::new());
    world.assert_at_rest();
}

#[test]
fn a_vm_that_stays_refuses_the_start_and_runs_on() {
    let world = occupied();
    world.sim.guest(107, Guest::Deaf);
    let before = world.sim.state().since_boot;
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    let error = "vm 100: vm 107 has to make room, but did not shut down within 1min";
    assert_says(&account, error);
    assert_says(&account, "qm stop 107");
    let passed = world.sim.state().since_boot - before;
    assert_eq!(passed, Duration::from_secs(60));
    world.end_worker();
    assert!(debt(&world).is_some());
    world.assert_owns(107);
    let said = later(&world);
    assert_eq!(said, ["vm 107 is not started again: it did not shut down"]);
    assert_eq!(asked(&world), ["shutdown 107"]);
    assert_eq!(debt(&world), None);
    world.assert_owns(107);
}

/// PVE takes a VM for ended whose first thread has ended; its devices may not be free before the last one.
#[test]
fn a_vm_that_has_yet_to_let_go_of_its_devices_is_waited_for() {
    let world = occupied();
    let last = TaskSpec::named("CPU 0/KVM").in_cgroup("/qemu.slice/107.scope");
    let last = world.sim.spawn(last);
    stop(&world, 107);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    let error = "vm 100: vm 107 has to make room, but did not shut down within 1min";
    assert_says(&account, error);
    world.end_worker();
    world.sim.kill(last);
    start(&world, 100);
    world.assert_owns(100);
    assert_eq!(asked(&world), Vec::<String>::new());
}

#[test]
fn a_guest_that_shuts_down_too_late_is_started_again() {
    let world = occupied();
    world.sim.guest(107, Guest::Deaf);
    world.phase(Phase::PreStart, 100);
    world.end_worker();
    world.end_qemu(107);
    later(&world);
    assert_eq!(asked(&world), ["shutdown 107", "start 107"]);
    assert!(world.sim.runs(107));
    world.assert_at_rest();
}

#[test]
fn a_table_can_allow_more_time_than_a_phase_has() {
    let table = "cpus = \"2-3\"\nyield.stop = [107]\nyield.timeout = \"5min\"\n";
    let world = occupied().vm(100, CONF, table);
    world
        .sim
        .guest(107, Guest::ObeysAfter(Duration::from_secs(240)));
    start(&world, 100);
    world.assert_owns(100);
}

#[test]
fn a_shutdown_that_fails_at_once_is_not_waited_for() {
    let world = occupied();
    world.sim.guest(107, Guest::Refuses);
    let before = world.sim.state().since_boot;
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(
        &account,
        "vm 107 has to make room, but shutting it down failed",
    );
    assert_says(&account, "journalctl -u 'pin-hook-yield-107-*.service'");
    assert!(world.sim.state().since_boot - before < Duration::from_secs(6));
}

#[test]
fn a_start_that_nobody_waits_for_goes_on_without_cpus() {
    let world = occupied();
    world
        .sim
        .table(100, &format!("start.on-refusal = \"warn\"\n{TABLE}"));
    world.sim.guest(107, Guest::Deaf);
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "it starts without cpus of its own");
    world.launch(100, &VmSpec::with_vcpus(2));
    world.end_worker();
    world.end_qemu(107);
    later(&world);
    assert!(debt(&world).is_some(), "vm 100 runs, so the room is needed");
    world.end_qemu(100);
    later(&world);
    assert!(world.sim.runs(107));
}

#[test]
fn a_start_that_comes_while_the_vm_is_started_again_waits_for_that() {
    let world = occupied();
    start(&world, 100);
    stop(&world, 100);
    world.reconcile();
    world.sim.advance(Duration::from_secs(15));
    world.reconcile();
    assert!(world.sim.is_any_active("pin-hook-start-107-"));
    let account = world.phase(Phase::PreStart, 100);
    assert_says(
        &account,
        "vm 107 has to make room, but did not shut down within 1min",
    );
    world.end_worker();
    world.sim.work_on_jobs();
    assert!(world.sim.runs(107));
    start(&world, 100);
    assert_eq!(asked(&world).last().unwrap(), "shutdown 107");
    world.assert_owns(100);
}

#[test]
fn a_start_for_a_backup_or_a_migration_shuts_nothing_down() {
    let world = node();
    // It has other CPUs, so that both can be.
    world.sim.table(107, "cpus = \"4-5\"\n");
    start(&world, 107);
    world.sim.vm_conf(100, &format!("{CONF}lock: backup\n"));
    done(world.phase(Phase::PreStart, 100));
    world.end_worker();
    world.sim.vm_conf(100, CONF);
    world.migrating_from("pve2");
    done(world.phase(Phase::PreStart, 100));
    world.end_worker();
    assert_eq!(asked(&world), Vec::<String>::new());
}

/// What a hook of VM 107 leaves in the background goes on, and its unit stays loaded.
#[test]
fn a_unit_of_qm_spares_what_hooks_leave_behind_and_has_a_name_of_its_own() {
    let world = occupied();
    for _ in 0..2 {
        start(&world, 100);
        stop(&world, 100);
        later(&world);
        assert!(world.sim.runs(107));
    }
    let jobs = world.sim.state().systemd.jobs.clone();
    assert_eq!(jobs.len(), 4);
    assert!(jobs.iter().all(|job| job.spares), "{jobs:#?}");
    let units: std::collections::BTreeSet<&String> = jobs.iter().map(|job| &job.unit).collect();
    assert_eq!(units.len(), jobs.len(), "{jobs:#?}");
}

#[test]
fn a_vm_that_is_only_backed_up_is_not_in_the_way() {
    let world = node();
    world.sim.vm_conf(107, &format!("{CONF}lock: backup\n"));
    world.launch(107, &VmSpec::with_vcpus(2).run_state("prelaunch"));
    assert_says_room(
        &world,
        "vm 107 is only being backed up, nothing to shut down",
    );
    start(&world, 100);
    world.assert_owns(100);
    assert_eq!(asked(&world), Vec::<String>::new());
    stop(&world, 100);
    world.sim.set_run_state(107, "running");
    let error = "vm 100: vm 107 has to make room, but is locked (backup)";
    assert_refused(&world, error, "start vm 100 when the lock is gone");
}

fn assert_says_room(world: &World, text: &str) {
    let plan = world.plan(100);
    assert_eq!(plan.yields[0].summary, text);
}

#[test]
fn a_vm_that_cannot_make_room_is_not_asked() {
    let world = occupied();
    world.sim.vm_conf(107, &format!("{CONF}lock: backup\n"));
    let error = "vm 100: vm 107 has to make room, but is locked (backup)";
    assert_refused(&world, error, "start vm 100 when the lock is gone");
    let world = occupied();
    world
        .sim
        .put("/etc/pve/ha/resources.cfg", "vm: 107\n\tgroup a\n");
    let error = "vm 100: cannot shut down vm 107 (yield.stop): ha would restart it";
    assert_refused(&world, error, "ha-manager set vm:107 --state stopped");
    world
        .sim
        .put("/etc/pve/ha/resources.cfg", "vm: 107\n\tstate ignored\n");
    done(world.phase(Phase::PreStart, 100));
}

#[test]
fn nobody_makes_room_for_a_start_that_is_refused_anyway() {
    let world = World::lab()
        .vm(100, CONF, "cpus = \"3-4\"\nyield.stop = [107]\n")
        .vm(101, CONF, "cpus = \"4-5\"\n")
        .vm(107, CONF, "cpus = \"2-3\"\n");
    start(&world, 107);
    start(&world, 101);
    assert_refused(&world, "vm 100: cpu 4 is claimed by vm 101", "stop vm 101");
}

#[test]
fn tables_that_cannot_be_meant_are_refused() {
    let with = |conf: &str, table: &str| occupied().vm(107, conf, table);
    let mutual = with(CONF, "cpus = \"2-3\"\nyield.stop = [100]\n");
    let error = "/etc/pin-hook/100.toml: yield.stop: vm 107 would shut down vm 100 in turn \
                 (/etc/pin-hook/107.toml)";
    assert_refused(
        &mutual,
        error,
        "take vm 100 out of yield.stop in /etc/pin-hook/107.toml",
    );
    let round = with(CONF, "cpus = \"2-3\"\nyield.stop = [108]\n").vm(
        108,
        CONF,
        "cpus = \"auto\"\nyield.stop = [100]\n",
    );
    assert_refused(
        &round,
        "vm 108 would shut down vm 100 in turn",
        "/etc/pin-hook/108.toml",
    );
    let alone = occupied().vm(100, CONF, "cpus = \"2-3\"\nyield.stop = [100]\n");
    assert_refused(&alone, "vm 100 cannot make room for itself", "take 100 out");
    let unknown = occupied().vm(100, CONF, "cpus = \"2-3\"\nyield.stop = [108]\n");
    assert_refused(&unknown, "there is no vm 108", "take 108 out of yield.stop");
    let template = with("template: 1\n", "cpus = \"2-3\"\n");
    assert_refused(
        &template,
        "vm 107 is a template, which runs for backups only",
        "take 107 out",
    );
    unknown.sim.put("/etc/pve/nodes/pve1/lxc/108.conf", "");
    assert_refused(&unknown, "108 is a container, and only vms", "take 108 out");
    let elsewhere = occupied().vm(100, CONF, "cpus = \"4-5\"\nyield.stop = [108]\n");
    elsewhere
        .sim
        .put("/etc/pve/nodes/pve2/qemu-server/108.conf", "");
    done(elsewhere.phase(Phase::PreStart, 100));
}

#[test]
fn a_service_manager_that_refuses_is_a_refusal() {
    let world = occupied();
    world.sim.fail("run pin-hook-yield-107", libc::EIO, 1);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(&account, "cannot shut down vm 107");
    world.end_worker();
    later(&world);
    world.assert_owns(107);
    assert_eq!(debt(&world), None);
}

#[test]
fn who_may_not_look_whether_vms_run_is_shown_a_plan() {
    let world = node();
    world.sim.fail("read /run/qemu-server/", libc::EACCES, 99);
    world
        .sim
        .fail("read /run/pin-hook/journal", libc::EACCES, 99);
    let plan = world.plan(100);
    assert!(!plan.running);
    assert!(plan.error.is_none(), "{plan:?}");
    let left_out = plan.left_out.join("\n");
    assert!(
        left_out.contains("claims of other vms are left out"),
        "{left_out}"
    );
    assert!(
        left_out.contains("assuming that vm 100 is not running"),
        "{left_out}"
    );
    let summary = &plan.yields[0].summary;
    assert!(
        summary.contains("if it is running (only root can tell)"),
        "{summary}"
    );
}
