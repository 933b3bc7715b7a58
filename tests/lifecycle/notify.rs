//! Notifications through PVE: what is sent, once, and that nothing depends on it.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::{Account, Exit, Level};
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done};
use crate::common::sim::VmSpec;

const HOST: &str = "/etc/pin-hook/host.toml";
const IRQ: &str = "/proc/irq/31/smp_affinity_list";

/// Has PVE notify from now on.
fn notifying(world: World) -> World {
    world.sim.put(HOST, "notify = true\n");
    world
}

/// Returns what units were started to notify with since the last call, with how long they may take.
fn sent(world: &World) -> Vec<Vec<String>> {
    let mut state = world.sim.state();
    let jobs = std::mem::take(&mut state.systemd.jobs).into_iter();
    let jobs = jobs.filter(|job| job.unit.starts_with("pin-hook-notify-"));
    let words = jobs.map(|job| {
        assert_eq!(job.path, "/usr/libexec/pin-hook/notify");
        assert_eq!(job.limit, Some(Duration::from_secs(300)));
        job.arguments
    });
    words.collect()
}

fn warnings(account: &Account) -> Vec<&str> {
    let lines = account.lines.iter();
    let lines = lines.filter(|line| line.level == Level::Warning);
    lines.map(|line| line.text.as_str()).collect()
}

#[test]
fn a_refused_start_is_notified_where_the_host_asks_for_it() {
    let world = World::with_vm();
    world.sim.set_online(3, false).unwrap();
    assert_eq!(world.phase(Phase::PreStart, 100).exit, Exit::Refused);
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
    let world = notifying(world);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    let help = account.lines.iter().find(|line| line.level == Level::Help);
    let expected = [
        "error",
        "100",
        "vm 100 was not started",
        "vm 100: cpu 3 is offline",
        &format!("help: {}", help.unwrap().text),
    ];
    assert_eq!(sent(&world), [expected]);
    // Whoever tries again and again has been told.
    assert_eq!(world.phase(Phase::PreStart, 100).exit, Exit::Refused);
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
    world.sim.advance(Duration::from_secs(600));
    assert_eq!(world.phase(Phase::PreStart, 100).exit, Exit::Refused);
    assert_eq!(sent(&world), [expected]);
}

#[test]
fn a_vm_that_goes_without_its_cpus_is_a_warning() {
    let world = World::with_vm();
    world
        .sim
        .put(HOST, "notify = true\n[defaults]\non-refusal = \"warn\"\n");
    world.sim.set_online(3, false).unwrap();
    done(world.phase(Phase::PreStart, 100));
    let all = sent(&world);
    let title = "vm 100 was started without cpus of its own";
    assert_eq!(all[0][..3], ["warning", "100", title]);
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    // It says the same of the same start.
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
}

#[test]
fn a_start_that_goes_well_is_no_news() {
    let world = notifying(World::with_vm());
    world.start(100);
    done(world.reconcile());
    world.end_qemu(100);
    done(world.phase(Phase::PostStop, 100));
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
    assert_eq!(world.claim_state(100), "none");
}

/// Every run says that it is left alone; one of them is enough.
#[test]
fn a_value_that_is_left_alone_is_notified_once() {
    let world = notifying(World::with_vm());
    world.start(100);
    for _ in 0..3 {
        world.sim.poke(IRQ, "2").unwrap();
        assert_says(&done(world.reconcile()), "set again");
        assert_eq!(sent(&world), Vec::<Vec<String>>::new());
    }
    world.sim.poke(IRQ, "2").unwrap();
    assert_says(&done(world.reconcile()), "now left alone");
    let all = sent(&world);
    let [words] = &all[..] else {
        panic!("{all:#?}");
    };
    assert_eq!(words[..2], ["warning", "-"]);
    assert!(
        words[2].starts_with("another program keeps changing "),
        "{words:?}"
    );
    assert!(
        words[3].ends_with("now left alone (irqbalance is running)"),
        "{words:?}"
    );
    assert!(words[4].starts_with("help: ban the vm's cpus"), "{words:?}");
    for _ in 0..5 {
        assert_says(&done(world.reconcile()), "now left alone");
    }
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
}

