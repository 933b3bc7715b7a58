//! Who has a CPU, record by record, and what that takes from those who want it.
//!
//! The time between two records of a CPU belongs to the innermost thing that runs there. It is *taken* if a thread
//! that is measured (a vCPU, or idle where CPUs are measured that nobody has) is interrupted, waits although it
//! could run, or has left its guest for the sake of the host. What the guest itself causes is counted apart.

use std::collections::{BTreeMap, BTreeSet};

use super::absence::Absences;
use super::frame::Frame;
use super::tally::{Histogram, Tally};
use super::who::Who;
use crate::domain::cpuset::CpuId;
use crate::domain::trace::event::Event;

/// Interruptions that are closer together than this are one, in nanoseconds: the way out of an interrupt and into
/// the next one has no record.
const CLOSE_NS: u64 = 1_000;

/// An interruption: from the moment that something was taken until the thread had its CPU again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interruption {
    /// When it began, in nanoseconds of the clock of the trace.
    pub at: u64,
    /// Thread that it was taken from.
    pub thread: i32,
    /// How long it took.
    pub ns: u64,
    /// By whom, in the order in which they were done.
    pub parts: Vec<(Who, u64)>,
}

/// What happened on one CPU.
#[derive(Debug, Default)]
pub struct Account {
    at: Option<u64>,
    running: i32,
    name: String,
    /// Measured thread that wants this CPU and does not have it.
    waiting: Option<i32>,
    frames: Vec<Frame>,
    exit: Exit,
    /// What is to go on when a thread has this CPU again.
    exits: BTreeMap<i32, Exit>,
    /// Time of an NMI since the last record.
    nmi_ns: u64,
    span: Option<(Who, u64)>,
    current: Option<Interruption>,
    free_ns: u64,
    /// What was taken from each thread, every interruption as one.
    pub taken: BTreeMap<i32, Tally>,
    /// The same by length.
    pub histogram: Histogram,
    /// The longest interruption.
    pub longest: Interruption,
    /// By whom.
    pub by: BTreeMap<Who, Tally>,
    /// Times that the guest left for reasons of its own.
    pub own: Tally,
    /// Time that a measured thread was ready and had no CPU, in nanoseconds.
    pub waited_ns: u64,
    /// What of that time this CPU was idle.
    pub idle_ns: u64,
    /// Time that measured threads had this CPU, in nanoseconds, interruptions included.
    pub ran_ns: u64,
    /// When they had not.
    pub absences: Absences,
}

/// What a worker does, or has just done.
#[derive(Debug, Clone, Copy)]
struct Work {
    function: u64,
    is_done: bool,
}

/// Why a vCPU is not in its guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Exit {
    /// It is, or nobody tells.
    #[default]
    None,
    /// The guest wanted something: so many nanoseconds.
    Guest(u64),
    /// The host wanted something: nanoseconds outside of interrupts, and who it was.
    Host(u64, Option<Who>),
}

/// A record of a CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in nanoseconds of the clock of the trace.
    pub at: u64,
    /// On which CPU.
    pub cpu: CpuId,
    /// Which thread was running.
    pub running: i32,
    /// What.
    pub event: Event,
}

/// What happened on all measured CPUs.
#[derive(Debug, Default)]
pub struct Accounts {
    /// Threads that are measured; 0 is idle.
    pub threads: BTreeSet<i32>,
    /// By CPU.
    pub cpus: BTreeMap<CpuId, Account>,
    /// What workers do, by their thread.
    works: BTreeMap<i32, Work>,
    /// How often which thread asked a measured CPU to call which function.
    pub asked: BTreeMap<(i32, u64), u64>,
}

impl Accounts {
    /// Returns the accounts of these CPUs, with the thread that each had last.
    pub fn new(threads: BTreeSet<i32>, cpus: impl IntoIterator<Item = (CpuId, i32)>) -> Self {
        let account = |running| Account {
            running,
            ..Account::default()
        };
        let cpus = cpus.into_iter();
        Accounts {
            threads,
            cpus: cpus.map(|(cpu, running)| (cpu, account(running))).collect(),
            ..Accounts::default()
        }
    }

    /// Tells whether an interruption took longer than so many nanoseconds.
    pub fn has_longer(&self, ns: u64) -> bool {
        self.cpus.values().any(|account| account.longest.ns > ns)
    }

