//! Devices that are bound to vfio-pci before PVE does it, and go back to the driver that they had.

use std::time::Duration;

use pin_hook::domain::table::AfterStop;
use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{World, assert_says, done};
use crate::common::sim::fate::End;
use crate::common::sim::hugepages::Room;
use crate::common::sim::{Kernel, Machine, VmSpec};

const GPU: &str = "0000:01:00.0";
const SOUND: &str = "0000:01:00.1";
const CONF: &str = "cores: 2\nmemory: 1024\nhookscript: local:snippets/pin-hook\n\
                    hostpci0: 01:00.0\n";
const RESERVATIONS: &str = "/run/qemu-server/pci-id-reservations";

/// A host whose drivers have a display and the sound that shares its IOMMU group.
fn world_of(bind: &str) -> World {
    let machine = Machine {
        kernel: Kernel::V7_3,
        ..Machine::default()
    };
    let table = format!("cpus = \"2-3\"\n[pci]\n{bind}\n");
    let world = World::of(&machine).vm(100, CONF, &table);
    for (address, model, driver) in [
        (GPU, "10de:2204", "nouveau"),
        (SOUND, "10de:1aef", "snd_hda_intel"),
    ] {
        world.sim.put_removable(address, model);
        world.sim.give_to(address, driver);
        let link = format!("/sys/devices/pci0000:00/{address}/iommu_group");
        let group = "../../../kernel/iommu_groups/7";
        world.sim.state().tree.put_link(&link, group);
    }
    // Locks stay until the next boot.
    for lock in ["/run/pin-hook/pci.lock", &format!("{RESERVATIONS}.lock")] {
        world.sim.put(lock, "");
    }
    world
}

pub fn returning() -> World {
    world_of("bind = { hostpci0 = \"return\" }")
}

fn staying() -> World {
    world_of("bind = { \"*\" = \"stay\" }")
}

fn driver_of(world: &World, address: &str) -> String {
    let link = format!("/sys/devices/pci0000:00/{address}/driver");
    let link = world.sim.state().tree.link(&link).unwrap_or_default();
    link.rsplit('/').next().unwrap_or_default().to_owned()
}

#[track_caller]
pub fn assert_drivers(world: &World, gpu: &str, sound: &str) {
    let found = [GPU, SOUND].map(|address| driver_of(world, address));
    assert_eq!(found, [gpu, sound]);
}

fn spec() -> VmSpec {
    VmSpec::with_vcpus(2).device(GPU)
}

/// PVE starts the VM.
pub fn start(world: &World) {
    world.start_as(100, &spec());
}

/// The same from the end of pre-start on.
fn launch(world: &World) {
    world.launch(100, &spec());
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
}

fn file(address: &str, name: &str) -> String {
    format!("/sys/bus/pci/devices/{address}/{name}")
}

#[test]
fn devices_are_bound_for_the_run_and_go_back_after_it() {
    let world = returning();
    let before = world.capture();
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "hostpci0 (0000:01:00.0) bound to vfio-pci, taken from nouveau, and back to nouveau after \
         the stop",
    );
    assert_says(
        &account,
        "hostpci0 (0000:01:00.1) bound to vfio-pci, taken from snd_hda_intel",
    );
    assert_drivers(&world, "vfio-pci", "vfio-pci");
    // Until QEMU has it nobody else may.
    assert_eq!(world.sim.get(&file(GPU, "driver_override")), "vfio-pci\n");
    world.launch(100, &spec());
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(world.sim.get(&file(GPU, "driver_override")), "(null)\n");
    world.end_worker();
    done(world.reconcile());
    assert_drivers(&world, "vfio-pci", "vfio-pci");
    world.end_qemu(100);
    let account = done(world.phase(Phase::PostStop, 100));
    assert_says(
        &account,
        "0000:01:00.0 returns to driver nouveau once no vm uses it",
    );
    world.end_worker();
    done(world.reconcile());
    let account = done(world.reconcile());
    assert_says(&account, "0000:01:00.0 is back with driver nouveau");
    assert_says(&account, "0000:01:00.1 is back with driver snd_hda_intel");
    world.assert_as(&before);
    world.assert_at_rest();
}

