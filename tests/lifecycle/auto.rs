//! VMs whose table leaves the choice of CPUs to the program.

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, World, assert_says, done};
use crate::common::sim::VmSpec;

const AUTO: &str = "cpus = \"auto\"\n";
/// A guest with SMT: its two vCPUs are one core.
const SMT: &str = "cores: 2\nmemory: 1024\nhookscript: local:snippets/pin-hook\n\
                   args: -smp 2,cores=1,threads=2\n";

fn cpus_of(world: &World, vmid: u32) -> String {
    world.claim(vmid).unwrap().wishes.cpus.to_string()
}

fn start(world: &World, vmid: u32) {
    world.start(vmid);
    world.assert_owns(vmid);
}

/// A core of the second package: the first one has the boot CPU.
#[test]
fn a_vm_with_auto_owns_cpus_from_its_start_to_its_stop() {
    Scenario::new("auto", || World::lab().vm(100, SMT, AUTO))
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .call("post-start 100", Then::Owned, |world| {
            done(world.phase(Phase::PostStart, 100))
        })
        .outside(World::end_worker)
        .owns(100)
        .check(|world| assert_eq!(cpus_of(world, 100), "4-5"))
        .stop(100)
        .prove();
}

#[test]
fn cpus_that_another_table_names_are_left_alone_also_while_that_vm_is_off() {
    let world = World::lab()
        .vm(100, CONF, AUTO)
        .vm(101, CONF, "cpus = \"4-5\"\n");
    start(&world, 100);
    assert_eq!(cpus_of(&world, 100), "6-7");
    start(&world, 101);
}

#[test]
fn vms_with_auto_do_not_meet_and_a_running_one_stays_where_it_is() {
    let world = World::lab()
        .vm(100, CONF, "cpus = \"6-7\"\n")
        .vm(101, SMT, AUTO)
        .vm(102, SMT, AUTO);
    start(&world, 101);
    assert_eq!(cpus_of(&world, 101), "4-5");
    start(&world, 102);
    assert_eq!(cpus_of(&world, 102), "2-3");
    done(world.phase(Phase::PostStop, 100));
    world.sim.table(100, "cpus = \"1\"\n");
    done(world.apply(101));
    assert_eq!(cpus_of(&world, 101), "4-5");
    world.assert_owns(101);
}

/// At host boot PVE starts several VMs at the same time.
#[test]
fn what_is_reserved_for_a_vm_that_is_being_started_is_taken() {
    let world = World::lab().vm(100, SMT, AUTO).vm(101, SMT, AUTO);
    done(world.phase(Phase::PreStart, 100));
    done(world.phase(Phase::PreStart, 101));
    let both = [100, 101].map(|vmid| cpus_of(&world, vmid));
    assert_eq!(both, ["4-5", "6-7"]);
    done(world.phase(Phase::PreStart, 100));
    assert_eq!(cpus_of(&world, 100), "4-5");
}

#[test]
fn a_vm_with_auto_is_refused_when_there_is_no_room() {
    let world = World::lab()
        .vm(100, CONF, AUTO)
        .vm(101, CONF, "cpus = \"2-7\"\n");
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(&account, "vm 100: 2 vcpus leave too little: ");
    assert_says(
        &account,
        "let others own fewer cpus (vm 101 has 2-7); pin-hook list shows",
    );
    assert_eq!(world.claim_state(100), "none");
}
