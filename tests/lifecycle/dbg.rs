use super::scenario::done;
use super::world::*;
use crate::common::sim::*;
use pin_hook::lifecycle::phase::Phase;
#[test]
fn dbg_adopt() {
    let world = World::lab().vm(100, CONF_WITHOUT_HOOK, "cpus = \"2-3\"\n");
    world.launch(100, &VmSpec::with_vcpus(2));
    let a = world.apply(100);
    println!("{a:#?}\n{:#?}", world.sim.take_log());
}
#[test]
fn dbg_late() {
    let world = World::of(&Machine {
        kernel: Kernel(7, 3),
        ..Machine::default()
    })
    .vm(100, CONF, "cpus = \"2-3\"\n");
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world.sim.first_kvm_run(100);
    world.sim.take_log();
    let a = world.release(Some(100));
    println!("{a:#?}\n{:#?}", world.sim.take_log());
}
