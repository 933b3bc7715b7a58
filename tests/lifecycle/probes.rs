//! The case pci-probe-flush: from Linux 7.0 on an isolated partition that comes or goes waits for every
//! probe of a PCI driver that is under way.

use pin_hook::lifecycle::engine::run::PHASE_TIME;
use pin_hook::lifecycle::start::phase::Phase;

use super::bindings;
use super::scenario::{Scenario, Then};
use super::world::{CONF, World, assert_says, done};
use crate::common::sim::{Kernel, Machine, TaskSpec, VmSpec};

const PARTITION: &str = "/sys/fs/cgroup/qemu.slice/100.scope/vcpu/cpuset.cpus.partition";
const CHILD: &str = "run pin-hook-write-qemu.slice-100.scope-";
const PROBING: &str = "a driver is probing a pci device";

fn world_on(kernel: Kernel) -> World {
    let machine = Machine {
        kernel,
        ..Machine::default()
    };
    World::of(&machine).vm(100, CONF, "cpus = \"2-3\"\n")
}

fn world() -> World {
    world_on(Kernel::V7_3)
}

/// Lets a driver begin to probe, as the kernel's worker that does it is called.
fn begin_probe(world: &World) -> i32 {
    world
        .sim
        .spawn(TaskSpec::named("kworker/0:2+sync_wq").kthread(true))
}

fn launched(world: &World) {
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
}

/// Returns the writes to cgroups since they were asked for last; `lock` is in none of their paths.
fn of_cgroups(world: &World) -> Vec<String> {
    let is_of_cgroups = |op: &String| op.contains("/sys/fs/cgroup/");
    world.writes().into_iter().filter(is_of_cgroups).collect()
}

/// That no other write would wait is asserted by the simulation.
#[test]
fn a_partition_comes_and_goes_by_a_child_where_it_may_sleep() {
    let n_children = |world: &World| {
        let writes = world.writes().into_iter();
        writes.filter(|op| op.starts_with(CHILD)).count()
    };
    for (kernel, expected) in [(Kernel::V6_12, 0), (Kernel::V7_3, 1)] {
        let world = world_on(kernel);
        launched(&world);
        world.writes();
        done(world.phase(Phase::PostStart, 100));
        assert_eq!(n_children(&world), expected, "{kernel:?}");
        world.assert_owns(100);
        done(world.release(None));
        assert_eq!(n_children(&world), expected, "{kernel:?}");
        // A writer that is killed taints the kernel.
        let state = world.sim.state();
        assert!(state.systemd.jobs.iter().all(|job| job.limit.is_none()));
    }
}

