//! What others have of the host's CPUs, and CPUs that somebody takes away while a VM runs.

use pin_hook::lifecycle::engine::account::Level;
use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done, mask};
use crate::common::sim::{VmSpec, cpus};

/// Case allowedcpus-of-a-sibling: the kernel would answer EINVAL after the promise.
#[test]
fn a_unit_whose_allowed_cpus_would_all_be_owned_is_refused() {
    let world = World::with_vm();
    world.sim.allow_cpus("system.slice", &cpus("2-3"));
    let error = "vm 100: unit system.slice is limited to cpus 2-3, and would have no cpu left";
    world.assert_refuses_start(error);
    let help = "allow it other cpus (systemctl set-property system.slice AllowedCPUs=0-1,4-7), or";
    assert_says(&world.phase(Phase::PreStart, 100), help);
    world.end_worker();
    world.sim.allow_cpus("system.slice", &cpus("3-4"));
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "unit system.slice is configured for cpus 3-4 and will have only cpu 4 of them",
    );
}

/// Case allowedcpus-above: what the slice of all VMs leaves is what a thread's CPUs are compared with.
#[test]
fn what_a_unit_above_a_vm_leaves_of_a_pin_is_told_and_is_enough() {
    let table = "cpus = \"2-3\"\n[pin]\nemulator = \"0-1,6-7\"\n";
    let world = World::lab().vm(100, CONF, table);
    world.sim.allow_cpus("qemu.slice", &cpus("0-5"));
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "pin.emulator of vm 100 is configured for cpus 0-1,6-7, of which unit qemu.slice leaves \
         it cpus 0-1",
    );
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
    world.assert_owns(100);
    let qemu = world.sim.vm(100).pid;
    assert_eq!(mask(&world, qemu), cpus("0-1"));
    let account = done(world.reconcile());
    assert!(account.lines.is_empty(), "{account:#?}");
    world.stop(100);
    world.assert_at_rest();
}

/// Case status-offline-exit-0.
#[test]
fn an_owned_cpu_that_goes_offline_is_told_once_and_heals() {
    let world = World::with_vm();
    world.start(100);
    world.sim.set_online(3, false).unwrap();
    let seen = status(&world.host, None).unwrap();
    assert!(!seen.ok, "{seen:#?}");
    assert_eq!(seen.claims[0].offline, cpus("3"));
    let told = |world: &World| {
        let lines = world.reconcile().lines.into_iter();
        let warnings = lines.filter(|line| line.level == Level::Warning);
        warnings
            .filter(|line| line.text.contains("vm 100: cpu 3 is offline"))
            .count()
    };
    assert_eq!(told(&world), 1);
    assert_eq!(told(&world), 0);
    world.sim.set_online(3, true).unwrap();
    world.reconcile();
    assert!(status(&world.host, None).unwrap().ok);
    world.assert_owns(100);
    world.sim.set_online(3, false).unwrap();
    assert_eq!(told(&world), 1, "it is told of again");
}

/// What is in a partition of somebody else belongs to nobody of the host.
#[test]
fn nothing_is_sent_to_cpus_of_a_foreign_partition() {
    let world = World::with_vm();
    world.foreign_partition("0");
    let irq = "/proc/irq/30/smp_affinity_list";
    world.sim.poke(irq, "2-3").unwrap();
    world.start(100);
    assert_eq!(cpus(&world.sim.get(irq)), cpus("1"));
    world.stop(100);
    world.assert_at_rest();
}
