//! What others do between two steps of a run, and what a run leaves to the next one.

use std::rc::Rc;

use pin_hook::domain::state::State;
use pin_hook::domain::target::Target;
use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::engine::journal::read_state;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done, id};
use crate::common::sim::VmSpec;
use crate::common::sim::task::PF_NO_SETAFFINITY;

const SPOOLED: &str = "/run/pin-hook/spool/100";

fn state(world: &World) -> State {
    read_state(&*world.host.files).unwrap()
}

/// Systemd has not read what was written after it had looked, and who wrote that is dead.
#[test]
fn unit_files_of_a_run_that_died_during_a_reload_are_read_as_well() {
    let world = Rc::new(World::with_two_vms());
    let other = Rc::clone(&world);
    world.sim.meanwhile("=reload", move || {
        let killed = other.sim.run_until_death(|| {
            other.sim.die_at_op("reload");
            other.phase(Phase::PreStart, 101)
        });
        killed.unwrap_err();
    });
    done(world.phase(Phase::PreStart, 100));
    let known = state(&world);
    assert!(known.held.contains_key(&Target::Delegation(id(101))));
    assert!(!known.needs_reload);
    let n_reloads = world.sim.take_log().into_iter().filter(|op| op == "reload");
    // Of three, the other run died before its own took effect.
    assert_eq!(n_reloads.count(), 3);
}

#[test]
fn a_claim_that_is_let_go_of_before_it_is_promoted_stays_so() {
    let world = Rc::new(World::with_vm());
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    let other = Rc::clone(&world);
    world.sim.meanwhile("=run_state 100", move || {
        done(other.release(Some(100)));
    });
    done(world.phase(Phase::PostStart, 100));
    assert!(state(&world).claims.is_empty());
}

/// The kernel binds some of its threads only after their birth.
#[test]
fn only_a_kernel_thread_that_is_bound_counts_as_one_that_cannot_be_moved() {
    for is_bound in [true, false] {
        let world = Rc::new(World::with_vm());
        let tid = world.sim.find_task("khungtaskd").tid;
        let is_marked = || {
            let state = state(&world);
            let mut held = state.held.iter();
            held.any(|(target, held)| {
                matches!(target, Target::KernelThread(thread) if thread.tid == tid)
                    && held.unchangeable
            })
        };
        match is_bound {
            true => {
                let other = Rc::clone(&world);
                world.sim.meanwhile("write*cpuset.cpus.partition", move || {
                    let mut state = other.sim.state();
                    state.tasks.get_mut(tid).unwrap().flags |= PF_NO_SETAFFINITY;
                });
            }
            // None of its CPUs is left: a partition or hotplug was faster.
            false => world
                .sim
                .fail(&format!("set_affinity {tid} "), libc::EINVAL, 1),
        }
        world.start(100);
        assert_eq!(is_marked(), is_bound);
    }
}

/// A VM without a claim has nothing else that would give it its CPUs.
#[test]
fn a_wish_that_was_left_survives_the_run_that_dies_over_it() {
    let world = World::with_vm();
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.put(SPOOLED, "");
    let mut n_deaths = 0;
    for n in 1.. {
        let world = world.fork();
        world.sim.die_at_write(n);
        match world.sim.run_until_death(|| world.reconcile()) {
            Ok(_) => break,
            Err(_) => n_deaths += 1,
        }
        world.reconcile_until_quiet().unwrap();
        world.assert_owns(100);
        assert!(!world.host.files.exists(SPOOLED));
    }
    assert!(n_deaths > 20, "{n_deaths}");
}

#[test]
fn a_release_tells_what_came_of_the_wishes_that_were_left() {
    let world = World::with_vm().vm(101, CONF, "cpus = \"3-4\"\n");
    world.start(101);
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.put(SPOOLED, "");
    let account = done(world.release(None));
    assert_says(&account, "vm 100: cpu");
    assert_says(&account, "everything released");
    assert_eq!(account.exit, Exit::Done);
}
