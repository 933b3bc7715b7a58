//! CPUs that an administrator takes offline and back while VMs come and go, in every order: what the
//! kernel itself rewrites meanwhile is nobody's value, and no baseline.

use super::world::{CONF, World, changes, id};
use crate::common::sim::capture::Capture;
use crate::common::sim::{Kernel, Machine, cpus};

/// One step of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    Stop,
    Offline,
    Online,
    /// Kernel threads have something to do.
    Wake,
    Reconcile,
}

struct Orders {
    before: Capture,
    /// CPUs that go offline and come back.
    away: Vec<u32>,
    wrong: Vec<String>,
    n_ends: usize,
}

impl Orders {
    /// Takes every next step in `world` and, without the VM, in `control`.
    fn go(&mut self, world: &World, control: &World, steps: &mut Vec<Step>) {
        let runs = world.owners().contains(&id(100));
        let is_away = !world
            .sim
            .state()
            .cpus
            .online
            .contains(cpus("6").first().unwrap());
        for step in [
            Step::Start,
            Step::Stop,
            Step::Offline,
            Step::Online,
            Step::Wake,
            Step::Reconcile,
        ] {
            let is_next = match step {
                Step::Stop => runs,
                Step::Online => is_away,
                // What the kernel forgot before is what the VM finds.
                Step::Wake => steps.contains(&Step::Start),
                _ => true,
            };
            if !is_next || steps.contains(&step) {
                continue;
            }
            let (world, control) = (world.fork(), control.fork());
            self.act(&world, step);
            if ![Step::Start, Step::Stop, Step::Reconcile].contains(&step) {
                self.act(&control, step);
            }
            steps.push(step);
            let is_over = steps.contains(&Step::Stop) && steps.contains(&Step::Online);
            if is_over && [Step::Stop, Step::Online].contains(&step) {
                self.look(&world, &control, steps);
            }
            self.go(&world, &control, steps);
            steps.pop();
        }
    }

    fn act(&self, world: &World, step: Step) {
        let switch = |is_online| {
            let mut away = self.away.iter();
            away.try_for_each(|cpu| world.sim.set_online(*cpu, is_online))
        };
        match step {
            Step::Start => world.start(100),
            Step::Stop => world.stop(100),
            Step::Offline => switch(false).unwrap(),
            Step::Online => switch(true).unwrap(),
            Step::Wake => {
                let names = ["kswapd0", "kswapd1", "kauditd"];
                let tids = names.map(|name| world.sim.find_task(name).tid);
                tids.into_iter().for_each(|tid| world.sim.wake(tid));
            }
            Step::Reconcile => {
                world.reconcile();
            }
        }
    }

    /// With the VM gone and all CPUs back the host is as it was, or as the kernel left it without us. Programs
    /// are left out: the kernel gives them what is online when the controller goes.
    fn look(&mut self, world: &World, control: &World, steps: &[Step]) {
        let world = world.fork();
        self.n_ends += 1;
        if let Err(writes) = world.reconcile_until_quiet() {
            self.wrong.push(format!("{steps:?}: {writes}"));
        }
        world.assert_at_rest();
        let (mut now, mut before) = (world.capture(), self.before.clone());
        for (name, text) in control.capture() {
            let is_program = name.starts_with("task ") && text.contains("group /");
            if is_program || now.get(&name) == Some(&text) {
                now.remove(&name);
                before.remove(&name);
            }
        }
        let left = changes(&before, &now);
        if !left.is_empty() {
            self.wrong.push(format!("{steps:?}:\n{left}"));
        }
    }
}

/// Returns what the first orders leave that leave anything.
fn left_by_all_orders(kernel: Kernel, table: &str, own: Option<&str>, away: &[u32]) -> String {
    let machine = Machine {
        kernel,
        ..Machine::default()
    };
    let world = World::of(&machine).vm(100, CONF, table);
    if let Some(own) = own {
        let tid = world.sim.find_task("kswapd1").tid;
        world.sim.state().set_affinity(tid, &cpus(own)).unwrap();
    }
    let mut orders = Orders {
        before: world.capture(),
        away: away.to_vec(),
        wrong: Vec::new(),
        n_ends: 0,
    };
    orders.go(&world, &world.fork(), &mut Vec::new());
    assert!(
        orders.n_ends > 50,
        "{} orders came to an end",
        orders.n_ends
    );
    let head = format!("{kernel:?}, {table:?}, kswapd1 {own:?}, {away:?} away: ");
    let wrong = orders
        .wrong
        .iter()
        .take(2)
        .map(|wrong| head.clone() + wrong);
    wrong.collect()
}

fn with_table(kernel: Kernel, table: &str) {
    let owns = [None, Some("6-7")];
    let wrong = owns.map(|own| left_by_all_orders(kernel, table, own, &[6, 7]));
    assert!(wrong.concat().is_empty(), "{}", wrong.concat());
}

const ON_THE_NODE: &str = "cpus = \"4-5\"\n";
const ON_BOTH: &str = "cpus = \"2-5\"\n";
const LEFT_ALONE: &str = "cpus = \"2-5\"\n[isolate]\nkthreads = false\n";
const NO_PARTITION: &str = "cpus = \"4-5\"\n[isolate]\nbackend = \"affinity\"\n";

#[test]
fn cpus_of_the_node_go_and_come_back_on_6_12() {
    for table in [ON_THE_NODE, LEFT_ALONE] {
        with_table(Kernel::V6_12, table);
    }
}

#[test]
fn cpus_of_both_nodes_are_owned_and_others_come_back_on_6_12() {
    for table in [ON_BOTH, NO_PARTITION] {
        with_table(Kernel::V6_12, table);
    }
}

#[test]
fn cpus_of_the_node_go_and_come_back_on_7_3() {
    for table in [ON_THE_NODE, LEFT_ALONE] {
        with_table(Kernel::V7_3, table);
    }
}

#[test]
fn cpus_of_both_nodes_are_owned_and_others_come_back_on_7_3() {
    for table in [ON_BOTH, NO_PARTITION] {
        with_table(Kernel::V7_3, table);
    }
}
