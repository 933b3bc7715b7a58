//! Devices that are passed through: their interrupts, and what is known of them.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::Scenario;
use super::world::{World, assert_says, done};
use crate::common::sim::VmSpec;
use crate::common::sim::pci::group_of;

const GPU: &str = "0000:01:00.0";
const CONF: &str = "cores: 2\nmemory: 1024\nhookscript: local:snippets/pin-hook\n\
                    hostpci0: 01:00.0\n";

/// Puts a function that is bound to vfio-pci.
fn put_function(world: &World, address: &str, model: &str) {
    let dir = format!("/sys/devices/pci0000:00/{address}");
    let (vendor, device) = model.split_once(':').unwrap();
    for (name, text) in [
        ("vendor", format!("0x{vendor}\n")),
        ("device", format!("0x{device}\n")),
        ("class", "0x030000\n".to_owned()),
        ("numa_node", "-1\n".to_owned()),
        ("reset_method", "flr bus\n".to_owned()),
    ] {
        world.sim.put(&format!("{dir}/{name}"), &text);
    }
    let mut state = world.sim.state();
    state.tree.put_command(&format!("{dir}/reset"));
    let driver = "../../../bus/pci/drivers/vfio-pci";
    state.tree.put_link(&format!("{dir}/driver"), driver);
    let group = group_of(address);
    state.tree.put_link(&format!("{dir}/iommu_group"), &group);
    let link = format!("/sys/bus/pci/devices/{address}");
    let target = format!("../../../devices/pci0000:00/{address}");
    state.tree.put_link(&link, &target);
}

fn world(irqs: &str) -> World {
    let table = format!("cpus = \"2-3\"\n[pci]\nirqs = \"{irqs}\"\n");
    let world = World::lab().vm(100, CONF, &table);
    put_function(&world, GPU, "10de:2204");
    world
}

fn start(world: &World) {
    world.start_as(100, &VmSpec::with_vcpus(2).device(GPU));
}

fn places(world: &World) -> Vec<String> {
    let state = world.sim.state();
    let irqs = state.irqs.iter().filter(|(number, _)| **number >= 900);
    irqs.map(|(_, irq)| irq.affinity.to_string()).collect()
}

/// The guest loads its driver, which enables three vectors.
fn load_driver(world: &World) {
    for n in 0..3 {
        let action = format!("vfio-msix[{n}]({GPU})");
        world.sim.add_irq(900 + n, &action);
    }
}

#[test]
fn vectors_go_to_the_cpus_of_the_vcpus_and_late_ones_follow() {
    let world = world("vcpus");
    let before = world.capture();
    start(&world);
    load_driver(&world);
    world.reconcile();
    assert_eq!(places(&world), ["2", "3", "2"]);
    world.sim.add_irq(903, &format!("vfio-msix[3]({GPU})"));
    world.sim.add_irq(904, "vfio-msix[0](0000:02:00.0)");
    world.reconcile();
    assert_eq!(places(&world), ["2", "3", "2", "3", "0-1,4-7"]);
    world.reconcile_until_quiet().unwrap();
    (900..905).for_each(|number| world.sim.remove_irq(number));
    world.stop(100);
    world.assert_as(&before);
    world.assert_at_rest();
}

#[test]
fn vectors_that_outlive_the_claim_get_back_what_they_had() {
    let world = world("vcpus");
    start(&world);
    load_driver(&world);
    world.reconcile();
    world.release(Some(100));
    assert_eq!(places(&world), ["0-7", "0-7", "0-7"]);
}

#[test]
fn vectors_may_go_to_the_cpus_of_the_host() {
    let world = world("housekeeping");
    start(&world);
    load_driver(&world);
    world.reconcile();
    assert_eq!(places(&world), ["0-1,4-7"; 3]);
}

/// What PVE took is known by QEMU, not by the configuration, which may have changed meanwhile.
#[test]
fn the_claim_knows_the_devices_that_qemu_has() {
    let world = world("vcpus");
    put_function(&world, "0000:02:00.0", "10de:1b80");
    done(world.phase(Phase::PreStart, 100));
    let devices = |world: &World| {
        let devices = world.claim(100).unwrap().devices.into_iter();
        devices.map(|(a, m)| format!("{a} {m}")).collect::<Vec<_>>()
    };
    assert_eq!(devices(&world), ["0000:01:00.0 10de:2204"]);
    world.launch(100, &VmSpec::with_vcpus(2).device("0000:02:00.0"));
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(devices(&world), ["0000:02:00.0 10de:1b80"]);
}

