//! Who has taken time, by the names that people know, added up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::Accounts;
use super::kind::Kind;
use super::remedy::{Remedy, remedy};
use super::tally::Tally;
use super::who::Who;
use crate::domain::trace::event::Context;

/// What is known of a thread besides its number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownThread {
    /// Its name.
    pub name: String,
    /// Whether it is one of the kernel.
    pub is_kernel: bool,
    /// The unit or cgroup that it belongs to.
    pub group: String,
}

/// Names for what records have as numbers.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Functions of the kernel by their address.
    pub functions: BTreeMap<u64, String>,
    /// Threads by their number.
    pub threads: BTreeMap<i32, KnownThread>,
}

/// Somebody who has taken time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// What kind of thing it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// How often and how long.
    #[serde(flatten)]
    pub tally: Tally,
    /// Who asked for it, where that is known, with how often.
    pub asked_by: Vec<(String, u64)>,
    /// What can be done about it.
    pub remedy: Remedy,
}

/// Names of softirqs by their number (`include/linux/interrupt.h`).
const SOFTIRQS: [&str; 10] = [
    "HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU",
];

/// Functions of the timer that is the tick: before and since Linux 6.9 (37263ba0c44b).
const TICKS: [&str; 2] = ["tick_sched_timer", "tick_nohz_handler"];

impl Names {
    fn function(&self, address: u64) -> String {
        let name = self.functions.get(&address);
        name.cloned().unwrap_or_else(|| format!("{address:#x}"))
    }

    /// Returns kind and name of who has taken time.
    pub fn of(&self, who: &Who) -> (Kind, String) {
        match who {
            Who::Task(tid, name) => self.thread(*tid, name),
            Who::Work(function) => (Kind::Work, self.function(*function)),
            Who::Interrupt(context) => of_context(context),
            Who::Function(context, address) => self.called(context, *address),
            Who::Nmi(handler) => (Kind::Nmi, self.function(*handler)),
            Who::Exit => (Kind::Exit, "outside the guest, cause not traced".to_owned()),
        }
    }

    fn thread(&self, tid: i32, name: &str) -> (Kind, String) {
        let known = self.threads.get(&tid);
        let name = match (name, known) {
            ("", Some(known)) => &known.name,
            ("", None) => return (Kind::Program, format!("thread {tid}")),
            _ => name,
        };
        match known {
            Some(known) if known.is_kernel => (Kind::KernelThread, name.to_owned()),
            Some(known) if !known.group.is_empty() => {
                (Kind::Program, format!("{name} ({})", known.group))
            }
            // It has ended: only the kernel's own have such names.
            None if name.starts_with("kworker/") => (Kind::KernelThread, name.to_owned()),
            _ => (Kind::Program, name.to_owned()),
        }
    }

    fn called(&self, context: &Context, address: u64) -> (Kind, String) {
        let name = self.function(address);
        match context {
            Context::Device(..) => of_context(context),
            Context::Vector("function call") => (Kind::Call, name),
            _ if TICKS.contains(&name.as_str()) => (Kind::Tick, "the kernel's tick".to_owned()),
            _ => (Kind::Timer, name),
        }
    }

    /// Returns the name of a thread that asked for something.
    fn sender(&self, tid: i32) -> String {
        match tid {
            0 => "the kernel, from an idle cpu".to_owned(),
            tid => self.thread(tid, "").1,
        }
    }
}

fn of_context(context: &Context) -> (Kind, String) {
    match context {
        Context::Device(number, name) => (Kind::Interrupt, format!("irq {number} ({name})")),
        Context::Vector(name) => (Kind::Vector, (*name).to_owned()),
        Context::Softirq(number) => {
            let known = SOFTIRQS.get(usize::from(*number)).copied();
            let name = known.map_or_else(|| number.to_string(), str::to_owned);
            (Kind::Softirq, name)
        }
    }
}

/// Returns all who have taken time on these CPUs, the one who took most first.
pub fn culprits(accounts: &Accounts, names: &Names) -> Vec<Culprit> {
    let mut by_name: BTreeMap<(Kind, String), Tally> = BTreeMap::new();
    let by = accounts.cpus.values().flat_map(|account| &account.by);
    for (who, tally) in by {
        by_name.entry(names.of(who)).or_default().merge(*tally);
    }
    let asked = asked(accounts, names);
    let culprits = by_name.into_iter().map(|((kind, name), tally)| Culprit {
        kind,
        tally,
        asked_by: match kind {
            Kind::Call => asked.get(&name).cloned().unwrap_or_default(),
            Kind::Vector if name == "reschedule" => asked.get("").cloned().unwrap_or_default(),
            _ => Vec::new(),
        },
        remedy: remedy(kind, &name),
        name,
    });
    let mut culprits: Vec<Culprit> = culprits.collect();
    culprits.sort_by(|a, b| {
        b.tally
            .total_ns
            .cmp(&a.tally.total_ns)
            .then_with(|| a.name.cmp(&b.name))
    });
    culprits
}

/// Returns who asked for which function, most often first; the empty name stands for "look whether to schedule".
fn asked(accounts: &Accounts, names: &Names) -> BTreeMap<String, Vec<(String, u64)>> {
    let mut asked: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for ((tid, function), n) in &accounts.asked {
        let function = match function {
            0 => String::new(),
            address => names.function(*address),
        };
        let senders = asked.entry(function).or_default();
        *senders.entry(names.sender(*tid)).or_default() += n;
    }
    let sorted = asked.into_iter().map(|(function, senders)| {
        let mut senders: Vec<(String, u64)> = senders.into_iter().collect();
        senders.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        (function, senders)
    });
    sorted.collect()
}
