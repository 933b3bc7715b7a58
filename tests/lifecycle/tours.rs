//! Random tours of an admin: tables are edited and applied, CPUs go offline, `/run` fills up, the state is
//! removed, and the program is killed on the way. `make torture` has more of them, as of the schedules.

use proptest::prelude::*;

use super::lost::left;
use super::scenario::stride;
use super::schedules::{call, config, deaths};
use super::world::World;
use crate::common::sim::VmSpec;
use crate::common::sim::fate::Death;
use pin_hook::lifecycle::engine::journal::read_state;
use pin_hook::lifecycle::start::phase::Phase;

const VMS: [u32; 2] = [100, 101];
/// A node, less, more, another node, and a mixture.
const TABLES: [&str; 6] = ["2-3", "2-5", "4-7", "2-7", "1-2", "6-7"];

const TABLE: &str = "cpus = \"2-3\"\n";

/// What happens to a node.
#[derive(Clone, Copy, Debug)]
enum Event {
    Start,
    /// QEMU ends, and PVE calls the hook.
    Stop,
    /// QEMU ends, and no phase is called.
    End,
    /// The table gets other CPUs.
    Edit(usize),
    Apply,
    Release,
    Reconcile,
    /// An admin takes a CPU offline and back, and reconcile has run meanwhile.
    Flip(u32),
    Fill(usize),
    Empty,
    LoseState,
}

/// An event, for which VM, and the write at which the program dies, if it does.
type Step = (Event, usize, Option<(usize, Death)>);

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        5 => Just(Event::Start),
        2 => Just(Event::Stop),
        1 => Just(Event::End),
        5 => (0..TABLES.len()).prop_map(Event::Edit),
        5 => Just(Event::Apply),
        1 => Just(Event::Release),
        1 => Just(Event::Reconcile),
        1 => (1..8_u32).prop_map(Event::Flip),
        1 => (0..64_usize).prop_map(Event::Fill),
        2 => Just(Event::Empty),
        2 => Just(Event::LoseState),
    ];
    let death = proptest::option::weighted(0.3, (1..80_usize, deaths()));
    (event, 0..VMS.len(), death)
}

/// A node, and which of its VMs run.
struct Node {
    world: World,
    running: [bool; VMS.len()],
}

impl Node {
    fn new() -> Self {
        let conf = "cores: 2\nmemory: 64\nhookscript: local:snippets/pin-hook\n";
        Node {
            world: World::lab().vm(100, conf, TABLE).vm(101, conf, TABLE),
            running: [false; VMS.len()],
        }
    }

    fn start(&mut self, n: usize, death: Option<(usize, Death)>) {
        let id = VMS[n];
        if call(&self.world, None, |world| world.phase(Phase::PreStart, id)) {
            self.world.launch(id, &VmSpec::with_vcpus(2));
            call(&self.world, death, |world| {
                world.phase(Phase::PostStart, id)
            });
            self.running[n] = true;
        }
    }

    fn end(&mut self, n: usize) {
        self.world.end_qemu(VMS[n]);
        self.running[n] = false;
    }

    fn flip(&self, cpu: u32) {
        if self.world.sim.set_online(cpu, false).is_ok() {
            self.world.reconcile();
            self.world.sim.set_online(cpu, true).unwrap();
        }
    }

    fn take(&mut self, (event, n, death): Step) {
        let id = VMS[n];
        match event {
            Event::Start if !self.running[n] => self.start(n, death),
            Event::Stop if self.running[n] => {
                self.end(n);
                call(&self.world, death, |world| world.phase(Phase::PostStop, id));
            }
            Event::End if self.running[n] => self.end(n),
            Event::Edit(table) => {
                let text = format!("cpus = \"{}\"\n", TABLES[table]);
                self.world.sim.table(id, &text);
            }
            Event::Apply => drop(call(&self.world, death, |world| world.apply(id))),
            Event::Release => drop(call(&self.world, death, |world| world.release(Some(id)))),
            Event::Flip(cpu) => self.flip(cpu),
            Event::Fill(kib) => self.world.sim.fill_run(kib << 10),
            Event::Empty => self.world.sim.empty_run(),
            Event::LoseState => self.world.lose_state(),
            _ => drop(call(&self.world, death, World::reconcile)),
        }
        self.world.end_worker();
        // A death and the loss of the state together are more than is promised.
        if death.is_some() {
            let _ = self.world.reconcile_until_quiet();
        }
    }

