//! VMs whose pid file was removed by hand: PVE takes them for stopped and would start them again, but
//! what counts is QEMU's process.

use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF_WITHOUT_HOOK, World, assert_says, done};
use crate::common::sim::VmSpec;

const PIDFILE: &str = "/run/qemu-server/100.pid";

fn remove_pidfile(world: &World) {
    world.sim.state().tree.remove(PIDFILE).unwrap();
}

#[test]
fn a_vm_without_its_pid_file_keeps_what_it_owns() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    remove_pidfile(&world);
    let claim = world.claim(100);
    world.reconcile_until_quiet().unwrap();
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "already running, its claim stays as it is");
    done(world.phase(Phase::PostStart, 100));
    done(world.phase(Phase::PostStop, 100));
    world.end_worker();
    done(world.apply(100));
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    assert_eq!(world.claim(100), claim);
    world.assert_owns(100);
    world.end_qemu(100);
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    world.assert_at_rest();
}

#[test]
fn a_vm_without_its_pid_file_is_adopted_and_released() {
    let world = World::lab().vm(100, CONF_WITHOUT_HOOK, "cpus = \"2-3\"\n");
    let before = world.capture();
    world.launch(100, &VmSpec::with_vcpus(2));
    remove_pidfile(&world);
    done(world.apply(100));
    world.end_worker();
    world.assert_owns(100);
    done(world.release(Some(100)));
    world.end_worker();
    world.end_qemu(100);
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    world.assert_at_rest();
}
