//! Starts for a backup (`backup-of-stopped-vm`): QEMU reads the disks, and the guest does not run
//! unless somebody starts the VM meanwhile.

use std::rc::Rc;

use pin_hook::lifecycle::engine::account::{Account, Level};
use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::Scenario;
use super::world::{CONF, World, assert_says, done, id};
use crate::common::sim::VmSpec;

const IRQ: &str = "/proc/irq/31/smp_affinity_list";

const TABLE: &str = "cpus = \"2-3\"\n";

/// What PVE writes into the config before it starts QEMU.
fn locked() -> String {
    format!("{CONF}lock: backup\n")
}

/// VM 100 has the CPUs that VM 102 has, too, which is locked for a backup.
fn node(table: &str) -> World {
    World::with_vm().vm(102, &locked(), table)
}

fn begin(world: &World, vmid: u32) -> Vec<Account> {
    let before = done(world.phase(Phase::PreStart, vmid));
    world.launch(vmid, &VmSpec::with_vcpus(2).run_state("prelaunch"));
    let after = done(world.phase(Phase::PostStart, vmid));
    vec![before, after]
}

fn name(world: &World, vmid: u32) -> String {
    let claim = world.claim(vmid);
    claim.map_or("none".to_owned(), |claim| claim.name())
}

fn warnings(account: &Account) -> usize {
    let lines = account.lines.iter();
    lines.filter(|line| line.level == Level::Warning).count()
}

#[test]
fn a_backup_of_a_stopped_vm_does_not_fail_for_cpus_that_another_vm_has() {
    for table in [
        TABLE,
        "cpus = \"2-3\"\nstart.on-refusal = \"abort\"\n",
        "cpus = \"7-8\"\nstart.on-refusal = \"abort\"\n",
        "cpus = \"2-7\"\n",
        "cpus = \"auto\"\nstart.on-refusal = \"abort\"\n",
    ] {
        let world = node(table);
        let before = world.capture();
        world.start(100);
        let told = begin(&world, 102);
        assert_says(&told[0], "vm 102: started for a backup, no cpus reserved");
        let then =
            "vm 102: started for a backup, it gets its cpus when its guest runs, if they are free";
        assert_says(&told[1], then);
        assert_eq!(told.iter().map(warnings).sum::<usize>(), 0, "{told:#?}");
        assert_eq!(name(&world, 102), "standby");
        world.assert_owns(100);
        world.reconcile_until_quiet().unwrap();
        assert!(status(&world.host, None).unwrap().ok);
        world.stop(102);
        world.assert_owns(100);
        world.stop(100);
        world.assert_as(&before);
        world.assert_at_rest();
    }
}

#[test]
fn a_backup_of_a_stopped_vm_keeps_nobody_from_its_cpus() {
    let world = node(TABLE);
    let before = world.capture();
    begin(&world, 102);
    // The lock is free and the worker of the backup lives on.
    world.start(100);
    world.assert_owns(100);
    world.sim.set_run_state(102, "running");
    let account = done(world.reconcile());
    let why = "vm 102: cpus 2-3 are claimed by vm 100; it runs without cpus of its own, \
               reconcile will try again";
    assert_says(&account, why);
    assert_says(&account, "stop vm 100");
    assert_eq!(done(world.reconcile()).lines.len(), 0, "said once");
    let seen = status(&world.host, Some(id(102))).unwrap();
    assert!(!seen.ok);
    let failure = seen.claims[0].failure.as_deref();
    assert_eq!(failure, Some("cpus 2-3 are claimed by vm 100"));
    world.assert_owns(100);
    world.stop(100);
    assert_says(&done(world.reconcile()), "vm 102: owns cpus 2-3");
    world.assert_owns(102);
    assert!(status(&world.host, None).unwrap().ok);
    world.sim.vm_conf(102, CONF);
    world.stop(102);
    world.sim.vm_conf(102, &locked());
    world.assert_as(&before);
}

#[test]
fn a_guest_that_is_started_during_its_backup_gets_its_cpus() {
    let world = || World::lab().vm(100, &locked(), TABLE);
    Scenario::new("cont during a backup", world)
        .start_as(100, VmSpec::with_vcpus(2).run_state("prelaunch"))
        .reconcile()
        .check(|world| {
            assert_eq!(name(world, 100), "standby");
            assert_eq!(world.sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"), "\n");
        })
        .outside(|world| world.sim.set_run_state(100, "running"))
        .reconcile()
        .owns(100)
        .stopped(100)
        .prove();
}

#[test]
fn what_kept_a_guest_from_its_cpus_may_be_mended_meanwhile() {
    let world = World::lab().vm(102, &locked(), "cpus = \"7-8\"\n");
    begin(&world, 102);
    world.sim.set_run_state(102, "running");
    let account = done(world.reconcile());
    assert_says(
        &account,
        "vm 102: the host has no cpu 8, it has 0-7; it runs without cpus of its own, reconcile \
         will try",
    );
    world.sim.table(102, TABLE);
    done(world.reconcile());
    world.assert_owns(102);
    world.end_worker();
}

/// A lock that an aborted backup has left, and somebody who starts the VM nevertheless.
#[test]
fn a_guest_that_runs_from_the_start_has_its_cpus_at_once() {
    let world = World::lab().vm(102, &locked(), TABLE);
    done(world.phase(Phase::PreStart, 102));
    world.launch(102, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 102));
    world.end_worker();
    world.assert_owns(102);
    assert_eq!(name(&world, 102), "running");
}

#[test]
fn a_table_that_cannot_be_used_fails_no_backup() {
    let world = node("cpus = \"2-\"\n");
    let account = done(world.phase(Phase::PreStart, 102));
    assert_eq!(warnings(&account), 1, "{account:#?}");
    // Of a template nothing is wanted but its disks.
    world
        .sim
        .vm_conf(102, "cores: 2\ntemplate: 1\nlock: backup\n");
    world.sim.chown("/etc/pin-hook/102.toml", 0, 0o666);
    let account = done(world.phase(Phase::PreStart, 102));
    assert_says(
        &account,
        "vm 102 is a template, which runs for backups only: nothing to do",
    );
    assert_eq!(account.lines.len(), 1);
}

/// Writing down what is in the way is a turn like any other: what it meets is told.
#[test]
fn what_is_met_while_an_obstacle_is_written_down_is_told() {
    let world = Rc::new(node(TABLE));
    begin(&world, 102);
    world.start(100);
    world.sim.set_run_state(102, "running");
    let (first, second) = (Rc::clone(&world), Rc::clone(&world));
    // Asked once for all VMs, and once more for the one that is to be given its CPUs.
    world.sim.meanwhile("=run_state 102", move || {
        let other = Rc::clone(&second);
        first.sim.meanwhile("=run_state 102", move || {
            other.sim.poke(IRQ, "2").unwrap();
        });
    });
    let account = done(world.reconcile());
    assert_says(&account, "it runs without cpus of its own");
    assert_says(
        &account,
        "is \"2\", but pin-hook had set \"0-1,4-7\": set again",
    );
}
