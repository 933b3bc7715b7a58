//! What is born while a VM owns CPUs has afterwards what it would have had without the VM.

use pin_hook::domain::cpuset::CpuSet;
use pin_hook::domain::knob::Knob;
use pin_hook::domain::target::{Place, Target, Value};
use pin_hook::host::target::{self, Outcome};
use pin_hook::lifecycle::engine::account::Level;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, CONF_WITHOUT_HOOK, World, done, mask};
use crate::common::sim::{Machine, TaskSpec, VmSpec, cpus};

/// A kernel thread is born: it has the CPUs of kthreadd.
fn beget(world: &World, comm: &str) -> i32 {
    let spec = TaskSpec::named(comm).kthread(false).on_cpus(mask(world, 2));
    let tid = world.sim.spawn(spec);
    world.sim.state().tasks.get_mut(tid).unwrap().requested = world.sim.task(2).requested;
    tid
}

fn irq(world: &World, number: u32) -> String {
    world
        .sim
        .get(&format!("/proc/irq/{number}/smp_affinity_list"))
        .trim()
        .to_owned()
}

fn end_births(world: &World) {
    world.sim.remove_irq(60);
    world.sim.remove_irq(61);
    let born = {
        let state = world.sim.state();
        let mut tasks = state.tasks.iter();
        tasks.find(|task| task.comm == "born").map(|task| task.tid)
    };
    born.into_iter().for_each(|tid| world.sim.kill(tid));
}

#[test]
fn an_interrupt_and_a_kernel_thread_that_are_born_under_a_claim_are_freed_with_it() {
    Scenario::new("births", World::with_vm)
        .start(100)
        .known()
        .outside(|world| {
            world.sim.add_irq(60, "late");
            world.sim.state().add_irq(61, "late of node 0", 0);
            beget(world, "born");
        })
        .check(|world| assert_eq!([irq(world, 60), irq(world, 61)], ["0-1,4-7", "0-1"]))
        .reconcile()
        .owns(100)
        .stop(100)
        .check(|world| {
            assert_eq!([irq(world, 60), irq(world, 61)], ["0-7", "0-3"]);
            assert_eq!(world.sim.find_task("born").mask, cpus("0-7"));
        })
        .at_last(end_births)
        .prove();
}

/// Boards list CPUs that no socket has, and tell no node of most devices: eight CPUs that are there, of twelve.
fn with_absent_cpus() -> World {
    let machine = Machine {
        absent: 4,
        ..Machine::default()
    };
    World::of(&machine).vm(100, CONF, "cpus = \"2-3\"\n")
}

#[test]
fn an_interrupt_is_born_on_what_is_online_of_the_default() {
    let world = with_absent_cpus();
    assert_eq!([irq(&world, 30), irq(&world, 24)], ["0-7", "0-3"]);
    world.start(100);
    world.sim.add_irq(60, "late");
    world.sim.allocate_irq(61);
    let of_both = || [irq(&world, 60), irq(&world, 61)];
    assert_eq!(of_both(), ["0-1,4-7", "0-1,4-11"]);
    done(world.reconcile());
    world.stop(100);
    assert_eq!(of_both(), ["0-7", "0-11"]);
    world.assert_at_rest();
}

#[test]
fn an_interrupt_that_its_driver_sets_up_again_is_nobody_elses_where_cpus_are_absent() {
    let world = with_absent_cpus();
    world
        .sim
        .poke("/proc/irq/30/smp_affinity_list", "1-3")
        .unwrap();
    world.start(100);
    assert_eq!(irq(&world, 30), "1");
    world.sim.state().rebirth_irq(30);
    assert_eq!(irq(&world, 30), "0-1,4-7");
    let account = done(world.reconcile());
    let mut lines = account.lines.iter();
    assert!(
        lines.all(|line| line.level != Level::Warning),
        "{account:#?}"
    );
    world.stop(100);
    assert_eq!(irq(&world, 30), "1-3");
}