    /// The tour is over: whatever was left is given back.
    fn rest(&mut self) {
        self.world.sim.empty_run();
        for (n, id) in VMS.into_iter().enumerate() {
            if self.running[n] {
                self.take((Event::Stop, n, None));
            }
            self.world.sim.table(id, TABLE);
        }
        let _ = self.world.reconcile_until_quiet();
        self.world.release(None);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_tour_leaves_the_host_as_before(steps in proptest::collection::vec(step(), 1..20)) {
        let mut node = Node::new();
        let before = node.world.capture();
        for step in steps {
            node.take(step);
        }
        node.rest();
        let left = left(&node.world, &before, "a tour");
        assert!(left.is_empty(), "{left}");
        assert!(read_state(&*node.world.host.files).unwrap().is_empty());
    }
}

/// An interrupt that was made before a CPU went offline has that CPU still.
#[test]
fn interrupts_and_threads_of_a_node_that_lacks_a_cpu_are_back_when_the_state_is_lost() {
    for table in [0, 2] {
        let mut node = Node::new();
        let before = node.world.capture();
        node.take((Event::Edit(table), 0, None));
        node.world.sim.set_online(1, false).unwrap();
        for event in [Event::Start, Event::LoseState, Event::Reconcile] {
            node.take((event, 0, None));
        }
        node.world.sim.set_online(1, true).unwrap();
        node.rest();
        assert_eq!(left(&node.world, &before, TABLES[table]), "");
    }
}

/// What is left of a thread's CPUs under the partition is not taken for its own when the VM's CPUs go offline.
#[test]
fn threads_of_a_node_are_back_after_cpus_were_offline_in_any_order() {
    for cpus in [[1, 2], [2, 1], [2, 3], [4, 2]] {
        for table in [0, 1, 2] {
            let mut node = Node::new();
            let before = node.world.capture();
            node.take((Event::Edit(table), 0, None));
            node.take((Event::Start, 0, None));
            for cpu in cpus {
                node.take((Event::Flip(cpu), 0, None));
            }
            node.rest();
            assert_eq!(left(&node.world, &before, TABLES[table]), "", "{cpus:?}");
        }
    }
}

/// A partition that ends widens the threads of other nodes, which the next one is not to take for their own.
#[test]
fn threads_of_a_node_are_back_after_a_vm_was_given_other_cpus() {
    let of_tables = |rest: &'static str| TABLES.map(|first| (rest, first));
    let cases = ["", "isolate.kthreads = false\n"]
        .into_iter()
        .flat_map(of_tables);
    for (rest, first) in cases {
        for second in TABLES {
            let mut node = Node::new();
            let before = node.world.capture();
            for table in [first, second] {
                let text = format!("cpus = \"{table}\"\n{rest}");
                node.world.sim.table(100, &text);
                node.take((Event::Start, 0, None));
                node.take((Event::Apply, 0, None));
            }
            node.rest();
            let left = left(&node.world, &before, first);
            assert_eq!(left, "", "then {second} {rest}");
        }
    }
}

/// A partition hides that a run died before a kernel thread was asked to go where the partition has sent it.
#[test]
fn threads_are_back_when_an_apply_was_killed_and_the_state_is_lost_later() {
    let mut wrong = String::new();
    for n in (1..60).step_by(stride()) {
        for how in [Death::Before, Death::Torn, Death::After] {
            let mut node = Node::new();
            let before = node.world.capture();
            let (edit, apply) = (Event::Edit, Event::Apply);
            for (event, death) in [
                (edit(5), None),
                (Event::Start, None),
                (edit(2), None),
                (apply, Some((n, how))),
                (Event::LoseState, None),
            ] {
                node.take((event, 0, death));
            }
            node.rest();
            wrong += &left(&node.world, &before, &format!("write {n} {how:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
