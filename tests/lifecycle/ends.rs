//! Letting go in other ways: by hand, with tables or state lost.

use std::cell::RefCell;
use std::rc::Rc;

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF_WITHOUT_HOOK, World, assert_says, done};
use crate::common::sim::VmSpec;
use crate::common::sim::capture::Capture;

const JOURNAL: &str = "/run/pin-hook/journal";

/// What the host was at one point of a scenario, to be compared at another.
#[derive(Clone, Default)]
struct Mark(Rc<RefCell<Option<Capture>>>);

impl Mark {
    fn set(&self) -> impl Fn(&World) + use<> {
        let mark = self.clone();
        move |world| *mark.0.borrow_mut() = Some(world.capture())
    }

    /// Units that looked after a VM have nothing to do with what the host was before.
    fn compare(&self) -> impl Fn(&World) + use<> {
        let mark = self.clone();
        move |world| {
            let mut before = mark.0.borrow().clone().unwrap();
            before.retain(|name, _| !name.starts_with("unit "));
            world.assert_as(&before);
        }
    }
}

fn unhooked() -> World {
    World::lab().vm(100, CONF_WITHOUT_HOOK, "cpus = \"2-3\"\n")
}

#[test]
fn a_vm_without_the_hook_is_adopted_and_released_by_hand() {
    let mark = Mark::default();
    Scenario::new("adopt and release", unhooked)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .outside(mark.set())
        .call("apply", Then::OwnedOrNot, |world| done(world.apply(100)))
        .owns(100)
        .check(|world| {
            world.sim.set_property("100.scope");
            world.sim.daemon_reload();
        })
        .owns(100)
        .reconcile()
        .call("release", Then::Either, |world| {
            done(world.release(Some(100)))
        })
        .outside(|world| {
            world.end_worker();
            world.systemd_looks_at_a_unit();
        })
        .check(mark.compare())
        .reconcile()
        .outside(|world| {
            world.end_worker();
            world.end_qemu(100);
        })
        .prove();
}

#[test]
fn post_start_by_hand_adopts_a_vm_that_stops_without_a_phase() {
    Scenario::new("adopt and stop", unhooked)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .call("post-start by hand", Then::OwnedOrNot, |world| {
            done(world.phase(Phase::PostStart, 100))
        })
        .owns(100)
        .known()
        .outside(|world| {
            world.end_worker();
            world.end_qemu(100);
        })
        .reconcile()
        // The first one had systemd read its unit files again, the next one lets go of the units.
        .reconcile()
        .prove();
}

