//! Starts of VMs, and their ordinary ends.

use pin_hook::domain::cpuset::CpuSet;
use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, World, assert_says, done, mask};
use crate::common::sim::{Machine, VmSpec, cpus};

#[test]
fn a_vm_owns_its_cpus_from_its_start_to_its_stop() {
    Scenario::new("start and stop", World::with_vm)
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .call("post-start 100", Then::Owned, |world| {
            done(world.phase(Phase::PostStart, 100))
        })
        .outside(World::end_worker)
        .owns(100)
        .check(|world| {
            assert_eq!(
                world.sim.get("/sys/fs/cgroup/cpuset.cpus.effective"),
                "0-1,4-7\n"
            );
            assert_eq!(
                world.sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"),
                "2-3\n"
            );
            assert!(world.sim.is_active("pin-hook-reconcile.timer"));
        })
        .reconcile()
        .owns(100)
        .stop(100)
        .prove();
}

#[test]
fn nobody_may_use_the_cpus_of_a_running_vm() {
    let world = World::of(&Machine {
        containers: vec![200],
        ..Machine::default()
    });
    let world = world.vm(100, CONF, "cpus = \"2-3\"\n");
    let before = world.capture();
    let shell = world.sim.find_task("bash").tid;
    let container = world.sim.find_task("init").tid;
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world.assert_owns(100);
    for tid in [shell, container] {
        assert_eq!(mask(&world, tid), cpus("0-1,4-7"));
        let refused = world.sim.state().set_affinity(tid, &cpus("2")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    }
    world.end_worker();
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn a_guest_that_powers_off_gives_the_host_back_without_pre_stop() {
    Scenario::new("guest poweroff", World::with_vm)
        .start(100)
        .known()
        .outside(|world| world.end_qemu(100))
        .post_stop(100)
        .outside(World::end_worker)
        .prove();
}

#[test]
fn reconcile_gives_the_host_back_when_qemu_was_killed() {
    Scenario::new("kill", World::with_vm)
        .start(100)
        .known()
        .outside(|world| world.sim.kill_qemu(100))
        .reconcile()
        .check(|world| assert_eq!(world.claim_state(100), "none"))
        .at_last(|world| drop(world.sim.state().tree.remove("/run/qemu-server/100.pid")))
        .prove();
}

#[test]
fn the_reservation_of_a_failed_start_ends_with_its_starter() {
    Scenario::new("failed start", World::with_vm)
        .pre_start(100)
        .outside(|world| {
            done(world.reconcile());
            assert_eq!(world.claim_state(100), "reserved");
            world.end_worker();
        })
        .reconcile()
        .check(|world| assert_eq!(world.claim_state(100), "none"))
        .prove();
}

#[test]
fn a_starter_that_is_stuck_does_not_keep_the_cpus_for_ever() {
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.sim.advance(std::time::Duration::from_secs(31 * 60));
    done(world.reconcile());
    assert_eq!(world.claim_state(100), "none");
    world.assert_at_rest();
}

#[test]
fn a_vm_that_migrates_away_gives_the_host_back_without_any_phase() {
    let conf = "/etc/pve/nodes/pve1/qemu-server/100.conf";
    Scenario::new("migrate away", World::with_vm)
        .start(100)
        .known()
        .outside(move |world| {
            let text = world.sim.get(conf);
            world.sim.state().tree.remove(conf).unwrap();
            world
                .sim
                .put("/etc/pve/nodes/pve2/qemu-server/100.conf", &text);
            world.end_qemu(100);
        })
        .reconcile()
        .at_last(move |world| {
            world.sim.vm_conf(100, CONF);
            world.sim.state().tree.remove_all("/etc/pve/nodes/pve2");
        })
        .prove();
}

#[test]
fn two_vms_do_not_touch_each_other() {
    for (first, second) in [(100, 101), (101, 100)] {
        let both = || {
            Scenario::new("two vms", World::with_two_vms)
                .start(first)
                .known()
                .start(second)
                .owns(first)
                .owns(second)
        };
        // The deaths of one order are those of the other with the names exchanged.
        let last_is_first = both().stop(second).owns(first).stop(first);
        let first_is_first = both().stop(first).owns(second).stop(second);
        match first {
            100 => first_is_first.prove(),
            _ => first_is_first.play(),
        }
        last_is_first.play();
    }
}

#[test]
fn a_vm_is_untouched_by_an_unhooked_one_that_comes_and_goes() {
    Scenario::new("unhooked vm", World::with_vm)
        .start(100)
        .outside(|world| world.launch(105, &VmSpec::with_vcpus(2)))
        .owns(100)
        .check(|world| {
            world.sim.set_property("100.scope");
            world.sim.daemon_reload();
        })
        .owns(100)
        .outside(|world| world.end_qemu(105))
        .owns(100)
        .stop(100)
        .play();
}

#[test]
fn a_post_stop_of_an_earlier_run_changes_nothing() {
    Scenario::new("late post-stop", World::with_vm)
        .start(100)
        .known()
        .outside(|world| world.end_qemu(100))
        .pre_start_or(100, Then::AtRest)
        .check(|world| {
            world.sim.take_log();
            done(world.phase(Phase::PostStop, 100));
            assert_eq!(world.writes(), Vec::<String>::new());
            assert_eq!(world.claim_state(100), "reserved");
        })
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .post_start(100)
        .check(|world| {
            world.sim.take_log();
            let account = done(world.phase(Phase::PostStop, 100));
            assert_says(&account, "nothing restored");
            assert_eq!(world.writes(), Vec::<String>::new());
        })
        .owns(100)
        .outside(World::end_worker)
        .stopped(100)
        .prove();
}

#[test]
fn a_guest_that_does_not_run_yet_waits_until_reconcile_sees_it_run() {
    for state in ["prelaunch", "inmigrate"] {
        let scenario = Scenario::new("waiting", World::with_vm)
            .start_as(100, VmSpec::with_vcpus(2).run_state(state))
            .known()
            .reconcile()
            .check(|world| {
                assert_eq!(world.claim_state(100), "waiting");
                assert_eq!(world.sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"), "\n");
            })
            .outside(|world| world.sim.set_run_state(100, "running"))
            .reconcile()
            .owns(100)
            .stopped(100);
        match state {
            "prelaunch" => scenario.prove(),
            _ => scenario.play(),
        }
    }
}

#[test]
fn a_guest_that_is_stopped_while_it_waits_leaves_nothing() {
    Scenario::new("backup of a stopped vm", World::with_vm)
        .start_as(100, VmSpec::with_vcpus(2).run_state("prelaunch"))
        .stop(100)
        .play();
}

#[test]
fn an_incoming_migration_reads_the_config_of_its_source() {
    let world = || {
        let world = World::with_vm();
        world
            .sim
            .state()
            .tree
            .remove("/etc/pve/nodes/pve1/qemu-server/100.conf")
            .unwrap();
        world
            .sim
            .put("/etc/pve/nodes/pve2/qemu-server/100.conf", CONF);
        // What is left of the delegation is that of a hooked VM.
        world
            .sim
            .state()
            .tree
            .put_dir("/run/systemd/system/100.scope.d");
        world
    };
    Scenario::new("incoming migration", world)
        .outside(|world| world.migrating_from("pve2"))
        .start_as(100, VmSpec::with_vcpus(2).run_state("inmigrate"))
        .check(|world| assert_eq!(world.claim_state(100), "waiting"))
        .outside(|world| {
            world.sim.vm_conf(100, CONF);
            world.migrating_from("");
            world.sim.set_run_state(100, "running");
        })
        .reconcile()
        .owns(100)
        .outside(|world| world.end_qemu(100))
        .reconcile()
        .outside(|world| {
            let mut state = world.sim.state();
            state
                .tree
                .remove("/etc/pve/nodes/pve1/qemu-server/100.conf")
                .unwrap();
            state.tree.remove_all("/run/systemd/system/100.scope.d");
            state.tree.put_dir("/run/systemd/system/100.scope.d");
        })
        .play();
}

#[test]
fn a_phase_that_is_run_twice_writes_nothing_the_second_time() {
    let world = World::with_vm();
    let twice = |phase| {
        done(world.phase(phase, 100));
        world.sim.take_log();
        done(world.phase(phase, 100));
        assert_eq!(world.writes(), Vec::<String>::new(), "{phase}");
    };
    done(world.phase(Phase::PreStart, 100));
    world.sim.take_log();
    done(world.phase(Phase::PreStart, 100));
    let writes = world.writes();
    assert!(
        writes.iter().all(|op| op.contains("/run/pin-hook/")),
        "{writes:#?}"
    );
    world.launch(100, &VmSpec::with_vcpus(2));
    twice(Phase::PostStart);
    done(world.apply(100));
    assert_eq!(world.writes(), Vec::<String>::new(), "apply");
    done(world.reconcile());
    assert_eq!(world.writes(), Vec::<String>::new(), "reconcile");
    world.end_worker();
    world.end_qemu(100);
    twice(Phase::PostStop);
}

/// PVE never does that.
#[test]
fn a_pre_start_by_hand_takes_nothing_from_a_vm_that_runs() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    world.sim.take_log();
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "vm 100: already running, its claim stays as it is",
    );
    assert_eq!(world.writes(), Vec::<String>::new());
    world.end_worker();
    done(world.reconcile());
    world.assert_owns(100);
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn what_is_no_vm_with_a_table_is_left_alone() {
    let world = World::with_vm().vm(102, "cores: 2\ntemplate: 1\n", "cpus = \"2-3\"\n");
    world.sim.vm_conf(101, CONF);
    world
        .sim
        .put("/etc/pve/nodes/pve1/lxc/200.conf", "cores: 1\n");
    let before = world.capture();
    for vmid in [101, 102, 200, 300] {
        let account = world.phase(Phase::PreStart, vmid);
        assert_eq!(account.exit, Exit::Done);
        assert_says(&account, "nothing to do");
        assert_eq!(account.lines.len(), 1);
        assert_eq!(world.writes(), Vec::<String>::new());
    }
    world.end_worker();
    world.assert_as(&before);
}

#[test]
fn a_vm_may_be_started_right_after_its_qemu_was_killed() {
    Scenario::new("kill and start", World::with_vm)
        .start(100)
        .outside(|world| world.sim.kill_qemu(100))
        .pre_start_or(100, Then::AtRest)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .post_start(100)
        .owns(100)
        .outside(World::end_worker)
        .stop(100)
        .play();
}

#[test]
fn affinity_of_the_whole_vm_is_what_its_threads_get_back() {
    let conf = format!("{CONF}affinity: 0-1\n");
    let world = move || World::lab().vm(100, &conf, "cpus = \"2-3\"\n");
    Scenario::new("affinity", world)
        .start_as(100, VmSpec::with_vcpus(2).affinity(cpus("0-1")))
        .owns(100)
        .call("release", Then::Either, |world| {
            done(world.release(Some(100)))
        })
        .check(|world| {
            let vm = world.sim.vm(100);
            for (_, tid) in vm.vcpus {
                assert_eq!(mask(world, tid), cpus("0-1"));
            }
            assert_eq!(world.sim.task(vm.pid).mask, CpuSet::clone(&cpus("0-1")));
        })
        .outside(|world| world.end_qemu(100))
        .post_stop(100)
        .outside(World::end_worker)
        .play();
}

#[test]
fn a_changed_table_leaves_partitions_alone() {
    let world = World::with_two_vms();
    for vmid in [100, 101] {
        done(world.phase(Phase::PreStart, vmid));
        world.launch(vmid, &VmSpec::with_vcpus(2));
        done(world.phase(Phase::PostStart, vmid));
    }
    world
        .sim
        .table(100, "cpus = \"2-3\"\nisolate.irqs = false\n");
    world.writes();
    done(world.apply(100));
    let writes = world.writes();
    let cgroups = writes.iter().filter(|op| op.contains("/sys/fs/cgroup/"));
    assert_eq!(cgroups.count(), 0, "{writes:#?}");
}
