//! What the doctor, `status`, `plan` and `init` promise is what comes of it.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::show::doctor::{Outcome, Patient, Row, examine};
use pin_hook::lifecycle::show::init::{Intent, Proposed, propose};
use pin_hook::lifecycle::show::status::{Status, status};
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, CONF_WITHOUT_HOOK, World, assert_says, done, id};
use crate::common::sim::{VmSpec, cpus};

const LOCK: &str = "/run/pin-hook/lock";
const TIMER: &str = "pin-hook-reconcile.timer";
const PARTITION: &str = "/sys/fs/cgroup/qemu.slice/100.scope/vcpu/cpuset.cpus.partition";

fn patient(world: &World, vmid: u32) -> Patient {
    let mut diagnosis = examine(&world.host, Some(id(vmid))).unwrap();
    diagnosis.patients.pop().unwrap()
}

/// Returns the only thing that a check of a VM came to.
fn found(patient: &Patient, check: &str) -> Row {
    let mut rows = patient.results.iter().filter(|row| row.id == check);
    rows.next().unwrap().clone()
}

#[test]
fn a_plan_without_a_table_names_what_the_vm_still_owns() {
    let world = World::with_vm();
    world.start(100);
    let mut tree = world.sim.state();
    tree.tree.remove("/etc/pin-hook/100.toml").unwrap();
    drop(tree);
    let plan = world.plan(100);
    let said = "; it owns cpus 2-3 until it stops or pin-hook release 100";
    assert!(plan.summary.ends_with(said), "{}", plan.summary);
    world.stop(100);
    let summary = world.plan(100).summary;
    assert!(summary.ends_with(": nothing to do"), "{summary}");
}

/// PVE calls the hook for it, but somebody has started it without.
#[test]
fn a_vm_that_runs_without_the_cpus_of_its_table_is_a_finding() {
    let world = World::with_vm();
    world.launch(100, &VmSpec::with_vcpus(2));
    let row = found(&patient(&world, 100), "in-force");
    assert_eq!(row.outcome, Outcome::Failure, "{row:?}");
    assert_eq!(row.fix.as_deref(), Some("pin-hook apply 100"));
    done(world.apply(100));
    assert_eq!(
        found(&patient(&world, 100), "in-force").outcome,
        Outcome::Passed
    );
}

#[test]
fn the_step_to_the_next_level_is_that_of_an_offline_cpu() {
    let world = World::with_vm();
    world.start(100);
    world.sim.set_online(2, false).unwrap();
    for _ in 0..2 {
        let level = patient(&world, 100).level.unwrap();
        assert_eq!(level.next.as_deref(), Some("take cpu 2 online again"));
        world.reconcile();
    }
}

/// The step may be in the table already.
#[test]
fn the_step_to_the_next_level_is_apply_where_the_table_was_edited() {
    let world = World::with_vm();
    world.start(100);
    let next = || patient(&world, 100).level.unwrap().next;
    assert_eq!(
        next().as_deref(),
        Some("profile = \"low-latency\" in its table")
    );
    world
        .sim
        .table(100, "cpus = \"2-3\"\nprofile = \"low-latency\"\n");
    assert_eq!(next().as_deref(), Some("pin-hook apply 100"));
    done(world.apply(100));
    assert!(next().unwrap().starts_with("pin-hook measure 100"));
}

#[test]
fn a_vm_whose_state_is_lost_is_a_finding() {
    let world = World::with_vm();
    world.start(100);
    world.lose_state();
    let row = found(&patient(&world, 100), "in-force");
    assert_eq!(row.outcome, Outcome::Failure, "{row:?}");
    assert!(row.found.starts_with("the state is lost"), "{row:?}");
}

/// Monitoring may run without privileges, and is not to believe that all is well.
#[test]
fn what_only_root_can_see_is_a_finding_and_no_level() {
    let world = World::with_vm();
    world.start(100);
    world
        .sim
        .fail("=read /run/pin-hook/journal", libc::EACCES, u32::MAX);
    let patient = patient(&world, 100);
    let row = found(&patient, "in-force");
    assert_eq!(row.outcome, Outcome::Warning, "{row:?}");
    assert_eq!(row.fix.as_deref(), Some("run it as root"));
    assert_eq!(patient.level, None);
}