#[test]
fn what_reconcile_cannot_set_again_is_notified_once() {
    let world = notifying(World::with_vm());
    world.start(100);
    world.sim.poke(IRQ, "2").unwrap();
    world
        .sim
        .fail("write /proc/irq/31/smp_affinity_list", libc::EIO, 2);
    done(world.reconcile());
    let all = sent(&world);
    let [words] = &all[..] else {
        panic!("{all:#?}");
    };
    assert!(words[2].ends_with(" cannot be set"), "{words:?}");
    assert_eq!(words[4], "help: pin-hook status shows what differs");
    done(world.reconcile());
    done(world.reconcile());
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
    world.assert_owns(100);
}

/// The phase tells it, and reconcile finds the same claim over and over.
#[test]
fn a_vm_whose_cpus_cannot_be_isolated_is_notified_once() {
    let world = notifying(World::with_vm());
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.fail("cpuset.cpus.partition", libc::EIO, u32::MAX);
    let account = world.phase(Phase::PostStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    let all = sent(&world);
    let [words] = &all[..] else {
        panic!("{all:#?}");
    };
    let title = "vm 100 was not given its cpus";
    assert_eq!(words[..3], ["error", "100", title]);
    world.sim.fail_no_more();
    for _ in 0..3 {
        world.reconcile();
    }
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
}

/// Reconcile does what a phase would have done, and sends what both have to say in one.
#[test]
fn a_wish_that_was_left_and_is_refused_is_notified_by_reconcile() {
    let world = World::with_vm().vm(101, CONF, "cpus = \"3-4\"\n");
    world.start(101);
    let world = notifying(world);
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.put("/run/pin-hook/spool/100", "");
    world.sim.poke(IRQ, "2").unwrap();
    world
        .sim
        .fail("write /proc/irq/31/smp_affinity_list", libc::EIO, 1);
    world.reconcile();
    let all = sent(&world);
    let [words] = &all[..] else {
        panic!("{all:#?}");
    };
    let title = "vm 100 was not given its cpus, and 1 more";
    assert_eq!(words[..3], ["error", "-", title]);
    assert_eq!(words[3], "vm 100: cpu 3 is claimed by vm 101");
    assert!(words[5].contains("/irq/31/"), "{words:#?}");
}

/// A phase ends as it would without it, and hardly later.
#[test]
fn a_bus_that_fails_costs_a_line_and_half_a_second() {
    let refused = || {
        let world = World::with_vm();
        world.sim.set_online(3, false).unwrap();
        world
    };
    let usual = refused().phase(Phase::PreStart, 100);
    let took = |world: &World| {
        let before = world.host.clock.since_boot();
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, usual.exit);
        let (own, last) = account.lines.split_at(usual.lines.len());
        assert_eq!(own, usual.lines);
        assert_eq!(last.len(), 1, "{last:#?}");
        assert_eq!(warnings(&account).len(), 1, "{account:#?}");
        assert!(last[0].text.starts_with("pve cannot be notified: "));
        world.host.clock.since_boot() - before
    };
    let silent = notifying(refused());
    silent.sim.silence();
    assert_eq!(took(&silent), Duration::from_millis(500));
    let refusing = notifying(refused());
    refusing.sim.fail("run pin-hook-notify-", libc::EIO, 1);
    assert_eq!(took(&refusing), Duration::ZERO);
}

/// Without a place to remember it, every run would send the same.
#[test]
fn what_cannot_be_remembered_is_not_sent() {
    let world = notifying(World::with_vm());
    world.sim.set_online(3, false).unwrap();
    world
        .sim
        .fail("/run/pin-hook/notified", libc::ENOSPC, u32::MAX);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(&account, "pve cannot be notified: ");
    assert_eq!(sent(&world), Vec::<Vec<String>>::new());
}

/// systemd expands variables in what a unit is called with.
#[test]
fn a_dollar_sign_is_no_variable() {
    let world = notifying(World::lab().vm(100, CONF, "cpus = \"$HOME\"\n"));
    assert_eq!(world.phase(Phase::PreStart, 100).exit, Exit::Refused);
    let all = sent(&world);
    assert!(all[0][3].contains("$$HOME"), "{all:#?}");
}
