//! Devices that are removed and found again: nobody of the host takes them meanwhile, and whatever
//! happens they are back.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{World, assert_says, done};
use crate::common::sim::pci::Comeback;
use crate::common::sim::{Kernel, Machine, VmSpec};

const GPU: &str = "0000:01:00.0";
const CONF: &str = "cores: 2\nmemory: 1024\nhookscript: local:snippets/pin-hook\n\
                    hostpci0: 01:00.0\n";
const AUTOPROBE: &str = "/sys/bus/pci/drivers_autoprobe";

/// A host with a device that vfio-pci has, and a loaded driver that would like to have it.
fn world_of(kernel: Kernel, way: &str) -> World {
    let machine = Machine {
        kernel,
        ..Machine::default()
    };
    let table = format!("cpus = \"2-3\"\n[pci]\nreset = \"{way}\"\n");
    let world = World::of(&machine).vm(100, CONF, &table);
    world.sim.put_removable(GPU, "10de:2204");
    world.sim.give_to(GPU, "vfio-pci");
    world.sim.poke(&file("power/control"), "auto").unwrap();
    world.sim.poke(&file("d3cold_allowed"), "0").unwrap();
    world.sim.load_driver("nouveau");
    // A lock of the program stays until the next boot.
    world.sim.put("/run/pin-hook/pci.lock", "");
    world
}

fn world() -> World {
    world_of(Kernel::V7_3, "remove-rescan")
}

fn file(name: &str) -> String {
    format!("/sys/bus/pci/devices/{GPU}/{name}")
}

fn spec() -> VmSpec {
    VmSpec::with_vcpus(2).device(GPU)
}

#[track_caller]
fn assert_not_taken(world: &World) {
    let taken = world.sim.state().pci.taken.clone();
    assert!(taken.is_empty(), "the host has taken {taken:?}");
}

#[test]
fn a_device_is_removed_and_comes_back_as_it_was() {
    let world = world();
    let before = world.capture();
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Done, "{account:#?}");
    assert_says(&account, "hostpci0 (0000:01:00.0) reset (remove-rescan)");
    let writes = world.writes().join("\n");
    let place = |op: &str| writes.find(op).unwrap_or_else(|| panic!("{op}: {writes}"));
    let closed = place(&format!("write {AUTOPROBE} 0"));
    let kept = place(&format!("write {} vfio-pci", file("driver_override")));
    let child = place("run pin-hook-write-pci-100");
    let open = place(&format!("write {AUTOPROBE} 1"));
    assert!(closed < child && kept < child && child < open, "{writes}");
    let state = world.sim.state();
    let job = state.systemd.jobs.last().unwrap().arguments[2..].to_vec();
    drop(state);
    let pairs = job.chunks(2).map(|pair| pair.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        pairs,
        [
            format!("{} 1", file("remove")),
            "/sys/class/pci_bus/0000:01/rescan 1".to_owned(),
            format!("{} vfio-pci", file("driver_override")),
            format!("/sys/bus/pci/drivers/vfio-pci/bind {GPU}"),
            format!("{} 0", file("d3cold_allowed")),
            format!("{} auto", file("power/control")),
            format!("{} pm bus", file("reset_method")),
        ]
    );
    // Until PVE has bound it, no driver of the host may.
    assert_eq!(world.sim.get(&file("driver_override")), "vfio-pci\n");
    world.launch(100, &spec());
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(world.sim.get(&file("driver_override")), "(null)\n");
    world.end_worker();
    world.stop(100);
    world.assert_as(&before);
    world.assert_at_rest();
    assert_not_taken(&world);
}

/// A driver that udev loads because of the device comes when drivers are probed for again.
#[test]
fn a_driver_that_comes_late_does_not_take_it() {
    let world = world();
    world
        .sim
        .state()
        .tree
        .remove_all(&file("driver").replace("bus/pci/devices", "devices/pci0000:00"));
    done(world.phase(Phase::PreStart, 100));
    world.sim.load_driver("nouveau");
    assert_not_taken(&world);
}

/// A death at any moment: the next run brings the device back, and drivers are probed for again.
#[test]
fn a_death_in_the_middle_is_finished_by_the_units() {
    let scenario = Scenario::new("a device that is removed and found again", world);
    let scenario = scenario.start_as(100, spec()).at_last(assert_not_taken);
    scenario.owns(100).stopped(100).prove();
}