#[track_caller]
fn assert_refused(world: &World, vmid: u32, why: &str) {
    let patient = patient(world, vmid);
    let start = found(&patient, "start");
    assert_eq!(start.outcome, Outcome::Failure, "{start:?}");
    assert!(start.found.contains(why), "{start:?}");
    assert_eq!(patient.level.unwrap().number, 0);
}

fn shown(world: &World) -> Status {
    status(&world.host, None).unwrap()
}

/// Returns the level of VM 100 as the doctor and `status` have it.
#[track_caller]
fn level(world: &World) -> u8 {
    let examined = patient(world, 100).level.unwrap();
    assert!(examined.in_force);
    let claims = shown(world).claims;
    let level = claims.first().and_then(|claim| claim.level.as_ref());
    assert_eq!(level.map_or(0, |level| level.number), examined.number);
    examined.number
}

fn next(world: &World) -> String {
    patient(world, 100).level.unwrap().next.unwrap_or_default()
}

#[test]
fn the_doctor_promises_no_start_that_a_running_vm_is_in_the_way_of() {
    let world = World::with_vm().vm(101, CONF, "cpus = \"3-4\"\n");
    assert_eq!(
        found(&patient(&world, 101), "start").outcome,
        Outcome::Passed
    );
    world.start(100);
    assert_refused(&world, 101, "cpu 3 is claimed by vm 100");
    let start = found(&patient(&world, 100), "start");
    assert_eq!(start.outcome, Outcome::Passed, "{start:?}");
    world
        .sim
        .table(101, "cpus = \"3-4\"\n[yield]\nstop = [100]\n");
    assert_eq!(
        found(&patient(&world, 101), "start").outcome,
        Outcome::Passed
    );
}

#[test]
fn the_doctor_promises_no_start_beside_a_reservation() {
    let world = World::with_vm().vm(101, CONF, "cpus = \"3-4\"\n");
    done(world.phase(Phase::PreStart, 101));
    assert_refused(&world, 100, "cpu 3 is reserved for a start of vm 101");
}

#[test]
fn the_doctor_promises_no_start_of_a_locked_vm() {
    let world = World::lab().vm(100, &format!("{CONF}lock: clone\n"), "cpus = \"2-3\"\n");
    assert_refused(&world, 100, "the vm is locked (clone)");
    world.sim.vm_conf(100, &format!("{CONF}lock: suspended\n"));
    assert_eq!(
        found(&patient(&world, 100), "start").outcome,
        Outcome::Passed
    );
}

#[test]
fn a_level_is_what_is_in_force() {
    let world = World::with_vm();
    let next_start = patient(&world, 100).level.unwrap();
    assert!(next_start.number == 3 && !next_start.in_force);
    done(world.phase(Phase::PreStart, 100));
    assert_eq!(shown(&world).claims[0].level, None);
    world.launch(100, &VmSpec::with_vcpus(2));
    assert_eq!(level(&world), 0);
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(level(&world), 3);
    let irqs: Vec<u32> = world.sim.state().irqs.iter().map(|(n, _)| *n).collect();
    for irq in &irqs {
        let path = format!("/proc/irq/{irq}/smp_affinity_list");
        let _ = world.sim.poke(&path, "0-7");
    }
    assert_eq!(level(&world), 2);
    assert!(
        next(&world).contains("pin-hook apply 100"),
        "{}",
        next(&world)
    );
    world.reconcile_until_quiet().unwrap();
    assert_eq!(level(&world), 3);
    world.sim.poke(PARTITION, "member").unwrap();
    assert_eq!(level(&world), 1);
    world.reconcile_until_quiet().unwrap();
    world.sim.set_online(3, false).unwrap();
    assert_eq!(level(&world), 0);
    world.sim.set_online(3, true).unwrap();
    world.reconcile_until_quiet().unwrap();
    assert_eq!(level(&world), 3);
    done(world.release(Some(100)));
    assert_eq!(level(&world), 0);
    assert!(
        next(&world).contains("pin-hook apply 100"),
        "{}",
        next(&world)
    );
}

#[test]
fn who_applies_by_hand_is_told_how_long_that_lasts() {
    let world = World::lab().vm(100, CONF_WITHOUT_HOOK, "cpus = \"2-3\"\n");
    world.launch(100, &VmSpec::with_vcpus(2));
    let told = "vm 100 has its cpus until it stops: pve does not call pin-hook";
    assert_says(&done(world.fork().apply(100)), told);
    world.sim.fail(&format!("write {PARTITION}"), libc::EIO, 20);
    let account = world.apply(100);
    let is_told = account.lines.iter().any(|line| line.text.contains(told));
    assert!(account.exit != Exit::Done && !is_told, "{account:#?}");
}

