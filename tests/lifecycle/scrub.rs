//! The hotplug scrub: CPUs go offline and back before they are isolated, and come back online
//! whatever happens in between.

use std::time::Duration;

use pin_hook::domain::state::State;
use pin_hook::domain::target::Target;
use pin_hook::lifecycle::engine::journal::read_state;
use pin_hook::lifecycle::start::phase::Phase;

use super::refused_targets::{ERRORS, warnings};
use super::scenario::Scenario;
use super::world::{CONF, World, assert_says, done, mask};
use crate::common::sim::{Kernel, Machine, TaskSpec, VmSpec, cpus};

const TABLE: &str = "cpus = \"2-3\"\nisolate.hotplug = true\n";
const ONLINE: &str = "/sys/devices/system/cpu/online";
const SCRUB: &str = "pin-hook-write-scrub.service";
const PERIOD: Duration = Duration::from_secs(15);

fn world() -> World {
    World::lab().vm(100, CONF, TABLE)
}

/// Returns a node with a VM that is up and waits for its post-start.
fn launched() -> World {
    let world = world();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world
}

fn state(world: &World) -> State {
    read_state(&*world.host.files).unwrap()
}

/// Returns the files that children were asked to write to, in order, with the texts.
fn written(world: &World) -> Vec<String> {
    let state = world.sim.state();
    let jobs = state.systemd.jobs.iter();
    let words = jobs.flat_map(|job| job.arguments[2..].chunks(2));
    words
        .map(|pair| {
            format!(
                "{} {}",
                pair[0].replace("/sys/devices/system/cpu/", ""),
                pair[1]
            )
        })
        .collect()
}

/// Asserts that no CPU is owed any more, and that the VM owns its own until it ends.
fn assert_finished(world: &World) {
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    assert_eq!(world.sim.get(ONLINE), "0-7\n");
    world.assert_owns(100);
    world.stop(100);
    world.assert_at_rest();
}

#[test]
fn cpus_go_offline_and_back_once_before_they_are_isolated() {
    Scenario::new("scrub", world)
        .start(100)
        .owns(100)
        .check(|world| {
            let expected = [
                "cpu2/online 0",
                "cpu2/online 1",
                "cpu3/online 0",
                "cpu3/online 1",
            ];
            assert_eq!(written(world), expected);
            world.reconcile();
            assert_eq!(written(world).len(), 4);
            assert!(state(world).held.keys().all(|target| !matches!(
                target,
                Target::Knob(pin_hook::domain::knob::Knob::Online, _)
            )));
        })
        .stop(100)
        .prove();
}

#[test]
fn what_was_on_one_of_them_alone_gets_back_what_it_had() {
    for table in [
        TABLE.to_owned(),
        format!("{TABLE}isolate.irqs = false\nisolate.kthreads = false\n"),
    ] {
        let node = move || {
            let world = World::lab().vm(100, CONF, &table);
            world
                .sim
                .poke("/proc/irq/30/smp_affinity_list", "3")
                .unwrap();
            for cpu in ["2", "3"] {
                let spin = world.sim.spawn(TaskSpec::named("spin").spinning());
                world.host.sched.set_affinity(spin, &cpus(cpu)).unwrap();
            }
            world
        };
        Scenario::new("bound to a scrubbed cpu", node)
            .start(100)
            .stop(100)
            .prove();
    }
}

#[test]
fn what_has_one_online_cpu_of_several_gets_all_of_them_back() {
    let world = world();
    let spin = world.sim.spawn(TaskSpec::named("spin").spinning());
    world.host.sched.set_affinity(spin, &cpus("2,5")).unwrap();
    world.sim.set_online(5, false).unwrap();
    world.start(100);
    assert_eq!(written(&world).len(), 4);
    world.stop(100);
    world.sim.set_online(5, true).unwrap();
    assert_eq!(mask(&world, spin), cpus("2,5"));
}

#[test]
fn cpu_0_and_cpus_of_others_are_left_online() {
    let table = "cpus = \"0,2\"\nisolate.hotplug = true\n";
    let world = World::lab()
        .vm(100, CONF, table)
        .vm(101, CONF, "cpus = \"4-5\"\n");
    for vmid in [101, 100] {
        done(world.phase(Phase::PreStart, vmid));
        world.launch(vmid, &VmSpec::with_vcpus(2));
        done(world.phase(Phase::PostStart, vmid));
    }
    assert_eq!(written(&world), ["cpu2/online 0", "cpu2/online 1"]);
    // Its CPUs are in a partition by now.
    world
        .sim
        .table(100, &format!("{table}isolate.irqs = false\n"));
    done(world.apply(100));
    assert_eq!(written(&world).len(), 2);
}