#[test]
fn a_death_anywhere_leaves_nothing_behind() {
    let scenario = Scenario::new("devices that go back", returning);
    let scenario = scenario.start_as(100, spec()).owns(100);
    let scenario = scenario.outside(|world| world.end_qemu(100));
    let scenario = scenario.call("post-stop 100", Then::AtRest, |world| {
        done(world.phase(Phase::PostStop, 100))
    });
    let scenario = scenario.outside(World::end_worker);
    let reconcile = |world: &World| done(world.reconcile());
    let scenario = scenario.call("reconcile", Then::AtRest, reconcile);
    scenario.call("reconcile", Then::AtRest, reconcile).prove();
}

/// What stays is remembered until QEMU has it, so that a start which comes to nothing changes nothing.
/// As a virtual function does when its physical one is told to have none.
#[test]
fn a_device_that_vanishes_while_it_goes_back_is_forgotten() {
    let lent = returning();
    start(&lent);
    lent.end_qemu(100);
    let end = |world: &World| {
        done(world.phase(Phase::PostStop, 100));
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        assert_eq!(driver_of(world, SOUND), "snd_hda_intel");
        world.assert_at_rest();
    };
    let without = lent.fork();
    without.sim.end(End::Function(GPU));
    end(&without);
    let without = without.capture();
    for n in (1..).step_by(5) {
        let world = lent.fork();
        world.sim.end_at(n, End::Function(GPU));
        end(&world);
        if world.sim.call_end_off() {
            assert!(n > 100, "only {n} operations");
            break;
        }
        let left = super::world::changes(&without, &world.capture());
        assert!(left.is_empty(), "before {n}:\n{left}");
    }
}

#[test]
fn devices_that_stay_are_given_back_only_while_nothing_has_started() {
    let world = staying();
    let before = world.capture();
    done(world.phase(Phase::PreStart, 100));
    assert_drivers(&world, "vfio-pci", "vfio-pci");
    let started = world.fork();
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    world.assert_at_rest();
    launch(&started);
    started.stop(100);
    started.reconcile_until_quiet().unwrap();
    assert_drivers(&started, "vfio-pci", "vfio-pci");
    started.assert_at_rest();
}

#[test]
fn a_start_that_dies_before_devices_stay_changes_nothing() {
    let start = staying().capture();
    for n in 1.. {
        let world = staying();
        world.sim.die_at_write(n);
        let life = world
            .sim
            .run_until_death(|| world.phase(Phase::PreStart, 100));
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        let left = super::world::changes(&start, &world.capture());
        assert!(left.is_empty(), "died at write {n}:\n{left}");
        world.assert_at_rest();
        if life.is_ok() {
            assert!(n > 10, "only {n} writes");
            break;
        }
    }
}

/// A child that is killed after any of its writes.
#[test]
fn a_child_that_dies_leaves_nothing_behind() {
    for n in 0..2 {
        let world = returning();
        let before = world.capture();
        world.sim.kill_child_after(n);
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        world.assert_as(&before);
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        world.assert_as(&before);
        world.assert_at_rest();
    }
}

/// A driver that does not let go keeps its device; what the kernel does later is put right.
#[test]
fn a_driver_that_does_not_let_go_refuses_the_start() {
    let world = returning();
    let before = world.capture();
    world.sim.hang("/unbind");
    world.allow(Duration::from_secs(3));
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(
        &account,
        "cannot bind hostpci0 (0000:01:00.0) to vfio-pci: the kernel does not respond, \
         pin-hook-write-driver-0000-01-00.0.service waits for it",
    );
    world.end_worker();
    // It is PVE's next try.
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(
        &account,
        "stop whatever uses the device (fuser -v /dev/dri/*",
    );
    world.end_worker();
    world.reconcile();
    world.reconcile();
    assert_drivers(&world, "", "snd_hda_intel");
    assert!(
        world.sim.get("/run/pin-hook/journal").contains("nouveau"),
        "what it had is remembered as long as the kernel is at it"
    );
    world.sim.unhang();
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    world.assert_at_rest();
}

#[test]
fn a_reset_comes_after_the_binding() {
    let world = world_of("bind = { hostpci0 = \"return\" }\nreset = \"remove-rescan\"");
    let before = world.capture();
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "hostpci0 (0000:01:00.0) reset (remove-rescan)");
    launch(&world);
    assert_drivers(&world, "vfio-pci", "vfio-pci");
    world.stop(100);
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
}