#[test]
fn interrupts_are_given_back_without_the_state_where_cpus_are_absent() {
    let world = with_absent_cpus();
    world.start(100);
    world.sim.add_irq(60, "late");
    world.sim.allocate_irq(61);
    world.lose_state();
    done(world.release(None));
    let given_back = [30, 60, 61].map(|number| irq(&world, number));
    assert_eq!(given_back, ["0-7", "0-7", "0-11"]);
}

#[test]
fn a_number_that_another_interrupt_has_got_is_not_written() {
    let world = World::lab();
    let before = irq(&world, 30);
    let (gone, cpus) = (Place::Irq(30, "gone".to_owned()), Value::Cpus(cpus("1")));
    let target = Target::Knob(Knob::IrqAffinity, gone);
    let outcome = target::write(&world.host, &target, &Value::Absent, &cpus).unwrap();
    assert!(matches!(outcome, Outcome::Gone), "{outcome:?}");
    assert_eq!(irq(&world, 30), before);
}

/// The list of kernel threads leaves one out when another one ends while it is read.
#[test]
fn a_kernel_thread_that_a_list_leaves_out_is_not_forgotten() {
    let world = World::with_vm();
    let before = world.capture();
    let near = world.sim.find_task("kswapd0").tid;
    for n_looks in 1..4 {
        world.start(100);
        assert_ne!(world.sim.mask(near), "0-3");
        world.end_qemu(100);
        let stat = format!("read /proc/{near}/task/{near}/stat");
        world.sim.fail(&stat, libc::ESRCH, n_looks);
        done(world.phase(Phase::PostStop, 100));
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        world.assert_as(&before);
    }
}

#[test]
fn what_is_born_right_before_the_end_is_freed_without_a_reconcile_in_between() {
    Scenario::new("late births", World::with_vm)
        .start(100)
        .known()
        .outside(|world| {
            world.sim.add_irq(60, "late");
            beget(world, "born");
        })
        .stop(100)
        .check(|world| {
            assert_eq!(irq(world, 60), "0-7");
            assert_eq!(world.sim.find_task("born").mask, cpus("0-7"));
        })
        .at_last(end_births)
        .prove();
}

#[test]
fn what_is_born_under_two_claims_is_freed_when_both_have_ended() {
    Scenario::new("births under two claims", World::with_two_vms)
        .start(100)
        .start(101)
        .outside(|world| {
            world.sim.add_irq(60, "late");
            beget(world, "born");
        })
        .stop(100)
        .check(|world| assert_eq!(irq(world, 60), "0-3,6-7"))
        .owns(101)
        .stop(101)
        .check(|world| assert_eq!(irq(world, 60), "0-7"))
        .at_last(end_births)
        .play();
}

#[test]
fn an_interrupt_number_that_is_used_again_is_another_interrupt() {
    Scenario::new("number used again", World::with_vm)
        .start(100)
        .outside(|world| {
            world
                .sim
                .poke("/proc/irq/30/smp_affinity_list", "0")
                .unwrap();
            world.sim.remove_irq(30);
            world.sim.add_irq(30, "another");
        })
        .stop(100)
        .check(|world| assert_eq!(irq(world, 30), "0-7"))
        .outside(|world| {
            world.sim.remove_irq(30);
            world.sim.add_irq(30, "eth0-TxRx-0");
        })
        .play();
}

#[test]
fn a_thread_number_that_is_used_again_is_another_thread() {
    Scenario::new("thread number used again", World::with_vm)
        .start(100)
        .outside(|world| {
            let (_, tid) = world.sim.vm(100).vcpus[1];
            world.end_qemu(100);
            world
                .sim
                .spawn(TaskSpec::named("other").on_cpus(cpus("5")).with_tid(tid));
        })
        .post_stop(100)
        .outside(World::end_worker)
        .check(|world| assert_eq!(world.sim.find_task("other").mask, cpus("5")))
        .outside(|world| {
            let other = world.sim.find_task("other").tid;
            world.sim.kill(other);
        })
        .play();
}

