//! Random schedules: VMs come and go in any order, and the program dies at any of its writes on the way.
//! `make torture` has more of them: `PROPTEST_CASES` counts for a quarter here, where a case is a whole life of
//! a node.

use proptest::prelude::*;

use super::scenario::stride;
use super::world::{CONF, World};
use crate::common::sim::VmSpec;
use crate::common::sim::fate::Death;
use pin_hook::lifecycle::start::phase::Phase;

const VMS: [u32; 3] = [100, 101, 102];

/// What PVE, somebody or the kernel does to a VM.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Start,
    Stop,
    /// QEMU ends and no phase is called.
    End,
    Release,
    Reconcile,
}

/// An event, for which VM, and the write at which the program dies, if it does.
type Step = (Event, usize, Option<(usize, Death)>);

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        4 => Just(Event::Start),
        2 => Just(Event::Stop),
        1 => Just(Event::End),
        1 => Just(Event::Release),
        1 => Just(Event::Reconcile),
    ];
    let death = proptest::option::of((1..60_usize, deaths()));
    (event, 0..VMS.len(), death)
}

/// Calls the program, which dies at a write if it is told to; true when it came to its end.
pub fn call<T>(
    world: &World,
    death: Option<(usize, Death)>,
    call: impl FnOnce(&World) -> T,
) -> bool {
    if let Some((n, how)) = death {
        world.sim.die_at(n, how);
    }
    world.sim.run_until_death(|| call(world)).is_ok()
}

/// How a random write is died at.
pub fn deaths() -> impl Strategy<Value = Death> {
    prop_oneof![Just(Death::Before), Just(Death::Torn), Just(Death::After)]
}

/// A node and which of its VMs run, and own their CPUs for certain.
struct Node {
    world: World,
    running: [bool; VMS.len()],
    owning: [bool; VMS.len()],
}

impl Node {
    fn new() -> Self {
        let root = "cpus = \"6-7\"\nisolate.backend = \"root\"\n";
        Node {
            world: World::with_two_vms().vm(102, CONF, root),
            running: [false; VMS.len()],
            owning: [false; VMS.len()],
        }
    }

    /// PVE starts a VM when its pre-start has come to its end, whatever becomes of its post-start.
    fn start(&mut self, n: usize, death: Option<(usize, Death)>) {
        let id = VMS[n];
        let (first, second) = match death {
            Some((at, _)) if at % 2 == 0 => (death, None),
            _ => (None, death),
        };
        if call(&self.world, first, |world| world.phase(Phase::PreStart, id)) {
            self.world.launch(id, &VmSpec::with_vcpus(2));
            call(&self.world, second, |world| {
                world.phase(Phase::PostStart, id)
            });
            (self.running[n], self.owning[n]) = (true, true);
        }
    }

    fn end(&mut self, n: usize) {
        self.world.end_qemu(VMS[n]);
        (self.running[n], self.owning[n]) = (false, false);
    }

    fn take(&mut self, (event, n, death): Step) {
        match event {
            Event::Start if !self.running[n] => self.start(n, death),
            Event::Stop if self.running[n] => {
                self.end(n);
                call(&self.world, death, |world| {
                    world.phase(Phase::PostStop, VMS[n])
                });
            }
            Event::End if self.running[n] => self.end(n),
            Event::Release if self.running[n] => {
                call(&self.world, death, |world| world.release(Some(VMS[n])));
                self.owning[n] = false;
            }
            _ => {
                call(&self.world, death, World::reconcile);
            }
        }
        self.world.end_worker();
    }

    /// What has to hold when the units have done their part.
    fn assert_holds(&self) {
        self.world
            .reconcile_until_quiet()
            .expect("an end of reconcile");
        for (n, id) in VMS.into_iter().enumerate() {
            if self.owning[n] {
                self.world.assert_owns(id);
            }
        }
    }
}

/// A case is a whole life of a node.
pub fn config() -> ProptestConfig {
    let all = ProptestConfig::default();
    ProptestConfig {
        cases: (all.cases / 4).max(1),
        ..all
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_schedule_with_deaths_leaves_the_host_as_before(
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        let mut node = Node::new();
        let before = node.world.capture();
        for step in steps {
            node.take(step);
            node.assert_holds();
        }
        for n in 0..VMS.len() {
            if node.running[n] {
                node.take((Event::Stop, n, None));
            }
        }
        node.assert_holds();
        node.world.assert_as(&before);
        node.world.assert_at_rest();
    }
}

/// Both QEMUs end before anybody looks; found as a schedule that ended its VMs without their phases.
#[test]
fn vms_that_end_at_once_after_a_death_leave_the_host_as_before() {
    let mut node = Node::new();
    let before = node.world.capture();
    for death in (1..60).step_by(stride()) {
        for how in [Death::Before, Death::Torn, Death::After] {
            node.take((Event::Start, 0, None));
            node.take((Event::Start, 1, Some((death, how))));
            node.assert_holds();
            for n in 0..VMS.len() {
                if node.running[n] {
                    node.end(n);
                }
            }
            node.assert_holds();
            node.world.assert_as(&before);
        }
    }
    node.world.assert_at_rest();
}