#[test]
fn a_cpu_that_the_kernel_keeps_is_told_with_the_reason() {
    for (error, why) in [
        (
            libc::ENOSPC,
            "the other cpus have no vectors left for their interrupts",
        ),
        (
            libc::EBUSY,
            "a deadline task needs them, or hotplug is disabled at the moment",
        ),
        (libc::EPERM, "Operation not permitted"),
    ] {
        let world = launched();
        world
            .sim
            .fail("=write /sys/devices/system/cpu/cpu3/online 0", error, 1);
        let account = done(world.phase(Phase::PostStart, 100));
        assert_says(
            &account,
            &format!("cpus 3 were not taken offline and back: {why}"),
        );
        assert_finished(&world);
    }
}

/// The kernel refuses a switch time and again: it is told once, the rest is done, and nothing is lost.
#[test]
fn any_error_at_any_switch_is_told_once_and_leaves_no_cpu_offline() {
    let launched = launched();
    let usual = warnings(&done(launched.fork().phase(Phase::PostStart, 100)));
    for error in ERRORS {
        for (cpu, to, times) in [(2, 0, 1), (3, 0, 1), (2, 1, 3), (3, 1, 3)] {
            let world = launched.fork();
            let switch = format!("/sys/devices/system/cpu/cpu{cpu}/online");
            world
                .sim
                .fail(&format!("=write {switch} {to}"), error, times);
            let mut told = warnings(&done(world.phase(Phase::PostStart, 100)));
            // Which interrupts of a disk's queues are left on a CPU depends on those online.
            told.retain(|text| !usual.contains(text) && !text.starts_with("nvme0: "));
            let what = format!("error {error} at {to} of cpu {cpu}: {told:#?}");
            // A CPU without its switch has been taken out of the machine.
            let is_gone = to == 1 && [libc::ENOENT, libc::ESRCH].contains(&error);
            assert_eq!(told.len(), usize::from(!is_gone), "{what}");
            let about = if to == 0 {
                format!("cpus {cpu} were not")
            } else {
                switch
            };
            assert!(told.iter().all(|text| text.contains(&about)), "{what}");
            assert_finished(&world);
        }
    }
}

#[test]
fn a_cpu_that_does_not_come_back_is_tried_again() {
    let world = launched();
    world
        .sim
        .fail("=write /sys/devices/system/cpu/cpu3/online 1", libc::EIO, 2);
    let account = world.phase(Phase::PostStart, 100);
    assert_says(&account, "cpu3/online: writing \"1\" failed");
    assert_finished(&world);
}

#[test]
fn a_child_that_is_killed_anywhere_leaves_no_cpu_offline() {
    for n_writes in 0..4 {
        let world = launched();
        world.sim.kill_child_after(n_writes);
        done(world.phase(Phase::PostStart, 100));
        assert_finished(&world);
    }
}

#[test]
fn a_cpu_that_never_goes_offline_costs_the_deadline_and_not_the_phase() {
    let world = launched();
    world.sim.hang("cpu3/online");
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        &format!("the kernel does not respond, {SCRUB} waits for it"),
    );
    assert_says(
        &account,
        "not everything was done in time, reconcile will finish it",
    );
    assert!(world.sim.is_active("pin-hook-reconcile.service"));
    // The kernel goes on not answering: the VM gets its CPUs nevertheless.
    world.end_worker();
    world.reconcile();
    world.assert_owns(100);
    // When it does, the child is dead before it has brought the CPU back.
    world.sim.unhang();
    assert_eq!(world.sim.get(ONLINE), "0-2,4-7\n");
    assert_finished(&world);
}

#[test]
fn a_cpu_that_never_comes_back_is_told_until_it_does() {
    let world = launched();
    world.sim.kill_child_after(3);
    world
        .sim
        .fail("run pin-hook-write-cpu-cpu3-online", libc::EIO, 1);
    let account = world.phase(Phase::PostStart, 100);
    assert_says(&account, "cpu3/online: writing \"1\" failed");
    world.sim.hang("cpu3/online");
    world.end_worker();
    let account = world.reconcile();
    assert_says(
        &account,
        "pin-hook-write-cpu-cpu3-online.service waits for it",
    );
    // Whoever finds it at work does not wait for it again.
    let before = world.sim.state().since_boot;
    world.reconcile();
    assert_eq!(world.sim.state().since_boot - before, PERIOD);
    world.sim.unhang();
    assert_finished(&world);
}