#[test]
fn a_scope_that_is_born_under_a_claim_has_every_cpu_afterwards() {
    Scenario::new("scope born", World::with_vm)
        .start(100)
        .outside(|world| world.launch(105, &VmSpec::with_vcpus(2)))
        .check(|world| assert_eq!(mask(world, world.sim.vm(105).pid), cpus("0-1,4-7")))
        .reconcile()
        .stop(100)
        .check(|world| {
            for tid in world.sim.vm_tids(105) {
                assert_eq!(mask(world, tid), cpus("0-7"));
            }
        })
        .outside(|world| world.end_qemu(105))
        .play();
}

#[test]
fn affinities_that_were_there_before_come_back() {
    let world = || {
        let world = World::with_vm();
        world
            .sim
            .poke("/proc/irq/30/smp_affinity_list", "2-4")
            .unwrap();
        world
            .sim
            .poke("/proc/irq/31/smp_affinity_list", "3")
            .unwrap();
        let thread = world.sim.find_task("khungtaskd").tid;
        world
            .sim
            .state()
            .set_affinity(thread, &cpus("1-2"))
            .unwrap();
        let thread = world.sim.find_task("kauditd").tid;
        world.sim.state().set_affinity(thread, &cpus("3")).unwrap();
        world
    };
    Scenario::new("own affinities", world)
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .known()
        .post_start(100)
        .outside(World::end_worker)
        .check(|world| {
            assert_eq!(irq(world, 30), "4");
            let moved = world.sim.find_task("kauditd").mask;
            assert!(moved.is_subset(&cpus("0-1,4-7")) && moved != CpuSet::new());
            assert_eq!(world.sim.find_task("khungtaskd").mask, cpus("1"));
        })
        .owns(100)
        .stop(100)
        .prove();
}

#[test]
fn kernel_threads_and_interrupts_that_are_not_to_be_moved_are_as_before_too() {
    let world = || {
        let table = "cpus = \"2-3\"\n[isolate]\nkthreads = false\nirqs = false\n";
        World::lab().vm(100, CONF, table)
    };
    Scenario::new("nothing moved", world)
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .known()
        .post_start(100)
        .outside(World::end_worker)
        .check(|world| {
            assert_eq!(irq(world, 30), "0-7");
            let own = world.sim.find_task("kswapd0");
            assert!(!own.mask.is_empty() && own.requested.is_none());
        })
        .reconcile()
        .stop(100)
        .prove();
}

#[test]
fn kernel_threads_of_a_node_that_stays_with_the_host_are_not_taken_for_born() {
    Scenario::new("the other node", || {
        World::lab().vm(100, CONF, "cpus = \"4-7\"\n")
    })
    .pre_start(100)
    .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
    .known()
    .post_start(100)
    .outside(World::end_worker)
    .owns(100)
    .stop(100)
    .prove();
}

#[test]
fn a_vcpu_that_was_pinned_by_hand_before_gets_that_back() {
    let world = || World::lab().vm(100, CONF_WITHOUT_HOOK, "cpus = \"2-3\"\n");
    let pinned = |world: &World| {
        let (_, tid) = world.sim.vm(100).vcpus[0];
        mask(world, tid)
    };
    Scenario::new("pinned before", world)
        .outside(|world| {
            world.launch(100, &VmSpec::with_vcpus(2));
            let (_, tid) = world.sim.vm(100).vcpus[0];
            world.sim.state().set_affinity(tid, &cpus("6")).unwrap();
        })
        .call("apply", Then::OwnedOrNot, |world| done(world.apply(100)))
        .owns(100)
        .outside(World::end_worker)
        .call("release", Then::Either, |world| {
            done(world.release(Some(100)))
        })
        .check(move |world| assert_eq!(pinned(world), cpus("6")))
        .outside(|world| {
            world.end_worker();
            world.end_qemu(100);
        })
        .reconcile()
        .prove();
}