const FLR: &str = "cpus = \"2-3\"\n[pci]\nreset = \"flr\"\n";

fn flr_world() -> World {
    let world = World::lab().vm(100, CONF, FLR);
    put_function(&world, GPU, "10de:2204");
    world
}

fn file(name: &str) -> String {
    format!("/sys/bus/pci/devices/{GPU}/{name}")
}

#[test]
fn a_device_is_reset_by_flr_alone_and_may_be_reset_by_all_means_afterwards() {
    let world = flr_world();
    let account = world.phase(Phase::PreStart, 100);
    assert_says(&account, "vm 100: hostpci0 (0000:01:00.0) reset (flr)");
    assert_eq!(account.exit, Exit::Done, "{account:#?}");
    assert_eq!(world.sim.get(&file("reset_method")), "flr bus\n");
    let writes = world.writes().join("\n");
    let chosen = writes.find("reset_method flr\n").unwrap();
    let done = writes.find("run pin-hook-write-pci-100").unwrap();
    let given_back = writes.find("reset_method flr bus\n").unwrap();
    assert!(chosen < done && done < given_back, "{writes}");
    let state = world.sim.state();
    let job = state.systemd.jobs.last().unwrap();
    assert_eq!(job.arguments[2..], [file("reset"), "1".to_owned()]);
    drop(state);
    assert_eq!(world.claim_state(100), "reserved");
    assert!(world.claim(100).unwrap().resets.is_empty());
}

#[test]
fn what_the_host_works_with_is_not_reset() {
    let world = flr_world();
    let driver = format!("/sys/devices/pci0000:00/{GPU}/driver");
    world.sim.state().tree.put_link(&driver, "drivers/nvme");
    world.assert_refuses_start("vm 100: cannot reset hostpci0 (0000:01:00.0): host driver nvme");
}

#[test]
fn a_device_of_a_running_vm_is_not_reset() {
    let world = flr_world().vm(101, CONF, "cpus = \"4-5\"\n");
    world.launch(101, &VmSpec::with_vcpus(2).device(GPU));
    world.assert_refuses_start("vm 100: hostpci0 (0000:01:00.0) is in use by vm 101");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let world = World::lab().vm(100, CONF, FLR);
    world.assert_refuses_start("vm 100: hostpci0: there is no pci device 0000:01:00.0");
}

#[test]
fn a_device_that_knows_no_flr_is_named_with_what_it_knows() {
    let world = flr_world();
    world.sim.put(&file("reset_method"), "pm bus\n");
    world.assert_refuses_start("it supports no function level reset, only pm, bus");
}

#[test]
fn a_reset_that_fails_or_hangs_refuses_the_start() {
    let world = flr_world();
    let path = file("reset");
    world.sim.fail(&format!("write {path} 1"), libc::ENOTTY, 1);
    world.assert_refuses_start("): the reset failed: Inappropriate ioctl");
    let world = flr_world();
    world.sim.hang("/reset");
    world.allow(Duration::from_secs(2));
    let account = world.phase(Phase::PreStart, 100);
    assert_says(&account, "pin-hook-write-pci-100.service waits for it");
    assert_eq!(world.claim_state(100), "none");
    assert_eq!(world.sim.get(&file("reset_method")), "flr bus\n");
}

#[test]
fn while_others_are_reset_the_start_is_refused_and_may_be_tried_again() {
    let world = flr_world();
    let lock = "/run/pin-hook/pci.lock";
    world.sim.put(lock, "");
    world.sim.lock_by_other(lock);
    world.assert_refuses_start("): another pin-hook process is working on devices");
    world.sim.unlock_by_other(lock);
    done(world.phase(Phase::PreStart, 100));
}

/// A death at any moment of the reset: the next run has all methods allowed again.
#[test]
fn a_death_in_the_middle_leaves_no_method_behind() {
    let scenario = Scenario::new("a reset by flr", flr_world);
    let scenario = scenario.start_as(100, VmSpec::with_vcpus(2).device(GPU));
    scenario.owns(100).stopped(100).prove();
}
