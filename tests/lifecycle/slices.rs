//! Backend `slices`: without a partition, everything else is kept off by its unit.

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, CONF_WITHOUT_HOOK, World, assert_says, done, mask};
use crate::common::sim::{Kernel, Machine, TaskSpec, VmSpec, cpus};

const TABLE: &str = "cpus = \"2-3\"\n[isolate]\nbackend = \"slices\"\n";
const SECOND: &str = "cpus = \"4-5\"\n[isolate]\nbackend = \"slices\"\n";
/// What systemd leaves behind of a property of the slice of all services.
const DROP_IN: &str = "/run/systemd/system.control/system.slice.d/50-AllowedCPUs.conf";

fn on(kernel: Kernel) -> World {
    let world = World::of(&Machine {
        kernel,
        ..Machine::default()
    });
    let world = world.vm(100, CONF, TABLE).vm(101, CONF, SECOND);
    world.sim.vm_conf(102, CONF_WITHOUT_HOOK);
    world
}

/// The oldest kernel has no partitions and forgets affinities, one keeps the lists of groups with
/// tasks, one keeps neither.
const KERNELS: [Kernel; 3] = [Kernel::V6_1, Kernel::V6_12, Kernel::V7_3];

#[test]
fn a_vm_owns_its_cpus_from_its_start_to_its_stop() {
    for kernel in KERNELS {
        Scenario::new("slices", move || on(kernel))
            .pre_start(100)
            .outside(|world| world.launch(100, &VmSpec::with_vcpus(2).iothread("iothread0")))
            .call("post-start 100", Then::Owned, |world| {
                let account = done(world.phase(Phase::PostStart, 100));
                assert_says(&account, "starts later may run on these cpus");
                account
            })
            .outside(World::end_worker)
            .owns(100)
            .reconcile()
            .owns(100)
            .stop(100)
            .prove();
    }
}

/// Giving back after a scrub is no time to take anything: what fails there would not be tried again.
#[test]
fn a_unit_that_stays_on_the_cpus_of_a_second_vm_fails_that_vm_also_after_a_scrub() {
    let world = on(Kernel::V6_12);
    world.sim.table(101, &format!("{SECOND}hotplug = true\n"));
    world.start(100);
    done(world.phase(Phase::PreStart, 101));
    world.launch(101, &VmSpec::with_vcpus(2));
    world
        .sim
        .fail("set_allowed_cpus system.slice", libc::EIO, 1);
    let account = world.phase(Phase::PostStart, 101);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    world.assert_owns(100);
}

/// It is late with one call, and from then on with all of the same run.
#[test]
fn a_systemd_that_is_late_is_no_failure() {
    let launched = on(Kernel::V6_12);
    let rest = launched.capture();
    done(launched.phase(Phase::PreStart, 100));
    launched.launch(100, &VmSpec::with_vcpus(2));
    for late in [
        "allowed_cpus ",
        "=allowed_cpus init.scope",
        "set_allowed_cpus ",
    ] {
        let world = launched.fork();
        world.sim.fail(late, libc::ETIMEDOUT, u32::MAX);
        let account = done(world.phase(Phase::PostStart, 100));
        assert_says(
            &account,
            "not everything was done in time, reconcile will finish it",
        );
        assert_eq!(world.claim_state(100), "running", "{late}");
        world.end_worker();
        let account = done(world.reconcile());
        assert_eq!(account.exit, Exit::Done, "{late}: {account:#?}");
        world.sim.fail_no_more();
        done(world.reconcile());
        world.assert_owns(100);
        world.stop(100);
        world.assert_as(&rest);
    }
}

#[test]
fn a_vm_that_runs_beside_or_starts_later_is_kept_off() {
    for kernel in KERNELS {
        Scenario::new("a vm without a table", move || on(kernel))
            .outside(|world| world.launch(102, &VmSpec::with_vcpus(1)))
            .start(100)
            .owns(100)
            .outside(|world| world.end_qemu(102))
            .known()
            .reconcile()
            .outside(|world| world.launch(102, &VmSpec::with_vcpus(1)))
            .reconcile()
            .owns(100)
            .outside(|world| world.end_qemu(102))
            .stop(100)
            .prove();
    }
}

