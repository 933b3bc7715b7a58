//! VMs that own the CPUs of one NUMA node between them, in every order of starts and stops: the
//! host is as before whenever none of them runs, the kernel threads of that node included. Found
//! first on a host that the orders of the lab's case `kswapd-two-vms` had left changed.

use super::scenario::is_tried;
use super::world::{World, changes, id};
use crate::common::sim::capture::Capture;
use crate::common::sim::{Kernel, Machine, VmSpec};

/// A VM with one vCPU: the CPUs of its table are more, or that one.
const CONF: &str = "cores: 1\nmemory: 1024\nhookscript: local:snippets/pin-hook\n";

/// What a VM has: its CPUs, and the rest of `[isolate]`.
type Part = (u32, &'static str, String);

/// One step of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Start(u32),
    Stop(u32),
    Reconcile,
}

/// All orders on one host with these VMs.
struct Orders {
    before: Capture,
    vmids: Vec<u32>,
    /// Whether the units look between two steps.
    watched: bool,
    wrong: Vec<String>,
    n_rests: usize,
}

impl Orders {
    fn run(kernel: Kernel, parts: &[Part], watched: bool) -> Orders {
        let machine = Machine {
            kernel,
            ..Machine::default()
        };
        let mut world = World::of(&machine);
        for (vmid, cpus, isolate) in parts {
            let table = format!("cpus = \"{cpus}\"\n[isolate]\n{isolate}");
            world = world.vm(*vmid, CONF, &table);
        }
        let mut orders = Orders {
            before: world.capture(),
            vmids: parts.iter().map(|(vmid, ..)| *vmid).collect(),
            watched,
            wrong: Vec::new(),
            n_rests: 0,
        };
        orders.go(&world, &mut Vec::new());
        orders
    }

    /// Takes every next step from here; each VM starts once and stops once.
    fn go(&mut self, world: &World, steps: &mut Vec<Step>) {
        let runs = |vmid: u32| world.owners().contains(&id(vmid));
        for vmid in self.vmids.clone() {
            let step = match steps.contains(&Step::Start(vmid)) {
                false => Step::Start(vmid),
                true if runs(vmid) => Step::Stop(vmid),
                true => continue,
            };
            let world = world.fork();
            let n_steps = steps.len();
            steps.push(step);
            match step {
                Step::Start(vmid) => world.start_as(vmid, &VmSpec::with_vcpus(1)),
                Step::Stop(vmid) => world.stop(vmid),
                Step::Reconcile => {}
            }
            if self.watched {
                steps.push(Step::Reconcile);
                if let Err(writes) = world.reconcile_until_quiet() {
                    self.wrong.push(format!("{steps:?}: {writes}"));
                }
            }
            self.look(&world, steps);
            // From a host that is as before fewer VMs go on, whose orders are others.
            if !world.owners().is_empty() {
                self.go(&world, steps);
            }
            steps.truncate(n_steps);
        }
    }

    /// The running VMs own their CPUs; when none runs the host is as before.
    fn look(&mut self, world: &World, steps: &[Step]) {
        if !world.owners().is_empty() {
            return;
        }
        self.n_rests += 1;
        let left = changes(&self.before, &world.capture());
        if !left.is_empty() {
            self.wrong.push(format!("{steps:?}:\n{left}"));
        }
    }
}

/// Runs all orders for every choice of `kthreads` of the VMs; `rest` is the same for all.
#[track_caller]
fn assert_nothing_left(kernel: Kernel, cpus: &[&'static str], rest: &str) {
    let mut wrong = Vec::new();
    let is_long = cpus.len() > 2;
    let choices = (0..1_u32 << cpus.len()).filter(|n| !is_long || is_tried(*n as usize + 1));
    for choice in choices {
        let is_moved = |n: u32| choice & 1 << n == 0;
        let parts = (0..).zip(cpus).map(|(n, cpus)| {
            let isolate = format!("kthreads = {}\n{rest}", is_moved(n));
            (100 + n, *cpus, isolate)
        });
        let parts: Vec<Part> = parts.collect();
        let ways: &[bool] = if is_long { &[true] } else { &[false, true] };
        for &watched in ways {
            let orders = Orders::run(kernel, &parts, watched);
            assert!(orders.n_rests > 1, "no order came to its end");
            let found = orders.wrong.into_iter();
            wrong.extend(found.map(|found| format!("{parts:?}, watched: {watched}: {found}")));
        }
    }
    let shown = wrong.iter().take(5).cloned().collect::<String>();
    assert!(wrong.is_empty(), "{} wrong:\n{shown}", wrong.len());
}

#[test]
fn kswapd_two_vms_in_every_order_on_6_12() {
    for cpus in [["4", "5-7"], ["4-5", "6-7"], ["2-4", "5"], ["2-3", "4-5"]] {
        assert_nothing_left(Kernel::V6_12, &cpus, "");
    }
}

#[test]
fn kswapd_two_vms_in_every_order_on_7_3() {
    for cpus in [["4", "5-7"], ["4-5", "6-7"], ["2-4", "5"], ["2-3", "4-5"]] {
        assert_nothing_left(Kernel::V7_3, &cpus, "");
    }
}

#[test]
fn kswapd_three_vms_in_every_order_on_6_12() {
    assert_nothing_left(Kernel::V6_12, &["4", "5", "6-7"], "");
}

#[test]
fn kswapd_three_vms_in_every_order_on_7_3() {
    assert_nothing_left(Kernel::V7_3, &["4", "5", "6-7"], "");
}

#[test]
fn kswapd_three_vms_with_root_partitions_in_every_order() {
    assert_nothing_left(Kernel::V6_12, &["4", "5", "6-7"], "backend = \"root\"\n");
}

#[test]
fn two_vms_without_partitions_in_every_order() {
    for backend in ["slices", "affinity"] {
        let rest = format!("backend = \"{backend}\"\n");
        assert_nothing_left(Kernel::V6_12, &["4", "5-7"], &rest);
    }
}