    /// Begins the measurement at this time.
    pub fn begin(&mut self, at: u64) {
        for account in self.cpus.values_mut() {
            account.at = Some(at);
        }
    }

    /// Takes note of a record; those of one CPU come in their order, those of all as nearly as can be.
    pub fn note(&mut self, record: Record) {
        let Record {
            at,
            cpu,
            running,
            event,
        } = record;
        if let Event::Asks { cpu: to, function } = event {
            if self.cpus.contains_key(&CpuId(to)) {
                *self.asked.entry((running, function)).or_default() += 1;
            }
            return;
        }
        if let Event::Switch { next, .. } = &event
            && self.threads.contains(next)
        {
            // Each CPU has an idle thread of its own, and all of them are 0.
            for account in self.cpus.values_mut().filter(|_| *next != 0) {
                account.has_its_cpu(*next, at, &self.threads, &self.works);
            }
        }
        let Some(account) = self.cpus.get_mut(&cpu) else {
            return;
        };
        account.running = running;
        // Its record is made at its end.
        if let Event::Nmi(_, ns) = event {
            account.nmi_ns = ns;
        }
        account.elapse(at, &self.threads, &self.works);
        match event {
            Event::Works(function) => {
                account.begin_work(function);
                self.works.insert(
                    running,
                    Work {
                        function,
                        is_done: false,
                    },
                );
            }
            // Its way to the next item, or to sleep, belongs to the one that it was woken for.
            Event::Rests => {
                self.works
                    .entry(running)
                    .and_modify(|work| work.is_done = true);
            }
            event => {
                account.note(event, &self.threads);
                if account.running != running
                    && self.works.get(&running).is_some_and(|work| work.is_done)
                {
                    self.works.remove(&running);
                }
            }
        }
    }

    /// Returns all who have taken time.
    pub fn all(&self) -> impl Iterator<Item = &Who> {
        self.cpus.values().flat_map(|account| account.by.keys())
    }

    /// Ends the measurement at this time.
    pub fn end(&mut self, at: u64) {
        for account in self.cpus.values_mut() {
            account.elapse(at, &self.threads, &self.works);
            account.close_span();
            account.over();
        }
    }
}

impl Account {
    /// A measured thread runs elsewhere: it waits no longer for this CPU.
    fn has_its_cpu(
        &mut self,
        thread: i32,
        at: u64,
        threads: &BTreeSet<i32>,
        works: &BTreeMap<i32, Work>,
    ) {
        if self.waiting == Some(thread) {
            self.elapse(at, threads, works);
            self.close_span();
            self.waiting = None;
        }
    }

    /// Gives the time since the last record to whom it belongs.
    fn elapse(&mut self, at: u64, threads: &BTreeSet<i32>, works: &BTreeMap<i32, Work>) {
        let Some(before) = self.at.replace(at) else {
            return;
        };
        let ns = at.saturating_sub(before);
        let ns = ns - std::mem::take(&mut self.nmi_ns).min(ns);
        let is_measured = threads.contains(&self.running);
        if !is_measured || !self.frames.is_empty() || self.exit != Exit::None {
            self.absences.add(before, at);
        }
        if is_measured {
            self.ran_ns += ns;
        } else if self.waiting.is_some() {
            self.waited_ns += ns;
            self.idle_ns += if self.running == 0 { ns } else { 0 };
        }
        let wanted = is_measured || self.waiting.is_some();
        match (self.frames.last_mut(), &mut self.exit) {
            (Some(frame), _) if wanted => frame.take(ns),
            (Some(_), _) => return,
            (None, Exit::Host(outside, _)) if is_measured => *outside += ns,
            (None, Exit::Guest(own)) if is_measured => {
                *own += ns;
                return self.free(ns);
            }
            // Who could run and sees the CPU idle is about to run elsewhere.
            (None, _) if is_measured || !wanted || self.running == 0 => return self.free(ns),
            (None, _) => self.in_span(ns, works),
        }
        let thread = if is_measured {
            self.running
        } else {
            self.waiting.unwrap_or_default()
        };
        self.take(before, thread, ns);
    }

    fn in_span(&mut self, ns: u64, works: &BTreeMap<i32, Work>) {
        let (_, so_far) = self.span.get_or_insert_with(|| {
            let work = works.get(&self.running);
            let task = || Who::Task(self.running, self.name.clone());
            (work.map_or_else(task, |work| Who::Work(work.function)), 0)
        });
        *so_far += ns;
    }

