//! `/run` is full: nothing is taken that could not be given back, and everything is given back.

use pin_hook::domain::state::State;
use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::engine::journal::read_state;
use pin_hook::lifecycle::show::doctor::examine;
use pin_hook::lifecycle::show::plan::Outcome;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{World, assert_says, done, id};
use crate::common::sim::{TaskSpec, VmSpec};

const KIB: usize = 1 << 10;

#[test]
fn a_start_is_refused_while_there_is_no_room_for_giving_back() {
    for free in (0..=40).step_by(4) {
        let world = World::with_vm();
        let before = world.capture();
        world.sim.fill_run(free * KIB);
        let plan = world.plan(100);
        assert_eq!(plan.outcome, Outcome::Refused, "{free} KiB: {plan:#?}");
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{free} KiB: {account:#?}");
        assert_says(&account, "needed to record how to restore the host");
        assert_says(&account, "df /run");
        world.end_worker();
        world.assert_as(&before);
        world.sim.empty_run();
        world.start(100);
        world.assert_owns(100);
    }
}

/// Half applied, it would lose what it has: systemd cannot start a child then.
#[test]
fn an_apply_is_refused_while_systemd_has_no_room_for_units() {
    let world = World::with_vm();
    world.start(100);
    world.sim.fill_run(8 * KIB);
    world.sim.put("/etc/pin-hook/100.toml", "cpus = \"4-5\"\n");
    let before = world.capture();
    assert_eq!(world.plan(100).outcome, Outcome::Refused);
    let account = world.apply(100);
    assert_says(&account, "/run is full: 64 KiB needed for systemd's units");
    world.assert_as(&before);
    world.sim.empty_run();
    done(world.apply(100));
    world.assert_owns(100);
}

#[test]
fn a_vm_starts_and_stops_when_it_becomes_full_at_any_time() {
    for free in [0, 4, 8, 40] {
        for full_from in 0..4 {
            let world = World::with_two_vms();
            let before = world.capture();
            let fill = |step: usize| {
                if step == full_from {
                    world.sim.fill_run(free * KIB);
                }
            };
            world.start(101);
            done(world.phase(Phase::PreStart, 100));
            fill(0);
            world.launch(100, &VmSpec::with_vcpus(2));
            fill(1);
            done(world.phase(Phase::PostStart, 100));
            world.end_worker();
            world.assert_owns(100);
            fill(2);
            world.stop(100);
            fill(3);
            world.assert_owns(101);
            world.stop(101);
            world.reconcile_until_quiet().unwrap();
            world.assert_as(&before);
            world.assert_at_rest();
        }
    }
}

#[test]
fn a_death_at_any_write_is_made_good_with_run_full() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    world.end_qemu(100);
    world.sim.fill_run(0);
    let count = {
        let world = world.fork();
        world.sim.take_log();
        done(world.phase(Phase::PostStop, 100));
        world.sim.take_log().len()
    };
    for n in 1..=count {
        let world = world.fork();
        world.sim.die_at_write(n);
        let outcome = world
            .sim
            .run_until_death(|| world.phase(Phase::PostStop, 100));
        outcome.expect_err("the program to die");
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        world.assert_as(&before);
    }
}

/// More kernel threads than the room of a new log is for.
#[test]
fn what_needs_more_room_than_there_is_is_taken_back() {
    let world = World::with_vm();
    for n in 0..800 {
        world
            .sim
            .spawn(TaskSpec::named(&format!("kernel-thread-{n}")).kthread(false));
    }
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    let before = world.capture();
    world.sim.fill_run(0);
    let account = world.phase(Phase::PostStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, "needed to record how to restore the host");
    assert_eq!(world.claim_state(100), "failed");
    world.assert_as(&before);
    // The admin makes room, and asks for it again.
    world.sim.empty_run();
    done(world.apply(100));
    world.assert_owns(100);
    world.stop(100);
    assert_eq!(read_state(&*world.host.files).unwrap(), State::default());
}

/// What keeps the state from being written.
type Spoil = fn(&World);

/// Where the state cannot be written no start is granted, and who shows says so beforehand.
#[test]
fn a_state_directory_that_cannot_be_written_is_told_beforehand() {
    let spoils: [(&str, Spoil); 3] = [
        (
            "cannot write /run/pin-hook: Read-only file system",
            |world| {
                world.sim.seal_run(true);
            },
        ),
        ("cannot make /run/pin-hook: Not a directory", |world| {
            world.sim.put("/run/pin-hook", "");
        }),
        ("/run/pin-hook belongs to uid 0 with mode 777", |world| {
            let mut state = world.sim.state();
            state.tree.make_dir("/run/pin-hook", 0o777).unwrap();
        }),
    ];
    for (told, spoil) in spoils {
        let world = World::with_vm();
        spoil(&world);
        world.sim.take_log();
        let plan = world.plan(100);
        assert_eq!(plan.outcome, Outcome::Refused, "{told}: {plan:#?}");
        let error = plan.error.unwrap().message;
        assert!(error.contains(told), "{told}: {error}");
        let vm = examine(&world.host, Some(id(100)))
            .unwrap()
            .patients
            .remove(1);
        let mut failures = vm.results.iter();
        let start = failures.find(|row| row.id == "start").unwrap();
        assert!(start.found.contains(told), "{start:#?}");
        assert!(world.sim.take_log().is_empty(), "a look has written");
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{told}: {account:#?}");
    }
}