#[test]
fn the_next_step_of_a_vm_without_cpus_fits_what_is_missing() {
    let world = World::lab().vm(100, CONF_WITHOUT_HOOK, "cpus = \"2-3\"\n");
    let level = patient(&world, 100).level.unwrap();
    assert_eq!(
        (level.number, level.next.unwrap()),
        (0, "pin-hook enable 100".to_owned())
    );
    world.launch(100, &VmSpec::with_vcpus(2));
    let step = next(&world);
    assert!(
        step.contains("pin-hook enable 100") && step.contains("pin-hook apply 100"),
        "{step}"
    );
    world.end_qemu(100);
    world
        .sim
        .table(100, "cpus = \"2-3\"\nprofile = \"gaming\"\n");
    let step = next(&world);
    assert!(
        step.contains("pin-hook check --table /etc/pin-hook/100.toml"),
        "{step}"
    );
    world.sim.table(100, "cpus = \"2-3\"\n");
    world.sim.put("/etc/pin-hook/host.toml", "reserve = \n");
    let step = next(&world);
    assert!(
        step.contains("pin-hook check --table /etc/pin-hook/host.toml"),
        "{step}"
    );
    let world = World::lab();
    world.sim.vm_conf(100, CONF_WITHOUT_HOOK);
    assert!(next(&world).starts_with("pin-hook init 100 --write"));
}

/// The lock is held longer than the first reconcile waits for it, and nothing is claimed.
#[test]
fn an_apply_that_is_locked_out_is_continued_without_any_claim() {
    let world = World::with_vm();
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.apply(100));
    done(world.release(Some(100)));
    assert!(!world.sim.is_active(TIMER));
    world.sim.lock_by_other_for(LOCK, Duration::from_secs(40));
    let account = world.apply(100);
    assert_eq!(account.exit, Exit::Incomplete);
    assert_says(&account, "has held /run/pin-hook/lock for too long");
    for _ in 0..4 {
        assert!(world.sim.is_active(TIMER));
        world.reconcile();
    }
    world.assert_owns(100);
}

/// It runs in vain, and whoever has called it is not to believe otherwise.
#[test]
fn a_reconcile_that_is_locked_out_says_so() {
    let world = World::with_vm();
    world.start(100);
    world.sim.lock_by_other(LOCK);
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Incomplete);
    assert_says(&account, "has held /run/pin-hook/lock for too long");
    world.sim.unlock_by_other(LOCK);
    assert_eq!(done(world.reconcile()).lines, []);
}

/// There is no start that the admin would have to do again.
#[test]
fn a_wish_that_was_left_ends_with_its_vm() {
    let world = World::with_vm();
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.lock_by_other(LOCK);
    assert_eq!(world.apply(100).exit, Exit::Incomplete);
    world.end_qemu(100);
    world.sim.unlock_by_other(LOCK);
    assert_eq!(done(world.reconcile()).lines, []);
}

#[test]
fn an_apply_whose_vm_ends_meanwhile_does_not_say_that_it_owns_cpus() {
    let world = World::with_vm();
    world.launch(100, &VmSpec::with_vcpus(2));
    let end = world.sim.clone();
    world
        .sim
        .meanwhile("cgroup.threads", move || end.end_qemu(100));
    let account = world.apply(100);
    assert_says(&account, "vm 100 has stopped meanwhile");
    assert_eq!(account.exit, Exit::Refused);
}

/// As scripts do that "decouple" QEMU: what is below another cgroup is not isolated.
#[test]
fn a_vm_that_was_moved_out_of_its_scope_is_not_said_to_own_cpus() {
    let world = World::with_vm();
    world.start(100);
    let qemu = world.sim.vm(100).pid;
    let dir = "/sys/fs/cgroup/vmgroup";
    world.host.files.make_dir(dir, 0o755).unwrap();
    world
        .sim
        .poke("/sys/fs/cgroup/vmgroup/cgroup.procs", &qemu.to_string())
        .unwrap();
    let said =
        format!("its qemu (process {qemu}) was moved from qemu.slice/100.scope to cgroup vmgroup");
    let account = world.apply(100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, &said);
    let plan = world.plan(100);
    assert!(
        plan.error
            .as_ref()
            .is_some_and(|error| error.message.contains(&said)),
        "{plan:#?}"
    );
}

