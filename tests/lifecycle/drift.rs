//! Values of somebody else, and objects that refuse every change.

use std::time::Duration;

use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::refused_targets::running as tuned;
use super::scenario::Scenario;
use super::world::{World, assert_says, done, mask};
use crate::common::sim::{VmSpec, cpus};

const PARTITION: &str = "/sys/fs/cgroup/qemu.slice/100.scope/vcpu/cpuset.cpus.partition";
const IRQ: &str = "/proc/irq/31/smp_affinity_list";

fn running() -> World {
    let world = World::with_vm();
    world.start(100);
    world
}

#[test]
fn an_interrupt_that_somebody_moves_is_moved_back_three_times_and_then_left() {
    let world = running();
    for _ in 0..3 {
        world.sim.poke(IRQ, "2").unwrap();
        let account = done(world.reconcile());
        assert_says(
            &account,
            "is \"2\", but pin-hook had set \"0-1,4-7\": set again",
        );
        world.assert_owns(100);
    }
    world.sim.poke(IRQ, "2").unwrap();
    let account = done(world.reconcile());
    assert_says(
        &account,
        "set again three times, now left alone (irqbalance is running)",
    );
    assert_says(&account, "(IRQBALANCE_BANNED_CPULIST=), or stop it");
    assert_eq!(world.sim.get(IRQ), "2\n");
    world.sim.advance(Duration::from_secs(600));
    assert_says(&done(world.reconcile()), "set again");
    world.assert_owns(100);
}

/// A person who asks has the last word, and the counts start anew.
#[test]
fn what_was_left_to_somebody_is_set_again_by_apply_and_status_says_so_until_then() {
    let world = running();
    let (_, tid) = world.sim.vm(100).vcpus[0];
    let meddle = || {
        let member = world.sim.poke(PARTITION, "member");
        member.unwrap();
        world.sim.poke(IRQ, "2").unwrap();
        world.sim.state().set_affinity(tid, &cpus("3")).unwrap();
    };
    // What apply sets again is the first time of those that count from then on.
    for n_times in [3, 2] {
        for _ in 0..n_times {
            meddle();
            done(world.reconcile());
            world.assert_owns(100);
        }
        meddle();
        world.reconcile();
        assert_eq!(world.sim.get(PARTITION), "member\n");
        let found = status(&world.host, None).unwrap();
        assert!(!found.ok);
        let of = |part: &str| {
            let mut drift = found.drift.iter();
            drift.find(|drift| drift.target.contains(part)).unwrap()
        };
        assert!(of("cpuset.cpus.partition").given_up, "{:#?}", found.drift);
        assert!(
            of("affinity of vcpu 0 of vm 100").given_up,
            "{:#?}",
            found.drift
        );
        assert!(of("/irq/31/").given_up, "{:#?}", found.drift);
        assert_eq!(of("/irq/31/").writers, ["irqbalance"]);
        done(world.apply(100));
        world.end_worker();
        world.assert_owns(100);
        let found = status(&world.host, None).unwrap();
        assert!(found.ok && found.drift.is_empty(), "{:#?}", found.drift);
    }
}

#[test]
fn a_vcpu_that_somebody_moves_is_pinned_again() {
    let world = running();
    let (_, tid) = world.sim.vm(100).vcpus[0];
    for cpu in ["3", "2-3", "3"] {
        world.sim.state().set_affinity(tid, &cpus(cpu)).unwrap();
        assert_says(&done(world.reconcile()), "set again");
        world.assert_owns(100);
    }
    world.sim.state().set_affinity(tid, &cpus("3")).unwrap();
    let account = done(world.reconcile());
    assert_says(&account, "set again three times, now left alone");
    assert_says(&account, "stop whatever writes it; pin-hook");
    assert_eq!(mask(&world, tid), cpus("3"));
}

#[test]
fn somebody_elses_value_is_left_when_the_host_is_given_back() {
    let world = running();
    let thread = world.sim.find_task("khungtaskd").tid;
    world.sim.poke(IRQ, "6").unwrap();
    world.sim.state().set_affinity(thread, &cpus("7")).unwrap();
    world.end_qemu(100);
    let account = done(world.phase(Phase::PostStop, 100));
    assert_says(
        &account,
        "is \"6\", but pin-hook had set \"0-1,4-7\": left as it is",
    );
    assert_says(
        &account,
        "is \"7\", but pin-hook had set \"0-1,4-7\": left as it is",
    );
    assert_eq!(world.sim.get(IRQ), "6\n");
    assert_eq!(mask(&world, thread), cpus("7"));
    world.assert_at_rest();
}

#[test]
fn a_value_that_somebody_put_back_already_is_no_drift() {
    let world = running();
    world.sim.poke(IRQ, "0-7").unwrap();
    world.end_qemu(100);
    let account = done(world.phase(Phase::PostStop, 100));
    assert!(
        !account
            .lines
            .iter()
            .any(|line| line.text.contains("(ours)")),
        "{account:#?}"
    );
}

