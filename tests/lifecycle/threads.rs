//! Where each thread of a VM goes, under every backend, also when it is born late.

use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::Scenario;
use super::world::{CONF, World, assert_says, done, mask};
use crate::common::sim::{Kernel, Machine, VmSpec, cpus};

const SCOPE: &str = "/qemu.slice/100.scope";

fn thread(world: &World, comm: &str) -> (String, String) {
    let task = world.sim.find_task(comm);
    (task.cgroup, task.mask.to_string())
}

fn in_scope(group: &str, mask: &str) -> (String, String) {
    (format!("{SCOPE}{group}"), mask.to_owned())
}

#[test]
fn a_hot_plugged_vcpu_is_pinned_by_the_next_reconcile() {
    let world = || {
        let conf = CONF.replace("cores: 2", "cores: 3\nvcpus: 2");
        World::lab().vm(100, &conf, "cpus = \"2-4\"\n[pin]\nvcpus = [2, 3, 4]\n")
    };
    Scenario::new("hot-plugged vcpu", world)
        .start(100)
        .known()
        .owns(100)
        .outside(|world| {
            world.sim.plug_vcpu(100);
        })
        .reconcile()
        .owns(100)
        .check(|world| assert_eq!(thread(world, "CPU 2/KVM"), in_scope("/vcpu", "4")))
        .stopped(100)
        .prove();
}

#[test]
fn a_late_thread_that_a_vcpu_begot_is_moved_out_by_the_next_reconcile() {
    Scenario::new("late thread", || {
        let machine = Machine {
            kernel: Kernel(7, 3),
            ..Machine::default()
        };
        World::of(&machine).vm(100, CONF, "cpus = \"2-3\"\n")
    })
    .start(100)
    .known()
    .outside(|world| {
        world.sim.first_kvm_run(100).expect("a thread of kvm");
    })
    .check(|world| assert_eq!(thread(world, "kvm-nx-lpage-re"), in_scope("/vcpu", "2")))
    .reconcile()
    .check(|world| assert_eq!(thread(world, "kvm-nx-lpage-re"), in_scope("", "0-1,4-7")))
    .owns(100)
    .stopped(100)
    .prove();
}

#[test]
fn a_late_thread_is_left_with_what_qemu_has_when_its_vm_is_released() {
    let world = World::of(&Machine {
        kernel: Kernel(7, 3),
        ..Machine::default()
    })
    .vm(100, CONF, "cpus = \"2-3\"\n");
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world.sim.first_kvm_run(100).expect("a thread of kvm");
    done(world.release(Some(100)));
    for comm in ["kvm-nx-lpage-re", "CPU 0/KVM", "kvm"] {
        assert_eq!(thread(&world, comm), in_scope("", "0-7"), "{comm}");
    }
}

const WITH_IOTHREADS: &str = "cores: 2\nmemory: 1024\nhookscript: local:snippets/pin-hook\n\
    scsihw: virtio-scsi-single\nscsi0: local:100/a.raw,iothread=1\n\
    scsi1: local:100/b.raw,iothread=1\nvirtio2: local:100/c.raw,iothread=1\n\
    net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,queues=2\n\
    net1: virtio=BC:24:11:00:00:02,bridge=vmbr0\n";

fn with_iothreads(table: &'static str) -> impl Fn() -> World {
    move || World::lab().vm(100, WITH_IOTHREADS, table)
}

fn iothread_spec() -> VmSpec {
    let names = [
        "iothread-virtioscsi0",
        "iothread-virtioscsi1",
        "iothread-virtio2",
    ];
    names
        .into_iter()
        .fold(VmSpec::with_vcpus(2), VmSpec::iothread)
}

/// QEMU's main thread opens the vhost devices; each gets a worker of the kernel.
fn launch_with_vhost(world: &World) {
    world.launch(100, &iothread_spec());
    let pid = world.sim.vm(100).pid;
    for _ in 0..3 {
        world.sim.spawn_thread(pid, &format!("vhost-{pid}"));
    }
}

fn iothreads(world: &World) -> Vec<(String, String)> {
    let vm = world.sim.vm(100);
    let tasks = vm.iothreads.iter().map(|(_, tid)| world.sim.task(*tid));
    tasks
        .map(|task| (task.cgroup, task.mask.to_string()))
        .collect()
}

fn vhost(world: &World) -> Vec<(String, String)> {
    let pid = world.sim.vm(100).pid;
    let state = world.sim.state();
    let workers = state
        .tasks
        .of_process(pid)
        .filter(|task| task.comm.starts_with("vhost-"));
    workers
        .map(|task| (task.cgroup.clone(), task.mask.to_string()))
        .collect()
}

#[test]
fn iothreads_by_name_and_vhost_by_order_get_their_cpus_of_the_host() {
    let table = "cpus = \"2-3\"\n[pin]\nemulator = \"0-1\"\n\
                 iothreads = { scsi0 = \"4\", \"*\" = \"5\" }\nvhost = { net0 = \"6\", net1 = \"7\" }\n";
    Scenario::new("iothreads outside", with_iothreads(table))
        .pre_start(100)
        .known()
        .outside(launch_with_vhost)
        .post_start(100)
        .outside(World::end_worker)
        .owns(100)
        .check(|world| {
            let of = |mask| in_scope("", mask);
            assert_eq!(iothreads(world), [of("4"), of("5"), of("5")]);
            assert_eq!(vhost(world), [of("6"), of("6"), of("7")]);
            assert_eq!(thread(world, "kvm"), of("0-1"));
            assert_eq!(thread(world, "vnc_worker"), of("0-1"));
        })
        .stopped(100)
        .prove();
}