/// The same of one that had no driver, and of a run that comes to finish it.
#[test]
fn a_death_of_the_run_that_finishes_is_finished_as_well() {
    let died = || {
        let world = world();
        let dir = file("driver").replace("bus/pci/devices", "devices/pci0000:00");
        world.sim.state().tree.remove_all(&dir);
        world
    };
    let start = died().capture();
    let begun = move || {
        let world = died();
        die_while_away(&world);
        world
    };
    let mut n_ops = 0;
    for n in 1.. {
        let world = begun();
        world.sim.take_log();
        world.sim.die_at_write(n);
        let life = world.sim.run_until_death(|| world.reconcile());
        let is_over = life.is_ok();
        world.reconcile_until_quiet().unwrap();
        let left = super::world::changes(&start, &world.capture());
        assert!(left.is_empty(), "died at write {n}:\n{left}");
        assert_not_taken(&world);
        if is_over {
            break;
        }
        n_ops = n;
    }
    assert!(n_ops > 5, "only {n_ops} writes");
}

/// A child that is killed after any of its writes, its run alive or not.
#[test]
fn a_child_that_dies_leaves_nothing_behind() {
    for n in 0..7 {
        for is_run_killed in [false, true] {
            let world = world();
            let before = world.capture();
            world.sim.kill_child_after(n);
            if is_run_killed {
                world.sim.die_at_op("remove /run/pin-hook/jobs/pci-100");
            }
            let life = world
                .sim
                .run_until_death(|| world.phase(Phase::PreStart, 100));
            assert_eq!(life.is_err(), is_run_killed, "{life:?}");
            if let Ok(account) = life {
                // What was removed is brought back in the same run; PVE does the rest.
                let is_begun = account.exit == Exit::Done;
                assert_eq!(is_begun, n > 0, "{n}: {account:#?}");
            }
            world.end_worker();
            world.reconcile_until_quiet().unwrap();
            world.assert_as(&before);
            assert_not_taken(&world);
            assert_eq!(world.claim_state(100), "none");
        }
    }
}

#[test]
fn a_device_that_does_not_come_back_is_named_within_the_deadline() {
    let world = world();
    world.sim.comeback(Comeback::Never);
    world.allow(Duration::from_secs(4));
    let begin = world.sim.state().since_boot;
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(
        &account,
        "cannot reset hostpci0 (0000:01:00.0): it (10de:2204) was removed and has not reappeared",
    );
    assert_says(&account, "echo 1 > /sys/class/pci_bus/0000:01/rescan");
    assert!(world.sim.state().since_boot - begin < Duration::from_secs(4));
    // Whatever appears now is not for drivers of the host.
    assert_eq!(world.sim.get(AUTOPROBE), "0\n");
    world.end_worker();
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Incomplete, "{account:#?}");
    assert_says(
        &account,
        "0000:01:00.0 (10de:2204) was removed and has not reappeared",
    );
    assert_eq!(world.sim.get(AUTOPROBE), "1\n");
    assert_eq!(world.claim_state(100), "none");
}

#[test]
fn a_device_may_need_another_rescan() {
    let world = world();
    world.sim.comeback(Comeback::After(3));
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Done, "{account:#?}");
    assert_eq!(world.claim_state(100), "reserved");
    assert_eq!(world.sim.get(AUTOPROBE), "1\n");
    assert_not_taken(&world);
}

#[test]
fn another_device_than_was_removed_refuses_the_start() {
    let world = world();
    world.sim.comeback(Comeback::As("2206".to_owned()));
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(
        &account,
        "it was 10de:2204 a moment ago and is 10de:2206 now",
    );
    assert_eq!(world.sim.get(AUTOPROBE), "1\n");
    assert_eq!(world.claim_state(100), "none");
    assert_not_taken(&world);
}

#[test]
fn a_rescan_that_hangs_keeps_drivers_off_until_it_is_over() {
    let world = world();
    let before = world.capture();
    world.sim.hang("/rescan");
    world.allow(Duration::from_secs(2));
    let account = world.phase(Phase::PreStart, 100);
    assert_says(&account, "pin-hook-write-pci-100.service waits for it");
    world.end_worker();
    // Neither another VM's phase nor reconcile lets drivers at what may appear any moment.
    world.phase(Phase::PostStop, 101);
    world.reconcile();
    assert_eq!(world.sim.get(AUTOPROBE), "0\n");
    let account = world.release(Some(100));
    assert_eq!(account.exit, Exit::Incomplete, "{account:#?}");
    assert_eq!(world.sim.get(AUTOPROBE), "0\n");
    world.sim.unhang();
    world.end_worker();
    world.allow(Duration::from_secs(9));
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    assert_not_taken(&world);
}

/// Starts the VM; run and child are killed when the function has just been removed.
fn die_while_away(world: &World) {
    world.sim.kill_child_after(1);
    world.sim.die_at_op("remove /run/pin-hook/jobs/pci-100");
    let life = world
        .sim
        .run_until_death(|| world.phase(Phase::PreStart, 100));
    life.expect_err("the program to die");
    world.end_worker();
}

