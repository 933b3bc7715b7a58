//! What a phase asks of the kernel and of systemd, on a host with some hundred threads and interrupts.
//!
//! Each number here is a system call or three on every start of a VM, while PVE holds its lock. The numbers are exact:
//! a change that reads something twice fails here, and so does one that saves something. Whoever has a reason to ask
//! for more (or asks for less) puts what the failed test shows in the place of the table, and says in the commit what
//! it is asked for.

use std::fmt::Write;

use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, done};
use crate::common::sim::{Machine, TaskSpec, VmSpec, cpus};

/// Of what there is on a real host by the dozen for each CPU.
const N_BOUND: u32 = 150;
const N_FREE: u32 = 50;
const N_IRQS: u32 = 100;

const TABLE: &str = "cpus = \"2-3\"\npin.scheduler = \"fifo:1\"\n[isolate]\nkthreads = true\nirqs = true\n\
                     workqueues = \"auto\"\n[power]\ngovernor = \"performance\"\n";

/// What each phase asked for when it was last looked at.
const COSTS: &str = "\
pre-start: write 12, exists 17, is_active 1, link 3, list 35, lock 2, node 1, owner 6, read 116
post-start: write 208, affinity 427, delegated 1, exists 22, link 2, list 460, lock 1, owner 2, read 1276, run_state 1
post-start again: write 1, affinity 224, exists 5, list 118, lock 1, owner 2, read 559
reconcile: write 1, affinity 224, exists 8, list 119, lock 1, owner 2, read 557
post-stop: write 191, affinity 335, exists 12, list 338, lock 1, owner 2, read 841
post-stop again: write 1, exists 3, list 3, lock 1, owner 2, read 14
reconcile at rest: write 3, exists 6, list 4, lock 1, owner 2, read 17
";

/// Returns a host with some hundred threads and interrupts, and a VM.
fn large() -> World {
    let world = World::lab().vm(100, CONF, TABLE);
    for n in 0..N_BOUND {
        let spec = TaskSpec::named(&format!("bound/{n}")).kthread(true);
        world.sim.spawn(spec.on_cpus(cpus(&(n % 8).to_string())));
    }
    for n in 0..N_FREE {
        world
            .sim
            .spawn(TaskSpec::named(&format!("free/{n}")).kthread(false));
    }
    for n in 0..N_IRQS {
        world.sim.add_irq(200 + n, &format!("device-{n}"));
    }
    world
}

/// Returns how much a piece of work asked for and wrote, as a line.
fn cost(world: &World, what: &str, work: impl FnOnce()) -> String {
    world.sim.take_log();
    world.sim.state().fate.asked.clear();
    work();
    let writes = world.sim.take_log().len();
    let asked = std::mem::take(&mut world.sim.state().fate.asked);
    let mut line = format!("{what}: write {writes}");
    for (op, n) in asked {
        write!(line, ", {op} {n}").unwrap();
    }
    line
}

#[test]
fn a_phase_asks_for_nothing_twice() {
    let world = large();
    let phase = |what: &str, phase| cost(&world, what, || drop(done(world.phase(phase, 100))));
    let mut costs = vec![phase("pre-start", Phase::PreStart)];
    world.launch(100, &VmSpec::with_vcpus(2));
    costs.push(phase("post-start", Phase::PostStart));
    costs.push(phase("post-start again", Phase::PostStart));
    costs.push(cost(&world, "reconcile", || drop(world.reconcile())));
    world.end_qemu(100);
    costs.push(phase("post-stop", Phase::PostStop));
    costs.push(phase("post-stop again", Phase::PostStop));
    costs.push(cost(&world, "reconcile at rest", || {
        drop(world.reconcile());
    }));
    let costs = costs.join("\n") + "\n";
    assert_eq!(costs, COSTS, "see the head of this file");
}

/// Returns how much the phases of a VM ask for and write, on a host of so many times 16 CPUs and what belongs to them.
fn asked_in_all(size: u32) -> [(Phase, usize); 3] {
    let machine = Machine {
        cores: 4 * size,
        shared_policy: String::new(),
        ..Machine::default()
    };
    let world = World::on(machine.build()).vm(100, CONF, TABLE);
    for n in 0..size * N_FREE {
        let spec = TaskSpec::named(&format!("free/{n}"));
        world.sim.spawn(spec.kthread(false));
        world.sim.add_irq(1000 + n, &format!("device-{n}"));
    }
    for vmid in 200..200 + size {
        world.sim.vm_conf(vmid, CONF);
        world.launch(vmid, &VmSpec::with_vcpus(2));
    }
    [Phase::PreStart, Phase::PostStart, Phase::PostStop].map(|phase| {
        match phase {
            Phase::PostStart => world.launch(100, &VmSpec::with_vcpus(2)),
            Phase::PostStop => world.end_qemu(100),
            _ => {}
        }
        world.sim.take_log();
        world.sim.state().fate.asked.clear();
        done(world.phase(phase, 100));
        let asked: usize = world.sim.state().fate.asked.values().sum();
        (phase, asked + world.sim.take_log().len())
    })
}

/// CPUs, kernel threads, interrupts and VMs together.
#[test]
fn twice_the_host_takes_twice_the_asking() {
    let (small, large) = (asked_in_all(8), asked_in_all(16));
    for ((phase, one), (_, two)) in small.into_iter().zip(large) {
        assert!(
            two * 10 <= one * 21,
            "{phase}: {one}, and {two} for twice as much"
        );
    }
}

#[test]
fn what_is_settled_is_written_by_no_phase_and_no_reconcile() {
    let world = large();
    let writes_nothing = |settled: Phase| {
        world.reconcile_until_quiet().unwrap();
        world.writes();
        done(world.phase(settled, 100));
        world.reconcile();
        assert_eq!(world.writes(), Vec::<String>::new(), "{settled}");
    };
    world.start(100);
    writes_nothing(Phase::PostStart);
    world.stop(100);
    writes_nothing(Phase::PostStop);
}