#[test]
fn a_partition_that_went_invalid_is_repaired() {
    Scenario::new("partition gone invalid", World::with_vm)
        .start(100)
        .known()
        .outside(|world| {
            let list = "/sys/fs/cgroup/qemu.slice/cpuset.cpus.exclusive";
            world.sim.poke(list, "\n").unwrap();
            assert!(world.sim.get(PARTITION).contains("invalid"));
        })
        .reconcile()
        .owns(100)
        .stopped(100)
        .prove();
}

#[test]
fn one_cpu_that_goes_offline_and_returns_costs_one_line() {
    let world = running();
    world.sim.set_online(3, false).unwrap();
    let account = done(world.reconcile());
    assert_eq!(account.lines.len(), 1, "{account:#?}");
    world.sim.set_online(3, true).unwrap();
    done(world.reconcile());
    world.assert_owns(100);
}

/// A VM that runs, and whose delegation somebody has removed.
fn undelegated() -> World {
    let world = running();
    world
        .sim
        .state()
        .tree
        .remove_all("/run/systemd/system/100.scope.d");
    world.sim.daemon_reload();
    world
}

#[test]
fn a_delegation_that_somebody_removes_is_written_again() {
    let world = undelegated();
    done(world.reconcile());
    world.reconcile_until_quiet().unwrap();
    world.sim.set_property("100.scope");
    world.assert_owns(100);
}

#[test]
fn a_partition_that_systemd_ended_is_made_again() {
    let world = undelegated();
    world.sim.set_property("100.scope");
    assert_eq!(world.sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"), "\n");
    done(world.reconcile());
    world.reconcile_until_quiet().unwrap();
    world.assert_owns(100);
}

#[test]
fn managed_interrupts_are_tried_once_and_not_given_back() {
    let world = World::with_vm();
    let before = world.capture();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    let managed = ["write /proc/irq/55/", "write /proc/irq/56/"];
    let tried = |world: &World| {
        let writes = world.writes();
        let n = |prefix: &&str| writes.iter().filter(|op| op.starts_with(*prefix)).count();
        managed.iter().map(n).collect::<Vec<_>>()
    };
    world.writes();
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        "nvme0: 2 interrupts cannot be moved off cpus 2-3; at the next boot \
         isolcpus=managed_irq,2-3 can help where a queue is shared with other cpus",
    );
    assert_eq!(tried(&world), [1, 1]);
    world.end_worker();
    let account = done(world.reconcile());
    assert_eq!(account.lines, []);
    assert_eq!(tried(&world), [0, 0]);
    world.end_qemu(100);
    done(world.phase(Phase::PostStop, 100));
    assert_eq!(tried(&world), [0, 0]);
    world.end_worker();
    world.assert_as(&before);
    world.assert_at_rest();
}

#[test]
fn an_interrupt_whose_file_is_read_only_is_one_that_cannot_be_moved() {
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world
        .sim
        .fail("write /proc/irq/30/", libc::EACCES, u32::MAX);
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(done(world.reconcile()).lines, []);
}

/// Who sets a setting back to what it was before the VM is the likeliest to do so again.
#[test]
fn every_setting_that_somebody_sets_back_is_left_after_three_times() {
    let reference = tuned();
    reference.end_qemu(100);
    done(reference.phase(Phase::PostStop, 100));
    let ops = reference.writes().into_iter();
    let settings = [
        "/proc/sys/",
        "/sys/devices/system/cpu/",
        "/sys/kernel/mm/",
        "/sys/module/",
    ];
    let ops: Vec<String> = ops
        .filter(|op| settings.iter().any(|place| op.contains(place)))
        // Under the governor of the VM the kernel takes no preference from anybody.
        .filter(|op| !op.contains("energy_performance_preference"))
        .collect();
    assert!(ops.len() > 8, "{ops:#?}");
    for op in ops {
        let [_, path, before] = op.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        let world = tuned();
        let ours = world.sim.get(path);
        for _ in 0..3 {
            world.sim.poke(path, before).unwrap();
            done(world.reconcile());
            assert_eq!(world.sim.get(path), ours, "{path}");
        }
        world.sim.poke(path, before).unwrap();
        let theirs = world.sim.get(path);
        let account = done(world.reconcile());
        assert_says(&account, "set again three times, now left alone");
        assert_eq!(world.sim.get(path), theirs, "{path}");
    }
}

/// What an apply says of a device is what status says: those that an earlier run has found count as well.
#[test]
fn interrupts_that_an_earlier_run_has_found_are_counted() {
    let world = World::with_vm();
    world.sim.add_managed_irq(60, "nvme0q5", &cpus("4"));
    world.sim.add_managed_irq(61, "nvme0q6", &cpus("5"));
    world.start(100);
    world.sim.table(100, "cpus = \"2-5\"\n");
    let account = done(world.apply(100));
    assert_says(&account, "nvme0: 4 interrupts cannot be moved off cpus 2-5");
}