/// A kernel that gives a function to whoever is there, and modules that `depmod` knows.
fn old_world(modules: &str) -> World {
    let world = world_of(Kernel::V6_12, "remove-rescan");
    world
        .sim
        .put("/lib/modules/6.12.117-1-pve/modules.alias", modules);
    world
        .sim
        .put("/lib/modules/6.12.117-1-pve/modules.builtin.modinfo", "");
    world
}

const NOUVEAU: &str = "# Aliases\nalias pci:v000010DEd*sv*sd*bc03sc*i* nvidia\n\
                       alias pci:v000010ded*sv*sd*bc03sc*i* nouveau\n";

#[test]
fn a_kernel_that_asks_nobody_needs_a_host_without_a_driver_for_it() {
    let world = old_world(NOUVEAU);
    world.assert_refuses_start(
        "nouveau on the host would be loaded and grab it when it reappears, and nothing prevents \
         that before linux 6.19",
    );
    let registered = "/sys/module/nouveau/drivers/pci:nouveau";
    world.sim.put(registered, "");
    world
        .sim
        .put("/etc/modprobe.d/gpu.conf", "blacklist nouveau\n");
    world.assert_refuses_start("nouveau on the host, which is loaded, would grab it");
    world.sim.state().tree.remove_all("/sys/module/nouveau");
    world.sim.state().pci = Default::default();
    done(world.phase(Phase::PreStart, 100));
    assert_eq!(world.sim.get(AUTOPROBE), "1\n");
    assert_not_taken(&world);
}

#[test]
fn a_host_whose_modules_are_unknown_is_refused_there() {
    let world = world_of(Kernel::V6_12, "remove-rescan");
    world.assert_refuses_start("cannot tell which drivers would grab it then: /lib/modules");
}

#[test]
fn auto_prefers_what_reaches_one_function_alone() {
    let world = world_of(Kernel::V7_3, "auto");
    let account = world.phase(Phase::PreStart, 100);
    assert_says(
        &account,
        "reset (remove-rescan: it supports no function level reset, only pm, bus)",
    );
    let world = world_of(Kernel::V7_3, "auto");
    world.sim.poke(&file("reset_method"), "flr bus").unwrap();
    let account = world.phase(Phase::PreStart, 100);
    assert_says(
        &account,
        "reset (flr: it reaches this function and nothing else)",
    );
    let world = world_of(Kernel::V7_3, "auto");
    let dir = format!("/sys/devices/pci0000:00/{GPU}");
    let physical = format!("{dir}/physfn");
    world
        .sim
        .state()
        .tree
        .put_link(&physical, "../0000:01:00.1");
    world.assert_refuses_start(
        "only pm, bus, and it is a virtual function, which only 0000:01:00.1 can create",
    );
}

/// What starts at host boot starts although it is refused; its device comes back all the same.
#[test]
fn a_start_that_goes_on_gets_its_device_back() {
    let world = world();
    let table =
        "cpus = \"2-3\"\n[pci]\nreset = \"remove-rescan\"\n[start]\non-refusal = \"warn\"\n";
    world.sim.table(100, table);
    world.sim.kill_child_after(1);
    world.start_as(100, &spec());
    world.reconcile_until_quiet().unwrap();
    assert_eq!(world.sim.get(AUTOPROBE), "1\n");
    assert_eq!(world.sim.get(&file("driver_override")), "(null)\n");
    assert_not_taken(&world);
    world.assert_owns(100);
}

/// A run that was killed, and its child with it; PVE starts the VM again before the units look.
#[test]
fn a_second_start_brings_back_what_the_first_has_removed() {
    let world = world();
    let before = world.capture();
    die_while_away(&world);
    let account = world.phase(Phase::PreStart, 100);
    assert_says(&account, "0000:01:00.0 (10de:2204) is back");
    assert_says(&account, "hostpci0 (0000:01:00.0) reset (remove-rescan)");
    assert_eq!(account.exit, Exit::Done, "{account:#?}");
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
    assert_not_taken(&world);
}

/// The same while the kernel is still at it.
#[test]
fn a_second_start_waits_for_the_first() {
    let world = world();
    world.sim.hang("/rescan");
    world.allow(Duration::from_secs(2));
    world.phase(Phase::PreStart, 100);
    world.end_worker();
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, "an earlier start has not brought it back");
    assert_eq!(world.sim.get(AUTOPROBE), "0\n");
}

/// PVE gives the start up afterwards.
#[test]
fn a_start_that_is_given_up_gives_back_what_keeps_drivers_off() {
    let scenario = Scenario::new("a start that fails after the reset", world);
    let scenario = scenario.pre_start_or(100, Then::Undone).known();
    let scenario = scenario.outside(World::end_worker).reconcile();
    scenario.at_last(assert_not_taken).play();
}
