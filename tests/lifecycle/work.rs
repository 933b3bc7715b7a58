//! Unbound kernel work, the watchdog, the class of vCPU threads, and where interrupts really go.

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, World, assert_says, done};
use crate::common::sim::{Kernel, Machine, TaskSpec, VmSpec};

const QUEUES: &str = "/sys/devices/virtual/workqueue";
const WATCHDOG: &str = "/proc/sys/kernel/watchdog_cpumask";
const ROOT: &str = "cpus = \"2-3\"\n[isolate]\nbackend = \"root\"\n";

fn running(table: &str) -> World {
    let world = World::lab().vm(100, CONF, table);
    world.start(100);
    world
}

fn masks(world: &World) -> Vec<String> {
    let files = ["cpumask", "cpumask_requested", "writeback/cpumask"];
    let texts = files.map(|file| world.sim.get(&format!("{QUEUES}/{file}")));
    texts.iter().map(|text| text.trim().to_owned()).collect()
}

#[test]
fn an_isolated_partition_leaves_the_mask_of_all_work_to_the_kernel() {
    let world = running("cpus = \"2-3\"\n");
    assert_eq!(masks(&world), ["f3", "ff", "f3"]);
    assert_eq!(world.sim.get(WATCHDOG), "0-1,4-7\n");
    let writes = world.writes();
    let all_work = format!("{QUEUES}/cpumask ");
    assert!(
        writes.iter().all(|op| !op.contains(&all_work)),
        "{writes:#?}"
    );
}

#[test]
fn a_root_partition_has_unbound_work_kept_off() {
    let world = running(ROOT);
    assert_eq!(masks(&world), ["f3", "f3", "f3"]);
    done(world.release(Some(100)));
    assert_eq!(masks(&world), ["ff", "ff", "ff"]);
    assert_eq!(world.sim.get(WATCHDOG), "0-7\n");
}

#[test]
fn work_and_watchdog_are_left_alone_where_the_table_says_so() {
    let table = "cpus = \"2-3\"\n[isolate]\nworkqueues = false\nwatchdog = false\n";
    let world = running(table);
    let backend = world.claim(100).unwrap().wishes.backend.to_string();
    assert_eq!(backend, "root");
    assert_eq!(masks(&world), ["ff", "ff", "ff"]);
    assert_eq!(world.sim.get(WATCHDOG), "0-7\n");
}

#[test]
fn a_workqueue_that_comes_later_is_narrowed_and_given_back_what_it_had() {
    let world = running("cpus = \"2-3\"\n");
    let all = world.sim.state().cpus.possible.clone();
    let dir = format!("{QUEUES}/late");
    world.sim.state().tree.put_dir(&dir);
    let mut state = world.sim.state();
    state.workqueue.queues.insert("late".to_owned(), all);
    drop(state);
    done(world.reconcile());
    assert_eq!(world.sim.get(&format!("{dir}/cpumask")), "f3\n");
    world.sim.state().workqueue.queues.remove("nvme-wq");
    done(world.release(Some(100)));
    assert_eq!(world.sim.get(&format!("{dir}/cpumask")), "ff\n");
    world.assert_at_rest();
}

/// Two VMs, one of which has its unbound work kept off by the kernel, in every order.
#[test]
fn masks_of_work_are_given_back_in_every_order_of_stops() {
    let world = || {
        World::lab()
            .vm(100, CONF, ROOT)
            .vm(101, CONF, "cpus = \"4-5\"\n")
    };
    for (first, second) in [(100, 101), (101, 100)] {
        for last in [first, second] {
            let other = if last == first { second } else { first };
            Scenario::new("two kinds of partitions", world)
                .start(first)
                .start(second)
                .check(|world| assert_eq!(masks(world), ["c3", "c3", "c3"]))
                .stop(other)
                .check(move |world| {
                    let left = if last == 100 { "f3" } else { "cf" };
                    let masks = masks(world);
                    assert_eq!((masks[0].as_str(), masks[2].as_str()), (left, left));
                })
                .stop(last)
                .play();
        }
    }
}

#[test]
fn a_vm_with_a_class_and_a_root_partition_survives_death_at_every_write() {
    let table = "cpus = \"2-3\"\npin.scheduler = \"rr:7\"\n[isolate]\nbackend = \"root\"\n";
    Scenario::new("class and work", move || World::lab().vm(100, CONF, table))
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .call("post-start 100", Then::Owned, |world| {
            done(world.phase(Phase::PostStart, 100))
        })
        .outside(World::end_worker)
        .stop(100)
        .prove();
}

#[test]
fn vcpu_threads_have_their_class_until_they_are_released() {
    let world = running("cpus = \"2-3\"\npin.scheduler = \"fifo:1\"\n");
    let vm = world.sim.vm(100);
    let class = |tid| {
        let task = world.sim.task(tid);
        (task.policy, task.rt_priority)
    };
    for (_, tid) in &vm.vcpus {
        assert_eq!(class(*tid), (1, 1));
    }
    assert_eq!(class(vm.pid), (0, 0));
    let child = world.sim.spawn_thread(vm.vcpus[0].1, "kvm-nx-lpage-re");
    assert_eq!(class(child), (0, 0));
    done(world.release(Some(100)));
    for (_, tid) in &vm.vcpus {
        assert_eq!(class(*tid), (0, 0));
    }
    world.assert_at_rest();
}

