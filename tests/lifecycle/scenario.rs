//! Scenarios: what happens to a VM, step by step; and the same with a death at every write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use pin_hook::lifecycle::engine::account::Account;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{World, changes, done};
use crate::common::sim::VmSpec;
use crate::common::sim::capture::Capture;
use crate::common::sim::fate::Death;

/// How the host may be when a call died and reconcile has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// As before the call.
    Undone,
    /// As after the whole call.
    Done,
    /// One of the two, but nothing in between.
    Either,
    /// As before the whole scenario.
    AtRest,
    /// As after the whole call; when it is released, as before.
    Owned,
    /// As after the whole call or as before; when it is released, as before.
    OwnedOrNot,
}

/// How many there are to each moment that is tried, of those at which a run may die, be refused something or
/// lose its VM: all of them with `EVERY_MOMENT`, which `make check-all` sets. A few tell whoever has changed a line.
pub fn stride() -> usize {
    match std::env::var_os("EVERY_MOMENT") {
        Some(_) => 1,
        None => 12,
    }
}

/// Tells whether the `n`-th moment is tried, from 1 on.
pub fn is_tried(n: usize) -> bool {
    n % stride() == 1 % stride()
}

/// Returns the deaths at a write: before it, in its middle where it may be torn, and after the last one.
fn deaths(op: &str, is_last: bool) -> impl Iterator<Item = Death> + use<> {
    let is_torn = op.starts_with("append") || op.starts_with("replace");
    let torn = is_torn.then_some(Death::Torn);
    let last = is_last.then_some(Death::After);
    [Some(Death::Before), torn, last].into_iter().flatten()
}

/// Adds a line to the file `COUNT_DEATHS`, if that is set: how many deaths of a call there are, tried or not.
fn count(n_deaths: usize, call: &str) {
    if let Some(path) = std::env::var_os("COUNT_DEATHS") {
        let file = File::options().create(true).append(true).open(path);
        file.unwrap()
            .write_all(format!("{n_deaths} {call}\n").as_bytes())
            .unwrap();
    }
}

type Outside = Box<dyn Fn(&World)>;
type Call = Box<dyn Fn(&World) -> Account>;

enum Step {
    /// Something happens on the node.
    Outside(Outside),
    /// The program is called.
    Call(String, Then, Call),
    /// The deaths of the calls before are known from another scenario.
    Known,
}

/// A sequence of steps on a new node.
pub struct Scenario {
    name: &'static str,
    world: Box<dyn Fn() -> World>,
    steps: Vec<Step>,
    last: Outside,
}

/// The host before and after a call of the undisturbed scenario.
struct Reference {
    world: World,
    then: Then,
    call: usize,
    before: Capture,
    after: Capture,
    ops: Vec<String>,
}

impl Scenario {
    /// Returns a scenario without steps.
    pub fn new(name: &'static str, world: impl Fn() -> World + 'static) -> Self {
        let world = Box::new(world);
        Scenario {
            name,
            world,
            steps: Vec::new(),
            last: Box::new(|_| ()),
        }
    }

    pub fn outside(mut self, act: impl Fn(&World) + 'static) -> Self {
        self.steps.push(Step::Outside(Box::new(act)));
        self
    }

    /// Something must be so.
    pub fn check(self, act: impl Fn(&World) + 'static) -> Self {
        self.outside(act)
    }

    /// Leaves the deaths of the calls up to here to another scenario, which begins with the same.
    pub fn known(mut self) -> Self {
        self.steps.push(Step::Known);
        self
    }

    pub fn call(
        mut self,
        name: &str,
        then: Then,
        call: impl Fn(&World) -> Account + 'static,
    ) -> Self {
        self.steps
            .push(Step::Call(name.to_owned(), then, Box::new(call)));
        self
    }

    /// Does this at the end of every life, also of those that were disturbed.
    pub fn at_last(mut self, act: impl Fn(&World) + 'static) -> Self {
        self.last = Box::new(act);
        self
    }

    /// PVE starts a VM with two vCPUs.
    pub fn start(self, vmid: u32) -> Self {
        self.start_as(vmid, VmSpec::with_vcpus(2))
    }

    /// PVE starts a VM whose hook is set.
    pub fn start_as(self, vmid: u32, spec: VmSpec) -> Self {
        self.pre_start(vmid)
            .outside(move |world| world.launch(vmid, &spec))
            .post_start(vmid)
            .outside(World::end_worker)
    }

    pub fn pre_start(self, vmid: u32) -> Self {
        self.pre_start_or(vmid, Then::Undone)
    }

    /// PVE's first call of a start; `then` when it dies.
    pub fn pre_start_or(self, vmid: u32, then: Then) -> Self {
        self.call(&format!("pre-start {vmid}"), then, move |world| {
            done(world.phase(Phase::PreStart, vmid))
        })
    }

    pub fn post_start(self, vmid: u32) -> Self {
        self.call(&format!("post-start {vmid}"), Then::Done, move |world| {
            done(world.phase(Phase::PostStart, vmid))
        })
    }

    pub fn post_stop(self, vmid: u32) -> Self {
        self.call(&format!("post-stop {vmid}"), Then::Done, move |world| {
            done(world.phase(Phase::PostStop, vmid))
        })
    }

    pub fn reconcile(self) -> Self {
        self.call("reconcile", Then::Done, |world| done(world.reconcile()))
    }

    /// PVE stops a VM, as `qm stop` and `qm shutdown` do.
    pub fn stop(self, vmid: u32) -> Self {
        self.call(&format!("pre-stop {vmid}"), Then::Either, move |world| {
            done(world.phase(Phase::PreStop, vmid))
        })
        .outside(move |world| world.end_qemu(vmid))
        .post_stop(vmid)
        .outside(World::end_worker)
    }