    fn take(&mut self, at: u64, thread: i32, ns: u64) {
        self.free_ns = 0;
        let current = self.current.get_or_insert(Interruption {
            at,
            thread,
            ..Interruption::default()
        });
        current.ns += ns;
    }

    fn free(&mut self, ns: u64) {
        self.free_ns += ns;
        if self.free_ns >= CLOSE_NS {
            self.over();
        }
    }

    /// The interruption is over, if there is one.
    fn over(&mut self) {
        let Some(done) = self.current.take() else {
            return;
        };
        self.taken.entry(done.thread).or_default().add(done.ns);
        self.histogram.add(done.ns);
        if done.ns > self.longest.ns {
            self.longest = done;
        }
    }

    fn blame(&mut self, who: Who, ns: u64) {
        self.by.entry(who.clone()).or_default().add(ns);
        if let Some(current) = &mut self.current {
            current.parts.push((who, ns));
        }
    }

    /// The worker calls a function: what it took to get there belongs to that.
    fn begin_work(&mut self, function: u64) {
        match &mut self.span {
            Some((who @ Who::Task(..), _)) => *who = Who::Work(function),
            _ => self.close_span(),
        }
    }

    fn close_span(&mut self) {
        if let Some((who, ns)) = self.span.take() {
            self.blame(who, ns);
        }
    }

    fn note(&mut self, event: Event, threads: &BTreeSet<i32>) {
        match event {
            Event::Switch {
                last,
                is_ready,
                next,
                name,
            } => self.switch(last, is_ready, next, name, threads),
            Event::Begins(context) => self.frames.push(Frame::new(context)),
            Event::Ends => self.end_frame(),
            Event::Calls(function) => {
                self.frames
                    .last_mut()
                    .into_iter()
                    .for_each(|f| f.call(function));
            }
            Event::Returns => self
                .frames
                .last_mut()
                .into_iter()
                .for_each(Frame::come_back),
            Event::Leaves { for_host: true } => self.exit = Exit::Host(0, None),
            Event::Leaves { for_host: false } => self.exit = Exit::Guest(0),
            Event::Enters => self.enter(),
            Event::Nmi(handler, ns) => {
                let is_measured = threads.contains(&self.running);
                let from = is_measured.then_some(self.running).or(self.waiting);
                if let Some(thread) = from {
                    let at = self.at.unwrap_or_default();
                    self.absences.add(at.saturating_sub(ns), at);
                    self.take(at.saturating_sub(ns), thread, ns);
                    self.blame(Who::Nmi(handler), ns);
                }
            }
            Event::Works(_) | Event::Rests | Event::Asks { .. } => {}
        }
    }

    fn switch(
        &mut self,
        last: i32,
        is_ready: bool,
        next: i32,
        name: String,
        threads: &BTreeSet<i32>,
    ) {
        self.close_span();
        // An interrupt does not outlive the task that it interrupted: its end was lost.
        self.frames.clear();
        // Idle can always run; it misses nothing.
        if threads.contains(&last) && last != 0 {
            self.waiting = is_ready.then_some(last);
        }
        if threads == &BTreeSet::from([0]) {
            self.waiting = (next != 0).then_some(0);
        }
        if self.waiting == Some(next) {
            self.waiting = None;
        }
        let exit = std::mem::take(&mut self.exit);
        if exit != Exit::None {
            self.exits.insert(last, exit);
        }
        self.exit = self.exits.remove(&next).unwrap_or_default();
        (self.running, self.name) = (next, name);
    }

    fn end_frame(&mut self) {
        let Some(frame) = self.frames.pop() else {
            return;
        };
        for (who, ns) in frame.over() {
            if let Exit::Host(_, cause @ None) = &mut self.exit {
                *cause = Some(who.clone());
            }
            self.blame(who, ns);
        }
    }

    fn enter(&mut self) {
        match std::mem::take(&mut self.exit) {
            Exit::None => {}
            Exit::Guest(ns) => self.own.add(ns),
            Exit::Host(ns, None) => self.blame(Who::Exit, ns),
            Exit::Host(ns, Some(cause)) => {
                if let Some(current) = &mut self.current {
                    current.parts.push((cause.clone(), ns));
                }
                self.by.entry(cause).or_default().lengthen(ns);
            }
        }
    }
}

#[cfg(test)]
mod tests;