#[test]
fn a_real_time_class_is_refused_where_it_could_stop_the_host() {
    let class = "pin.scheduler = \"fifo:1\"\n";
    let shared = format!("cpus = \"2-3\"\n{class}[isolate]\nbackend = \"affinity\"\n");
    let alone = format!("cpus = \"2-3\"\n{class}");
    for (table, limit, fact) in [
        (&shared, "950000", "other tasks run on the same cpus"),
        (&alone, "-1", "kernel.sched_rt_runtime_us is -1"),
    ] {
        let world = World::lab().vm(100, CONF, table);
        world.sim.put(
            "/proc/sys/kernel/sched_rt_runtime_us",
            &format!("{limit}\n"),
        );
        world.sim.take_log();
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        assert_says(&account, fact);
        let writes = world.writes();
        let writes: Vec<&String> = writes
            .iter()
            .filter(|op| !op.contains("/run/pin-hook"))
            .collect();
        assert!(writes.is_empty(), "{writes:#?}");
    }
}

#[test]
fn work_is_not_moved_on_kernels_that_it_can_stall() {
    let machine = Machine {
        kernel: Kernel(6, 17),
        ..Machine::default()
    };
    let world = World::of(&machine).vm(100, CONF, "cpus = \"2-3\"\n");
    world.start(100);
    assert_eq!(masks(&world), ["ff", "ff", "ff"]);
    let table = "cpus = \"2-3\"\n[isolate]\nworkqueues = true\n";
    let world = World::of(&machine).vm(100, CONF, table);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, "workqueues = true is refused: kernel 6.17.4: ");
}

#[test]
fn kernel_threads_of_a_vm_go_where_its_table_sends_them() {
    let table = "cpus = \"2-3\"\npin.vhost = { net0 = \"6\" }\n";
    let conf = format!("{CONF}net0: virtio=BC:24:11:00:00:01,bridge=vmbr0\n");
    let world = World::lab().vm(100, &conf, table);
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    let pid = world.sim.vm(100).pid;
    let born = |name: &str, group: &str| {
        let spec = TaskSpec::named(name).kthread(false);
        world.sim.spawn(spec.in_cgroup(group))
    };
    let worker = born(&format!("vhost-{pid}"), "/qemu.slice/100.scope");
    let of_nobody = born("vhost-1", "");
    done(world.phase(Phase::PostStart, 100));
    let strayed = born("kvm-nx-lpage-re", "/qemu.slice/100.scope/vcpu");
    world.end_worker();
    done(world.reconcile());
    assert_eq!(world.sim.mask(worker), "6");
    assert_eq!(world.sim.mask(of_nobody), "0-1,4-7");
    assert_eq!(world.sim.task(strayed).cgroup, "/qemu.slice/100.scope");
    assert_eq!(world.sim.mask(strayed), "0-1,4-7");
    done(world.release(Some(100)));
    assert_eq!(world.sim.mask(worker), "0-7");
    world.assert_at_rest();
}

#[test]
fn interrupts_that_move_with_their_next_occurrence_are_counted() {
    let world = World::with_vm();
    world
        .sim
        .poke("/proc/irq/30/smp_affinity_list", "2")
        .unwrap();
    world.sim.state().irqs.lazy = true;
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        "interrupts that will only move when they next occur: 1",
    );
    world.end_worker();
    assert_eq!(done(world.reconcile()).lines, []);
}

#[test]
fn an_interrupt_without_a_free_vector_goes_to_other_cpus_of_the_host_and_stays_there() {
    let world = World::with_vm();
    let list = "/proc/irq/30/smp_affinity_list";
    world.sim.poke(list, "1-3").unwrap();
    let before = world.capture();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world
        .sim
        .fail(&format!("=write {list} 1"), libc::ENOSPC, u32::MAX);
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
    assert_eq!(world.sim.get(list), "0,4-7\n");
    world.writes();
    assert_eq!(done(world.reconcile()).lines, []);
    assert_eq!(world.writes(), Vec::<String>::new());
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn who_moves_an_interrupt_again_and_again_is_named() {
    let world = running("cpus = \"2-3\"\n");
    for _ in 0..4 {
        world
            .sim
            .poke("/proc/irq/31/smp_affinity_list", "2")
            .unwrap();
        let account = done(world.reconcile());
        let named = account
            .lines
            .iter()
            .any(|line| line.text.contains("irqbalance"));
        let given_up = account
            .lines
            .iter()
            .any(|line| line.text.contains("now left alone"));
        assert_eq!(named, given_up, "{account:#?}");
    }
}