    /// PVE stops a VM; the deaths of that are known from other scenarios.
    pub fn stopped(self, vmid: u32) -> Self {
        self.outside(move |world| {
            world.stop(vmid);
        })
    }

    /// Asserts that a VM owns its CPUs here.
    pub fn owns(self, vmid: u32) -> Self {
        self.check(move |world| world.assert_owns(vmid))
    }

    /// Runs the scenario, asserts that the host is as before at its end, and does each call again
    /// with every death at every write.
    pub fn prove(&self) {
        let start = (self.world)().capture();
        for reference in self.run() {
            self.die_in_call(&reference, &start);
        }
    }

    /// Runs the scenario undisturbed and asserts that the host is as before at its end.
    pub fn play(&self) {
        self.run();
    }

    /// Runs the scenario undisturbed; returns what there was around each call.
    fn run(&self) -> Vec<Reference> {
        let world = (self.world)();
        let start = world.capture();
        let mut references = Vec::new();
        for (nth, step) in self.steps.iter().enumerate() {
            match step {
                Step::Outside(act) => act(&world),
                Step::Known => references.clear(),
                Step::Call(_, then, call) => {
                    let (fork, before) = (world.fork(), world.capture());
                    world.sim.take_log();
                    call(&world);
                    references.push(Reference {
                        world: fork,
                        then: *then,
                        call: nth,
                        before,
                        after: world.capture(),
                        ops: world.sim.take_log(),
                    });
                }
            }
        }
        (self.last)(&world);
        world.assert_as(&start);
        world.assert_at_rest();
        references
    }

    /// Lets the program die at every write of a call, before it or in its middle. After a write
    /// is before the next one, but for the last.
    fn die_in_call(&self, reference: &Reference, start: &Capture) {
        let Step::Call(name, _, call) = &self.steps[reference.call] else {
            unreachable!("only calls have references");
        };
        let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let n_ops = reference.ops.len();
        let tried = |n: &usize| is_tried(*n) || *n == n_ops;
        let deaths: Vec<(usize, &String, Death)> = (1..)
            .zip(&reference.ops)
            .flat_map(|(n, op)| deaths(op, n == n_ops).map(move |death| (n, op, death)))
            .collect();
        count(deaths.len(), name);
        for (n, op, death) in deaths.into_iter().filter(|(n, ..)| tried(n)) {
            let found = self.die(n, death, call, reference, start);
            if !found.is_empty() {
                let short: String = op.chars().take(150).collect();
                let when = format!("{n} of {n_ops} ({death:?}): {short}\n");
                wrong.entry(found).or_default().push(when);
            }
        }
        let lines = |(found, when): (&String, &Vec<String>)| {
            let when: String = when
                .iter()
                .map(|when| format!("died at write {when}"))
                .collect();
            when + found
        };
        let report: String = wrong.iter().map(lines).collect();
        assert!(report.is_empty(), "{}, {name}:\n{report}", self.name);
    }

    /// Does a call again with a death at its write `n`; returns what is wrong with the host after
    /// reconcile, and after the end of every VM.
    fn die(
        &self,
        n: usize,
        death: Death,
        call: &Call,
        reference: &Reference,
        start: &Capture,
    ) -> String {
        let world = reference.world.fork();
        world.sim.die_at(n, death);
        let outcome = world.sim.run_until_death(|| call(&world));
        outcome.expect_err("the program to die");
        world.end_worker();
        let mut wrong = world.reconcile_until_quiet().err().unwrap_or_default();
        wrong.push_str(&reference.compare(&world.capture(), start));
        wrong.push_str(&reference.compare_released(&world));
        end_all(&world);
        (self.last)(&world);
        wrong.extend(world.reconcile_until_quiet().err());
        let left = changes(start, &world.capture());
        if !left.is_empty() {
            wrong.push_str(&format!("left when every vm has ended:\n{left}"));
        }
        wrong
    }
}

impl Reference {
    /// Returns what is wrong with the host after a death and reconcile.
    fn compare(&self, now: &Capture, start: &Capture) -> String {
        let undone = changes(&self.before, now);
        let done = changes(&self.after, now);
        match self.then {
            Then::Undone if !undone.is_empty() => format!("not undone by reconcile:\n{undone}"),
            Then::Done | Then::Owned if !done.is_empty() => {
                format!("not done by reconcile:\n{done}")
            }
            Then::AtRest => changes(start, now),
            Then::Either | Then::OwnedOrNot if !done.is_empty() && !undone.is_empty() => {
                format!("half done; missing:\n{done}more than before:\n{undone}")
            }
            _ => String::new(),
        }
    }
}

impl Reference {
    /// Returns what is wrong with the host when what the call took is released while the VM runs.
    fn compare_released(&self, world: &World) -> String {
        if !matches!(self.then, Then::Owned | Then::OwnedOrNot) {
            return String::new();
        }
        let world = world.fork();
        world.release_but(&self.world.owners());
        world.end_worker();
        world.systemd_looks_at_a_unit();
        let (mut before, mut now) = (self.before.clone(), world.capture());
        for capture in [&mut before, &mut now] {
            capture.retain(|name, _| !name.starts_with("unit "));
        }
        match changes(&before, &now) {
            left if left.is_empty() => left,
            left => format!("left when it is released:\n{left}"),
        }
    }
}

/// Ends every VM, as `qm stop` would.
fn end_all(world: &World) {
    let running: Vec<u32> = {
        let state = world.sim.state();
        let vmids = state.vms.keys();
        vmids.map(|vmid| vmid.parse().expect("a number")).collect()
    };
    for vmid in running {
        world.end_qemu(vmid);
        world.phase(Phase::PostStop, vmid);
        world.end_worker();
    }
}