#[test]
fn a_device_stays_as_long_as_any_vm_has_it() {
    let world = returning();
    let before = world.capture();
    start(&world);
    let account = world.release(Some(100));
    assert_eq!(account.exit, Exit::Done, "{account:#?}");
    let lent = status(&world.host, None).unwrap().lent;
    let lent: Vec<_> = lent.iter().map(|one| one.driver.as_str()).collect();
    assert_eq!(lent, ["nouveau", "snd_hda_intel"]);
    world.reconcile_until_quiet().unwrap();
    assert_drivers(&world, "vfio-pci", "vfio-pci");
    world.end_qemu(100);
    // PVE has reserved it for another VM, which has no table.
    world
        .sim
        .put(RESERVATIONS, &format!("{GPU} 101 time:99999999999\n"));
    done(world.phase(Phase::PostStop, 100));
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    assert_drivers(&world, "vfio-pci", "vfio-pci");
    world.sim.state().tree.remove_all(RESERVATIONS);
    // As long as somebody works on the list nobody is taken anything away.
    done(world.reconcile());
    world.sim.lock_by_other(&format!("{RESERVATIONS}.lock"));
    for _ in 0..3 {
        world.reconcile();
    }
    let account = world.reconcile();
    assert_says(
        &account,
        "another process holds /run/qemu-server/pci-id-reservations.lock",
    );
    assert_drivers(&world, "vfio-pci", "vfio-pci");
    world.sim.unlock_by_other(&format!("{RESERVATIONS}.lock"));
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    world.assert_at_rest();
}

/// The second half of a reboot by PVE, or whoever starts the VM again right after its stop.
#[test]
fn a_start_right_after_the_stop_takes_the_devices_over() {
    let world = returning();
    let before = world.capture();
    for n in 0..3 {
        done(world.phase(Phase::PreStart, 100));
        if n > 0 {
            let said = status(&world.host, None).unwrap().lent;
            assert_eq!(said.len(), 2, "they still go back: {said:?}");
        }
        launch(&world);
        world.reconcile_until_quiet().unwrap();
        world.stop(100);
        // The units are woken by the end of QEMU.
        world.reconcile();
        assert_drivers(&world, "vfio-pci", "vfio-pci");
    }
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    world.assert_at_rest();
}

/// What PVE has left with vfio-pci before has nowhere to go.
#[test]
fn a_device_that_had_no_driver_of_the_host_stays_and_that_is_said() {
    let world = returning();
    world.sim.give_to(GPU, "vfio-pci");
    let said =
        "hostpci0 (0000:01:00.0) stays with vfio-pci after the stop, because it is bound to that";
    assert!(world.plan(100).warnings.join("\n").contains(said));
    assert_says(&done(world.phase(Phase::PreStart, 100)), said);
    launch(&world);
    world.stop(100);
    world.reconcile_until_quiet().unwrap();
    assert_drivers(&world, "vfio-pci", "snd_hda_intel");
    world.assert_at_rest();
}

/// Each function follows its own entry, also where another one shares its IOMMU group.
#[test]
fn entries_of_one_group_are_told_apart() {
    for bind in [
        "bind = { hostpci0 = \"return\", hostpci1 = \"stay\" }",
        "bind = { hostpci0 = \"return\", \"*\" = \"stay\" }",
    ] {
        let world = world_of(bind);
        let conf = format!("{CONF}hostpci1: 01:00.1\n");
        world.sim.put("/etc/pve/qemu-server/100.conf", &conf);
        done(world.phase(Phase::PreStart, 100));
        let bindings = world.claim(100).unwrap().bindings;
        let after: Vec<_> = bindings.into_values().collect();
        assert_eq!(after, [AfterStop::Return, AfterStop::Stay], "{bind}");
    }
}

#[test]
fn a_driver_that_refuses_is_asked_three_times() {
    let world = returning();
    start(&world);
    world.end_qemu(100);
    world.sim.state().pci.refuses = true;
    done(world.phase(Phase::PostStop, 100));
    world.end_worker();
    done(world.reconcile());
    for _ in 0..2 {
        let account = done(world.reconcile());
        assert_says(&account, "cannot return 0000:01:00.0 to driver nouveau");
    }
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Incomplete, "{account:#?}");
    assert_says(&account, "it is left as it is");
    assert_says(
        &account,
        "then modprobe $(cat /sys/bus/pci/devices/0000:01:00.0/modalias) and echo 0000:01:00.0 > \
         /sys/bus/pci/drivers/nouveau/bind",
    );
    world.reconcile_until_quiet().unwrap();
    world.assert_at_rest();
}

