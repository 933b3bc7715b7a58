//! A measurement leaves nothing on the host, whenever it dies.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::Account;
use pin_hook::lifecycle::measuring::run::{Extent, measure};
use pin_hook::lifecycle::measuring::subject::MeasureOf;

use super::scenario::{Scenario, Then};
use super::world::{CONF, World, id};
use crate::common::sim::cpus;

const INSTANCE: &str = "/sys/kernel/tracing/instances/pin-hook";

/// The lab's node with a tracer.
fn traced() -> World {
    let world = World::lab();
    world.sim.put_tracer();
    world
}

fn measured(world: &World, what: &MeasureOf) -> Account {
    let extent = Extent {
        duration: Duration::from_secs(1),
        stop_over: None,
    };
    let measurement = measure(&world.host, what, extent, &|_| ()).unwrap();
    assert!(measurement.duration_ns >= 1_000_000_000, "{measurement:?}");
    Account::default()
}

#[test]
fn nothing_is_left_of_a_measurement_of_cpus() {
    let what = MeasureOf::Cpus(cpus("6-7"));
    Scenario::new("measure cpus", traced)
        .call("measure", Then::Undone, move |world| measured(world, &what))
        .prove();
}

#[test]
fn nothing_is_left_of_a_measurement_of_a_vm_that_keeps_its_cpus() {
    let world = || traced().vm(100, CONF, "cpus = \"2-3\"\n");
    let what = MeasureOf::Vm(id(100));
    Scenario::new("measure a vm", world)
        .start(100)
        .known()
        .call("measure", Then::Undone, move |world| measured(world, &what))
        .check(|world| world.assert_owns(100))
        .stopped(100)
        .prove();
}

#[test]
fn the_next_measurement_removes_what_is_left_of_one_that_died() {
    let world = traced();
    let what = MeasureOf::Cpus(cpus("6"));
    let before = world.capture();
    world
        .sim
        .die_at_op(&format!("write {INSTANCE}/tracing_on 1"));
    let died = world.sim.run_until_death(|| measured(&world, &what));
    died.expect_err("the program to die");
    assert_ne!(world.capture(), before, "it had begun");
    measured(&world, &what);
    world.assert_as(&before);
}