/// Numbers begin again at `pid_max`.
#[test]
fn vhost_workers_are_told_by_their_age() {
    let table = "cpus = \"2-3\"\n[pin]\nvhost = { net0 = \"6\", net1 = \"7\" }\n";
    let world = with_iothreads(table)();
    done(world.phase(Phase::PreStart, 100));
    launch_with_vhost(&world);
    let last = world.sim.state().tasks.iter().map(|task| task.tid).max();
    {
        let mut state = world.sim.state();
        let task = state.tasks.get_mut(last.unwrap()).unwrap();
        task.start = 1;
    }
    done(world.phase(Phase::PostStart, 100));
    let of = |mask| in_scope("", mask);
    assert_eq!(vhost(&world), [of("6"), of("7"), of("6")]);
}

#[test]
fn emulator_threads_may_have_owned_cpus() {
    let table = "cpus = \"2-3\"\n[isolate]\nalso = \"4\"\n[pin]\nemulator = \"4\"\n";
    Scenario::new("emulator inside", with_iothreads(table))
        .pre_start(100)
        .known()
        .outside(launch_with_vhost)
        .post_start(100)
        .outside(World::end_worker)
        .owns(100)
        .check(|world| assert_eq!(thread(world, "kvm"), in_scope("/io", "4")))
        .reconcile()
        .stopped(100)
        .prove();
}

#[test]
fn iothreads_with_owned_cpus_have_a_partition_of_their_own() {
    let table = "cpus = \"2-3\"\n[isolate]\nalso = \"4-5\"\n\
                 [pin]\niothreads = { scsi0 = \"4\", \"*\" = \"5\" }\n";
    Scenario::new("iothreads inside", with_iothreads(table))
        .pre_start(100)
        .known()
        .outside(launch_with_vhost)
        .post_start(100)
        .outside(World::end_worker)
        .owns(100)
        .check(|world| {
            let of = |mask| in_scope("/io", mask);
            assert_eq!(iothreads(world), [of("4"), of("5"), of("5")]);
            assert_eq!(vhost(world), vec![in_scope("", "0-1,6-7"); 3]);
            assert_eq!(
                world.sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"),
                "2-5\n"
            );
        })
        .stop(100)
        .prove();
}

#[test]
fn cpus_owned_without_a_vcpu_are_idle() {
    let world = || {
        let table = "cpus = \"2\"\n[isolate]\nalso = \"3\"\n";
        World::lab().vm(100, &CONF.replace("cores: 2", "cores: 1"), table)
    };
    Scenario::new("idle sibling", world)
        .start_as(100, VmSpec::with_vcpus(1))
        .owns(100)
        .check(|world| {
            assert_eq!(
                world.sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"),
                "2-3\n"
            );
        })
        .stop(100)
        .play();
}

#[test]
fn a_root_partition_is_as_exclusive_and_leaves_unbound_work_to_us() {
    let world = || World::lab().vm(100, CONF, "cpus = \"2-3\"\n[isolate]\nbackend = \"root\"\n");
    Scenario::new("backend root", world)
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .known()
        .post_start(100)
        .outside(World::end_worker)
        .owns(100)
        .check(|world| {
            let work = world.sim.get("/sys/devices/virtual/workqueue/cpumask");
            assert_eq!(work, "f3\n");
            assert_eq!(world.claim(100).unwrap().wishes.backend.to_string(), "root");
        })
        .stopped(100)
        .prove();
}

#[test]
fn without_a_partition_the_vcpus_are_pinned_and_nothing_else_is_touched() {
    let world = || {
        World::lab().vm(
            100,
            CONF,
            "cpus = \"2-3\"\n[isolate]\nbackend = \"affinity\"\n",
        )
    };
    Scenario::new("backend affinity", world)
        .start(100)
        .check(|world| {
            for (comm, cpus) in [("CPU 0/KVM", "2"), ("CPU 1/KVM", "3"), ("kvm", "0-7")] {
                assert_eq!(thread(world, comm), in_scope("", cpus));
            }
            assert_eq!(world.sim.find_task("khungtaskd").mask, cpus("0-7"));
            assert_eq!(world.sim.get("/proc/irq/30/smp_affinity_list"), "0-7\n");
        })
        .stop(100)
        .prove();
}

#[test]
fn threads_that_refuse_to_be_moved_are_counted_and_not_tried_again() {
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    let pid = world.sim.vm(100).pid;
    let worker = world.sim.spawn_thread(pid, "iou-wrk-1");
    world.sim.state().tasks.get_mut(worker).unwrap().flags |= 0x0400_0000;
    let account = done(world.phase(Phase::PostStart, 100));
    world.assert_owns(100);
    assert_says(&account, "owns cpus 2-3");
    assert!(
        !world
            .writes()
            .iter()
            .any(|op| op.contains(&worker.to_string()))
    );
    assert_eq!(mask(&world, pid), cpus("0-1,4-7"));
}
