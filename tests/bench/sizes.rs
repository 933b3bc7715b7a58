//! What a plan, a start and a stop take on hosts of every size: CPUs, tasks, interrupts and guests grow together.
//!
//! The host is the simulated one, so what is counted is the program's own work and that of the simulation, which keeps
//! all files in memory. `make bench` prints the table; docs/performance.md has one.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::time::Instant;

use pin_hook::lifecycle::start::phase::Phase;

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
#[path = "../lifecycle/world.rs"]
mod world;

use common::sim::{Machine, TaskSpec, VmSpec, cpus};
use world::{CONF, World, done};

/// The VM whose plan, start and stop are timed.
const VMID: u32 = 100;
const TABLE: &str = "cpus = \"2-5\"\npin.scheduler = \"fifo:1\"\n[isolate]\nkthreads = true\nirqs = true\n\
                     workqueues = \"auto\"\n[power]\ngovernor = \"performance\"\n";

/// A host of `n` times 64 CPUs, 512 tasks, 128 interrupts and 8 guests.
struct Size(u32);

impl Size {
    fn n_cpus(&self) -> u32 {
        64 * self.0
    }

    fn host(&self) -> World {
        let machine = Machine {
            packages: 2,
            cores: self.n_cpus() / 4,
            llcs: (self.n_cpus() / 32).max(1),
            nodes: 2.max(self.0 / 4),
            shared_policy: String::new(),
            ..Machine::default()
        };
        let world = World::on(machine.build());
        self.add_guests(&world);
        self.add_tasks(&world);
        self.add_interrupts(&world);
        world.sim.vm_conf(VMID, CONF);
        world.sim.table(VMID, TABLE);
        world
    }

    /// Every guest has a table with four CPUs of its own, and one in 32 owns them; the others were started without.
    fn add_guests(&self, world: &World) {
        for n in 0..8 * self.0 {
            let (vmid, first) = (200 + n, 8 + n * 4);
            world.sim.vm_conf(vmid, CONF);
            world
                .sim
                .table(vmid, &format!("cpus = \"{first}-{}\"\n", first + 3));
            if n % 32 == 0 {
                world.start_as(vmid, &VmSpec::with_vcpus(2));
            } else {
                world.launch(vmid, &VmSpec::with_vcpus(2));
            }
        }
    }

    /// Half are bound to a CPU, as four of each CPU are anyway; the others may run anywhere.
    fn add_tasks(&self, world: &World) {
        let n_tasks = 512 * self.0;
        let there = u32::try_from(world.sim.state().tasks.iter().count()).unwrap();
        for n in 0..n_tasks.saturating_sub(there) {
            let spec = TaskSpec::named(&format!("task/{n}"));
            world.sim.spawn(match n % 2 {
                0 => spec
                    .kthread(true)
                    .on_cpus(cpus(&(n % self.n_cpus()).to_string())),
                _ => spec.kthread(false),
            });
        }
    }

    fn add_interrupts(&self, world: &World) {
        for n in 0..128 * self.0 {
            world.sim.add_irq(10_000 + n, &format!("device-{n}"));
        }
    }
}

/// Seconds, and the most memory above what there was before, in MB.
fn measured(work: impl FnOnce()) -> (f64, u64) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let begin = Instant::now();
    work();
    (
        begin.elapsed().as_secs_f64(),
        (memory("VmHWM") - before) / 1000,
    )
}

/// A figure of this process in kB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What is measured of each host, in this order.
const PHASES: [&str; 4] = ["plan", "pre-start", "post-start", "post-stop"];
type Row = [(f64, u64); 4];

fn row(size: &Size) -> Row {
    let world = size.host();
    let phase = |phase| {
        measured(|| {
            done(world.phase(phase, VMID));
        })
    };
    let plan = measured(|| drop(world.plan(VMID)));
    let pre_start = phase(Phase::PreStart);
    world.launch(VMID, &VmSpec::with_vcpus(2));
    let post_start = phase(Phase::PostStart);
    world.end_qemu(VMID);
    let post_stop = phase(Phase::PostStop);
    [plan, pre_start, post_start, post_stop]
}

/// Each host is so many times as large as the one before.
const STEP: u32 = 4;

/// Prints the host and its figures, and with which power of the size the time has grown since the one before.
fn print(n: u32, row: &Row, before: Option<&Row>) {
    let host = [64, 512, 128, 8].map(|per| format!("{:>12}", per * n));
    print!("{}", host.concat());
    for (n, (time, mb)) in row.iter().enumerate() {
        let times = before.map(|before| (time / before[n].0).ln() / f64::from(STEP).ln());
        let exponent = times.map_or_else(String::new, |exponent| format!("^{exponent:.2}"));
        print!("{time:>9.3} s {mb:>4} MB {exponent:<5}");
    }
    println!();
}

/// The largest host is that of 64 times 64 CPUs, or of as many as the argument says.
fn main() {
    let mut sizes = std::env::args().filter_map(|arg| arg.parse().ok());
    let largest: u32 = sizes.next_back().unwrap_or(64);
    let head = ["cpus", "tasks", "interrupts", "guests"].map(|name| format!("{name:>12}"));
    println!(
        "{}{}",
        head.concat(),
        PHASES.map(|name| format!("{name:>25}")).concat()
    );
    let mut before = None;
    for n in std::iter::successors(Some(1), |n| Some(n * STEP)).take_while(|n| *n <= largest) {
        let row = row(&Size(n));
        print(n, &row, before.as_ref());
        before = Some(row);
    }
}