#[test]
fn releasing_a_hooked_vm_lasts_until_its_next_start() {
    Scenario::new("release", World::with_vm)
        .start(100)
        .call("release", Then::Either, |world| {
            done(world.release(Some(100)))
        })
        .reconcile()
        .check(|world| {
            assert_eq!(world.claim_state(100), "none");
            assert_eq!(world.sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"), "\n");
        })
        .stop(100)
        .start(100)
        .owns(100)
        .stop(100)
        .play();
}

#[test]
fn releasing_one_vm_leaves_the_other() {
    Scenario::new("release one of two", World::with_two_vms)
        .start(100)
        .start(101)
        .call("release 100", Then::Either, |world| {
            done(world.release(Some(100)))
        })
        .owns(101)
        .stop(100)
        .owns(101)
        .stop(101)
        .play();
}

fn lose_everything(world: &World) {
    let mut state = world.sim.state();
    state.tree.remove_all("/run/pin-hook");
    state.tree.remove_all("/etc/pin-hook/100.toml");
}

/// A host with an interrupt of a node that is on all CPUs, as those of the chipset are.
fn with_chipset() -> World {
    let world = World::with_vm();
    world.sim.state().add_irq(14, "chipset", 0);
    world
        .sim
        .poke("/proc/irq/14/smp_affinity_list", "0-7")
        .unwrap();
    world
}

#[test]
fn everything_is_released_with_state_and_tables_lost() {
    let mark = Mark::default();
    Scenario::new("state lost", with_chipset)
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .outside(mark.set())
        .post_start(100)
        .outside(World::end_worker)
        .owns(100)
        .known()
        .outside(lose_everything)
        .call("release --all", Then::Either, |world| {
            done(world.release(None))
        })
        .outside(World::end_worker)
        .outside(|world| world.sim.table(100, "cpus = \"2-3\"\n"))
        .check(mark.compare())
        .outside(|world| world.end_qemu(100))
        .play();
}

#[test]
fn an_adopted_vm_is_released_with_state_and_tables_lost() {
    let mark = Mark::default();
    Scenario::new("state of an adopted vm lost", unhooked)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .outside(mark.set())
        .call("apply", Then::OwnedOrNot, |world| done(world.apply(100)))
        .owns(100)
        .outside(|world| {
            world.end_worker();
            lose_everything(world);
        })
        .call("release --all", Then::Either, |world| {
            done(world.release(None))
        })
        .outside(|world| {
            world.end_worker();
            world.systemd_looks_at_a_unit();
            world.sim.table(100, "cpus = \"2-3\"\n");
        })
        .check(mark.compare())
        .outside(|world| world.end_qemu(100))
        .play();
}

#[test]
fn a_death_while_everything_is_released_without_state_is_made_good_by_the_next_release() {
    let prepare = || {
        let world = World::with_vm();
        done(world.phase(Phase::PreStart, 100));
        world.launch(100, &VmSpec::with_vcpus(2));
        world.end_worker();
        let before = world.capture();
        done(world.phase(Phase::PostStart, 100));
        world.end_worker();
        world.lose_state();
        world.sim.take_log();
        (world, before)
    };
    let (world, _) = prepare();
    done(world.release(None));
    let n_writes = world.sim.writes();
    for n in 1..=n_writes {
        let (world, before) = prepare();
        world.sim.die_at_write(n);
        world
            .sim
            .run_until_death(|| world.release(None))
            .unwrap_err();
        done(world.release(None));
        world.reconcile_until_quiet().unwrap();
        world.end_worker();
        let mut before = before;
        before.retain(|name, _| !name.starts_with("unit "));
        let left = super::world::changes(&before, &world.capture());
        assert!(
            left.is_empty(),
            "died at write {n} of release --all:\n{left}"
        );
    }
}

#[test]
fn a_vm_keeps_what_it_has_when_its_table_and_hookscript_are_removed() {
    Scenario::new("hook and table removed", World::with_vm)
        .start(100)
        .outside(|world| {
            world.sim.vm_conf(100, CONF_WITHOUT_HOOK);
            world
                .sim
                .state()
                .tree
                .remove("/etc/pin-hook/100.toml")
                .unwrap();
        })
        .reconcile()
        .owns(100)
        .outside(|world| world.end_qemu(100))
        .reconcile()
        .at_last(|world| {
            world.sim.vm_conf(100, super::world::CONF);
            world.sim.table(100, "cpus = \"2-3\"\n");
        })
        .play();
}

#[test]
fn a_journal_of_a_newer_version_is_not_thrown_away() {
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    let newer = "{\"version\":3}\n{\"claim-with-more\":{\"vmid\":100}} #1\n".to_owned();
    world.sim.put(JOURNAL, &newer);
    world.sim.take_log();
    for account in [
        world.release(None),
        world.release(Some(100)),
        world.phase(Phase::PostStop, 100),
        world.reconcile(),
    ] {
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        assert_says(
            &account,
            "/run/pin-hook/journal was written by a newer pin-hook",
        );
        assert_says(&account, "install that version again");
    }
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(world.sim.get(JOURNAL), newer);
}

#[test]
fn what_cannot_be_given_back_is_told_with_what_goes_on_with_it() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    world.sim.fail("remove_dir*100.scope/vcpu", libc::EBUSY, 1);
    let account = world.release(Some(100));
    assert_eq!(account.exit, Exit::Incomplete, "{account:#?}");
    assert_says(&account, "vm 100: not everything could be restored");
    assert_says(&account, "pin-hook reconcile tries again");
    world.end_worker();
    world.end_qemu(100);
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
}

#[test]
fn a_watching_unit_that_systemd_did_not_stop_is_stopped_by_the_timer() {
    let world = World::with_vm();
    world.start(100);
    world.end_qemu(100);
    world.sim.fail("stop pin-hook-reconcile.path", libc::EIO, 1);
    let _ = world.phase(Phase::PostStop, 100);
    assert!(world.sim.is_active("pin-hook-reconcile.timer"));
    world.end_worker();
    let _ = world.reconcile();
    for unit in ["pin-hook-reconcile.path", "pin-hook-reconcile.timer"] {
        assert!(!world.sim.is_active(unit), "{unit}");
    }
}