#[test]
fn the_units_come_after_an_apply_that_is_killed_in_the_middle() {
    let world = world();
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.kill_child_after(1);
    let killed = world.sim.run_until_death(|| {
        world.sim.die_at_op("remove /run/pin-hook/jobs/scrub");
        world.apply(100)
    });
    killed.unwrap_err();
    assert_eq!(world.sim.get(ONLINE), "0-1,3-7\n");
    assert!(world.sim.is_active("pin-hook-reconcile.timer"));
    assert_finished(&world);
}

#[test]
fn release_brings_cpus_back_online() {
    let world = launched();
    world.sim.kill_child_after(1);
    world.sim.fail("run pin-hook-write-cpu-", libc::EIO, 1);
    let _ = world.phase(Phase::PostStart, 100);
    assert_eq!(world.sim.get(ONLINE), "0-1,3-7\n");
    done(world.release(None));
    assert_eq!(world.sim.get(ONLINE), "0-7\n");
}

/// On Linux 7 the kernel takes the CPUs of other nodes from it when a CPU comes online.
#[test]
fn the_mask_that_somebody_gave_a_thread_of_a_node_is_given_back() {
    for kernel in [Kernel(6, 12), Kernel(7, 3)] {
        for (name, own) in [
            ("kswapd0", "0-7"),
            ("kcompactd1", "0-1,6-7"),
            ("kswapd1", "0-1"),
        ] {
            let machine = Machine {
                kernel,
                ..Machine::default()
            };
            let world = World::of(&machine).vm(100, CONF, TABLE);
            let tid = world.sim.find_task(name).tid;
            world.sim.state().set_affinity(tid, &cpus(own)).unwrap();
            let before = world.capture();
            world.start(100);
            world.stop(100);
            world.assert_as(&before);
        }
    }
}

/// Also where nothing else keeps it off the VM's CPUs, and the CPU comes back in the same run.
#[test]
fn a_kernel_thread_waits_for_its_cpu() {
    let table = format!("{TABLE}isolate.kthreads = false\n");
    let world = World::lab().vm(100, CONF, &table);
    let own = TaskSpec::named("own").kthread(false).spinning();
    let tid = world.sim.spawn(own.on_cpus(cpus("2")));
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.kill_child_after(1);
    world.sim.fail("run pin-hook-write-cpu-", libc::EIO, 1);
    let _ = world.phase(Phase::PostStart, 100);
    assert_eq!(world.sim.get(ONLINE), "0-1,3-7\n");
    assert_ne!(mask(&world, tid), cpus("2"));
    world.end_worker();
    world.reconcile_until_quiet().unwrap();
    world.stop(100);
    assert_eq!(mask(&world, tid), cpus("2"));
    world.assert_at_rest();
}

#[test]
fn a_kernel_thread_of_one_cpu_is_remembered() {
    let world = world();
    let tid = world
        .sim
        .spawn(TaskSpec::named("own").kthread(false).on_cpus(cpus("3")));
    for phase in [Phase::PreStart, Phase::PostStart] {
        done(world.phase(phase, 100));
        if phase == Phase::PreStart {
            world.launch(100, &VmSpec::with_vcpus(2));
        }
    }
    assert!(mask(&world, tid).is_disjoint(&cpus("2-3")));
    world.end_worker();
    world.end_qemu(100);
    done(world.phase(Phase::PostStop, 100));
    assert_eq!(mask(&world, tid), cpus("3"));
}

/// A CPU that goes offline stops all others: what a low-latency VM next door would notice.
#[test]
fn nothing_goes_offline_while_a_vm_runs_that_must_respond_at_once() {
    let told = "isolate.hotplug is skipped: a cpu that goes offline stops all others, and vm 101 must respond at once";
    for (neighbour, is_urgent) in [
        ("cpus = \"4-5\"\n", false),
        ("cpus = \"4-5\"\nprofile = \"low-latency\"\n", true),
        ("cpus = \"4-5\"\npin.scheduler = \"fifo:1\"\n", true),
    ] {
        let world = world().vm(101, CONF, neighbour);
        let before = world.capture();
        world.start(101);
        let n_plan = world
            .plan(100)
            .notices
            .iter()
            .filter(|one| *one == told)
            .count();
        assert_eq!(n_plan, usize::from(is_urgent), "{neighbour}");
        world.sim.take_log();
        let account = done(world.phase(Phase::PreStart, 100));
        let said = account.lines.iter().any(|line| line.text.ends_with(told));
        assert_eq!(said, is_urgent, "{account:#?}");
        world.launch(100, &VmSpec::with_vcpus(2));
        done(world.phase(Phase::PostStart, 100));
        assert_eq!(written(&world).is_empty(), is_urgent, "{neighbour}");
        world.assert_owns(100);
        world.stop(100);
        world.stop(101);
        world.assert_as(&before);
    }
}