/// The timer is not stopped over the head of somebody who has just left a wish.
#[test]
fn what_waits_for_reconcile_keeps_the_timer() {
    let world = World::with_two_vms();
    world.start(101);
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.put("/run/pin-hook/spool/100", "");
    world.stop(101);
    assert!(world.sim.is_active(TIMER));
    world.reconcile();
    world.assert_owns(100);
}

#[test]
fn a_masked_unit_is_named() {
    let world = World::with_vm();
    world.start(100);
    assert!(shown(&world).ok);
    let path = "/etc/systemd/system/pin-hook-reconcile.service";
    world.sim.state().tree.put_link(path, "/dev/null");
    let status = shown(&world);
    assert!(!status.ok);
    assert_eq!(status.unwatched, ["pin-hook-reconcile.service"]);
    let host = examine(&world.host, None).unwrap().patients.remove(0);
    let row = found(&host, "reconcile-units");
    assert_eq!(row.outcome, Outcome::Warning, "{row:?}");
    assert!(
        row.found.contains("pin-hook-reconcile.service is masked"),
        "{row:?}"
    );
    let remedy = "(systemctl unmask pin-hook-reconcile.service)";
    assert_says(&world.apply(100), remedy);
}

#[test]
fn a_vm_that_runs_without_a_config_is_a_finding_and_its_table_is_no_stray() {
    let world = World::with_vm();
    world.start(100);
    let config = "/etc/pve/nodes/pve1/qemu-server/100.conf";
    world.sim.state().tree.remove(config).unwrap();
    let host = examine(&world.host, None).unwrap().patients.remove(0);
    let row = found(&host, "config-gone");
    assert_eq!(row.outcome, Outcome::Failure, "{row:?}");
    let fix = row.fix.unwrap();
    assert!(
        fix.starts_with("put /etc/pve/qemu-server/100.conf back"),
        "{fix}"
    );
    assert_eq!(found(&host, "strays").outcome, Outcome::Passed);
}

#[test]
fn a_masked_boot_unit_is_not_enabled() {
    let world = World::lab();
    let path = "/etc/systemd/system/pin-hook-boot.service";
    let wants = "/etc/systemd/system/multi-user.target.wants/pin-hook-boot.service";
    world
        .sim
        .put("/usr/lib/systemd/system/pin-hook-boot.service", "");
    world
        .sim
        .state()
        .tree
        .put_link(wants, "/usr/lib/systemd/system/pin-hook-boot.service");
    let boot = || {
        let host = examine(&world.host, None).unwrap().patients.remove(0);
        found(&host, "boot-unit")
    };
    assert_eq!(boot().outcome, Outcome::Passed);
    world.sim.state().tree.put_link(path, "/dev/null");
    let row = boot();
    assert_eq!(row.outcome, Outcome::Warning);
    assert!(row.found.contains("masked"), "{row:?}");
    assert!(
        row.fix
            .unwrap()
            .starts_with("systemctl unmask pin-hook-boot.service")
    );
}

fn proposed(world: &World) -> Proposed {
    propose(&world.host, id(100), Intent::default()).unwrap()
}

/// Its own CPUs are nobody else's, whatever is remembered of them.
#[test]
fn a_proposal_without_the_state_blames_nobody() {
    let conf = CONF.replace("cores: 2", "cores: 6");
    let world = World::lab().vm(100, &conf, "cpus = \"2-7\"\n");
    world.start_as(100, &VmSpec::with_vcpus(6));
    let with = proposed(&world).cpus;
    assert_eq!(with, Some(cpus("2-7")));
    let journal = world.sim.get("/run/pin-hook/journal");
    world
        .sim
        .fail("=read /run/pin-hook/journal", libc::EACCES, u32::MAX);
    let hidden = proposed(&world);
    assert_eq!(hidden.cpus, with, "{hidden:?}");
    let warned = hidden.warnings.iter();
    let warned = warned.filter(|text| text.contains("only root can read /run/pin-hook"));
    assert_eq!(warned.count(), 1, "{hidden:?}");
    world.sim.fail_no_more();
    assert!(!journal.is_empty());
    world.lose_state();
    let lost = proposed(&world);
    assert_eq!(lost.cpus, with, "{lost:?}");
}