#[test]
fn no_partition_comes_while_a_driver_is_probing() {
    let world = world();
    let before = world.capture();
    launched(&world);
    let probe = begin_probe(&world);
    world.writes();
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(&account, PROBING);
    assert_eq!(of_cgroups(&world), Vec::<String>::new());
    world.end_worker();
    world.reconcile();
    assert_eq!(of_cgroups(&world), Vec::<String>::new());
    world.sim.kill(probe);
    world.reconcile_until_quiet().unwrap();
    world.assert_owns(100);
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn nothing_of_cgroups_is_touched_at_a_stop_while_a_driver_is_probing() {
    // What the other one has stays: the slice is still there, with fewer CPUs to pass on.
    let world = world().vm(101, CONF, "cpus = \"4-5\"\n");
    let before = world.capture();
    world.start(101);
    world.start(100);
    let probe = begin_probe(&world);
    done(world.phase(Phase::PreStop, 100));
    world.end_qemu(100);
    world.writes();
    let account = done(world.phase(Phase::PostStop, 100));
    assert_says(&account, PROBING);
    assert_eq!(of_cgroups(&world), Vec::<String>::new());
    world.end_worker();
    world.sim.kill(probe);
    world.reconcile_until_quiet().unwrap();
    world.assert_owns(101);
    world.stop(101);
    world.assert_as(&before);
}

#[test]
fn a_partition_goes_without_waiting_when_the_stop_was_announced() {
    Scenario::new("announced", world)
        .start(100)
        .known()
        .call("pre-stop 100", Then::Either, |world| {
            done(world.phase(Phase::PreStop, 100))
        })
        .check(|world| assert_eq!(world.sim.get(PARTITION).trim_end(), "root"))
        .outside(|world| world.end_qemu(100))
        .post_stop(100)
        .outside(World::end_worker)
        .prove();
}

#[test]
fn a_stop_in_vain_leaves_the_vm_isolated() {
    let world = world();
    world.start(100);
    done(world.phase(Phase::PreStop, 100));
    done(world.reconcile());
    assert_eq!(world.sim.get(PARTITION).trim_end(), "root");
    // PVE's worker hangs, or somebody has called the phase from a shell.
    let stuck = world.fork();
    stuck.sim.advance(std::time::Duration::from_secs(301));
    stuck.reconcile_until_quiet().unwrap();
    assert_eq!(stuck.sim.get(PARTITION).trim_end(), "isolated");
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    assert_eq!(world.sim.get(PARTITION).trim_end(), "isolated");
    world.assert_owns(100);
}

#[test]
fn older_kernels_have_nothing_to_do_before_a_stop() {
    let world = world_on(Kernel::V6_12);
    world.start(100);
    world.writes();
    done(world.phase(Phase::PreStop, 100));
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[test]
fn a_partition_that_the_kernel_does_not_make_costs_its_deadline_and_nothing_else_is_touched() {
    let world = world();
    let before = world.capture();
    launched(&world);
    world.sim.hang("cpuset.cpus.partition");
    let begin = world.sim.state().since_boot;
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(&account, "the kernel does not respond");
    assert!(world.sim.state().since_boot - begin < PHASE_TIME);
    assert_eq!(world.claim_state(100), "running");
    world.end_worker();
    world.writes();
    // Whoever finds it at work does not wait for it again.
    let begin = world.sim.state().since_boot;
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(world.sim.state().since_boot, begin);
    world.sim.unhang();
    world.reconcile_until_quiet().unwrap();
    world.assert_owns(100);
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn a_partition_that_the_kernel_does_not_end_is_given_back_by_reconcile() {
    let world = world();
    let before = world.capture();
    world.start(100);
    world.sim.hang("cpuset.cpus.exclusive");
    let account = world.release(None);
    assert_says(&account, "the kernel does not respond");
    assert_eq!(world.sim.get(PARTITION).trim_end(), "isolated");
    world.sim.unhang();
    world.reconcile_until_quiet().unwrap();
    world.end_qemu(100);
    world.end_worker();
    world.assert_as(&before);
}

#[test]
fn no_driver_gets_a_device_back_while_another_vm_is_being_started() {
    let world = bindings::returning().vm(101, CONF, "cpus = \"4-5\"\n");
    bindings::start(&world);
    done(world.phase(Phase::PreStart, 101));
    world.end_qemu(100);
    for _ in 0..4 {
        world.reconcile();
    }
    bindings::assert_drivers(&world, "vfio-pci", "vfio-pci");
    // Its start comes to nothing.
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    bindings::assert_drivers(&world, "nouveau", "snd_hda_intel");
}

/// The simulation lets no write of the program's own change which CPUs are isolated, here and in every other
/// test on that kernel.
#[test]
fn no_write_of_a_run_itself_waits_for_a_probe_whatever_it_dies_at() {
    let two = || world().vm(101, CONF, "cpus = \"4-5\"\n");
    Scenario::new("two", two)
        .start(101)
        .start(100)
        .owns(101)
        .stop(101)
        .owns(100)
        .stop(100)
        .prove();
}

#[test]
fn a_partition_with_other_cpus_is_ended_and_made_by_children() {
    let plain = |cpus: &str| format!("cpus = \"{cpus}\"\n");
    let two = "cpus = \"2-3\"\n[isolate]\nalso = \"4-5\"\n";
    for (from, to) in [
        (plain("2-3"), plain("4-5")),
        (plain("2-3"), plain("2-5")),
        (plain("2-3"), plain("3-4")),
        // One of two partitions goes, and its CPUs are the other one's.
        (format!("{two}[pin]\nemulator = \"4-5\"\n"), two.to_owned()),
    ] {
        let world = world();
        world.sim.table(100, &from);
        world.start(100);
        world.sim.table(100, &to);
        let before = {
            let world = world.fork();
            world.stop(100);
            world.capture()
        };
        for n in 1.. {
            let world = world.fork();
            world.sim.die_at_write(n);
            let ended = world.sim.run_until_death(|| world.apply(100)).is_ok();
            world.end_worker();
            world.reconcile_until_quiet().unwrap();
            world.assert_owns(100);
            world.stop(100);
            world.assert_as(&before);
            if ended {
                break;
            }
        }
    }
}