#[test]
fn two_vms_keep_each_other_off() {
    for (kernel, first, second) in [
        (Kernel::V6_1, 100, 101),
        (Kernel::V6_12, 101, 100),
        (Kernel::V7_3, 100, 101),
    ] {
        Scenario::new("two vms", move || on(kernel))
            .start(100)
            .known()
            .start(101)
            .owns(100)
            .owns(101)
            .stop(first)
            .owns(second)
            .stop(second)
            .prove();
    }
}

#[test]
fn what_the_administrator_allows_is_cut_and_given_back() {
    for list in ["0-3", "1-7", "2-3"] {
        Scenario::new("own list", move || {
            let world = on(Kernel::V7_3);
            world.sim.allow_cpus("system.slice", &cpus(list));
            world
        })
        .start(100)
        .known()
        .owns(100)
        .stop(100)
        .prove();
    }
}

#[test]
fn a_unit_that_allows_none_of_the_owned_cpus_is_left_alone() {
    let world = on(Kernel::V6_12);
    world.sim.allow_cpus("system.slice", &cpus("0-1"));
    let before = world.sim.get(DROP_IN);
    world.sim.take_log();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world.assert_owns(100);
    let log = world.sim.take_log();
    let of_slice = |op: &&String| op.contains("system.slice");
    assert_eq!(log.iter().find(of_slice), None);
    assert_eq!(world.sim.get(DROP_IN), before);
}

#[test]
fn containers_are_kept_off_by_their_common_group() {
    for kernel in [Kernel::V6_12, Kernel::V7_3] {
        let world = World::of(&Machine {
            kernel,
            containers: vec![200],
            ..Machine::default()
        });
        let world = world.vm(100, CONF, TABLE);
        let container = world.sim.find_task("init").tid;
        let before = world.capture();
        done(world.phase(Phase::PreStart, 100));
        world.launch(100, &VmSpec::with_vcpus(2));
        done(world.phase(Phase::PostStart, 100));
        world.assert_owns(100);
        assert_eq!(mask(&world, container), cpus("0-1,4-7"));
        world.end_worker();
        world.stop(100);
        assert_eq!(mask(&world, container), cpus("0-7"));
        world.assert_at_rest();
        if kernel == Kernel::V7_3 {
            world.assert_as(&before);
        }
    }
}

#[test]
fn pins_that_an_old_kernel_forgets_are_made_again_without_a_word() {
    let world = on(Kernel::V6_1);
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    for _ in 0..5 {
        world.launch(102, &VmSpec::with_vcpus(1));
        let account = done(world.reconcile());
        world.assert_owns(100);
        let warned = account
            .lines
            .iter()
            .any(|line| line.text.contains("affinity"));
        assert!(!warned, "{account:#?}");
        world.end_qemu(102);
        done(world.reconcile());
        world.assert_owns(100);
    }
}

#[test]
fn a_lost_state_is_found_again_in_the_lists_of_units() {
    for kernel in KERNELS {
        let world = on(kernel);
        let before = world.capture();
        done(world.phase(Phase::PreStart, 100));
        world.launch(100, &VmSpec::with_vcpus(2));
        done(world.phase(Phase::PostStart, 100));
        world.assert_owns(100);
        world.lose_state();
        done(world.release(None));
        for (_, tid) in world.sim.vm(100).vcpus {
            assert_eq!(mask(&world, tid), cpus("0-7"));
        }
        world.end_worker();
        world.end_qemu(100);
        done(world.reconcile());
        world.assert_as(&before);
    }
}

#[test]
fn a_group_outside_systemd_is_given_back_before_the_controller_goes() {
    for kernel in KERNELS {
        let world = on(kernel);
        for group in ["/outside", "/outside/200"] {
            world.sim.state().cgroup_make(group).unwrap();
        }
        let task = world
            .sim
            .spawn(TaskSpec::named("sleep").in_cgroup("/outside/200"));
        let before = world.capture();
        done(world.phase(Phase::PreStart, 100));
        world.launch(100, &VmSpec::with_vcpus(2));
        done(world.phase(Phase::PostStart, 100));
        world.assert_owns(100);
        assert_eq!(mask(&world, task), cpus("0-1,4-7"));
        world.end_worker();
        world.stop(100);
        world.assert_as(&before);
    }
}