#[test]
fn what_somebody_has_bound_meanwhile_is_left() {
    let world = returning();
    start(&world);
    world.end_qemu(100);
    world.sim.give_to(GPU, "nvidia");
    done(world.phase(Phase::PostStop, 100));
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    assert_drivers(&world, "nvidia", "snd_hda_intel");
    world.assert_at_rest();
}

#[test]
fn what_must_not_be_bound_refuses_the_start() {
    let world = returning();
    world.sim.put(&file(SOUND, "class"), "0x010601\n");
    world.assert_refuses_start(
        "cannot bind hostpci0 (0000:01:00.1) to vfio-pci: it is a disk controller, and once it is \
         back the host's lvm, md or zfs would take the disks of the vm",
    );
    world.assert_refuses_start("write hostpci0 = \"stay\" in pci.bind");
    let virtual_function = format!("/sys/devices/pci0000:00/{GPU}/virtfn0");
    let world = staying();
    let mut state = world.sim.state();
    state.tree.put_link(&virtual_function, "../0000:01:10.0");
    drop(state);
    world.assert_refuses_start("it has virtual functions (1), which go with its driver");
    let world = world_of("bind = { hostpci3 = \"stay\" }");
    world.assert_refuses_start("cannot bind hostpci3 to vfio-pci: the vm has no such device");
    let world = staying();
    world.sim.lock_by_other("/run/pin-hook/pci.lock");
    world.assert_refuses_start("another pin-hook process is working on devices");
    assert_drivers(&world, "nouveau", "snd_hda_intel");
    let entry = CONF.replace("01:00.0", "01:00.0,driver=keep");
    for (bind, refused) in [("hostpci0", true), ("\"*\"", false)] {
        let table = format!("cpus = \"2-3\"\n[pci]\nbind = {{ {bind} = \"stay\" }}\n");
        let world = World::of(&Machine::default()).vm(100, &entry, &table);
        world.sim.put_removable(GPU, "10de:2204");
        world.sim.give_to(GPU, "nouveau");
        match refused {
            true => world.assert_refuses_start("it stays with its driver (mdev, or driver=keep)"),
            false => drop(done(world.phase(Phase::PreStart, 100))),
        }
        assert_eq!(driver_of(&world, GPU), "nouveau");
    }
}

/// What is refused after the devices were bound gives them back at once as well.
#[test]
fn a_start_without_memory_gives_the_devices_back() {
    let world = world_of(
        "bind = { hostpci0 = \"stay\" }\n[memory]\nhugepages = { compact = true, timeout = \"3s\" }",
    );
    let conf = CONF.replace("memory: 1024", "memory: 128\nnuma: 1\nhugepages: 2");
    world.sim.put("/etc/pve/qemu-server/100.conf", &conf);
    let room = Room {
        found: 10,
        ..Room::default()
    };
    world.sim.room(0, room);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, "hostpci0 (0000:01:00.0) bound to vfio-pci");
    assert_says(&account, "of the 64 hugepages of 2 MiB");
    assert_drivers(&world, "nouveau", "snd_hda_intel");
    assert_eq!(world.claim_state(100), "none");
}

/// The driver for VMs is loaded by a unit, as PVE would load it.
#[test]
fn a_driver_for_vms_that_is_not_loaded_is_loaded() {
    let world = returning();
    world
        .sim
        .state()
        .tree
        .remove_all("/sys/bus/pci/drivers/vfio-pci");
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, "modprobe vfio-pci did not load it");
    assert_says(&account, "modprobe -v vfio-pci shows why");
    let state = world.sim.state();
    let job = state.systemd.jobs.last().unwrap();
    let words = [vec![job.path.clone()], job.arguments.clone()].concat();
    assert_eq!(words, ["/sbin/modprobe", "vfio-pci"]);
    drop(state);
    assert_drivers(&world, "nouveau", "snd_hda_intel");
}

#[test]
fn a_plan_says_what_is_bound() {
    let plan = returning().plan(100);
    let said = plan.notices.join("\n");
    let expected = "hostpci0 (0000:01:00.0) is bound to vfio-pci before the start, taken from \
                    nouveau, and back to nouveau after the stop";
    assert!(said.contains(expected), "{said}");
    assert!(!said.contains("at boot"), "{said}");
    let said = staying().plan(100).notices.join("\n");
    let expected = "hostpci0 (0000:01:00.0): if the host never needs it, have vfio-pci take it before \
                    nouveau at boot (options vfio-pci ids=10de:2204 and softdep nouveau pre: vfio-pci";
    assert!(said.contains(expected), "{said}");
}
