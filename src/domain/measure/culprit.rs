//! Who has taken time, by the names that people know, added up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::Accounts;
use super::kind::Kind;
use super::remedy::{Around, Remedy, WATCHDOG, remedy};
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
    /// The group of the VM that is measured.
    pub of_vm: Option<String>,
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
                (Kind::Program, format!("{name}{}", in_group(&known.group)))
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

    fn is_in_vm(&self, name: &str) -> bool {
        let group = self.of_vm.as_deref().map(in_group);
        group.is_some_and(|group| name.ends_with(&group))
    }

    /// Returns the name of a thread that asked for something.
    fn sender(&self, tid: i32) -> String {
        match tid {
            0 => "the kernel, from an idle cpu".to_owned(),
            tid => self.thread(tid, "").1,
        }
    }
}

/// Returns how the name of a program in a group ends.
fn in_group(group: &str) -> String {
    format!(" ({group})")
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
    let is_watched = by_name.contains_key(&(Kind::Timer, WATCHDOG.to_owned()));
    let around = |name: &str| Around {
        is_in_vm: names.is_in_vm(name),
        is_watched,
    };
    let culprits = by_name.into_iter().map(|((kind, name), tally)| Culprit {
        kind,
        tally,
        asked_by: match kind {
            Kind::Call => asked.get(&name).cloned().unwrap_or_default(),
            Kind::Vector if name == "reschedule" => asked.get("").cloned().unwrap_or_default(),
            _ => Vec::new(),
        },
        remedy: remedy(kind, &name, around(&name)),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::cpuset::CpuId;

    /// Returns the remedies of those who took time: a program of the VM 100, the thread that has CPU 4 for
    /// whatever stops it, and this timer.
    fn remedies(timer: &str, of_vm: Option<&str>) -> BTreeMap<String, Remedy> {
        let mut accounts = Accounts::new(BTreeSet::new(), [(CpuId(4), 0)]);
        let account = accounts.cpus.get_mut(&CpuId(4)).unwrap();
        let local = Context::Vector("local timer");
        for who in [
            Who::Task(7, "kvm".to_owned()),
            Who::Task(8, "migration/4".to_owned()),
            Who::Function(local, 0xf0),
        ] {
            account.by.entry(who).or_default().add(1);
        }
        let thread = |is_kernel, group: &str| KnownThread {
            is_kernel,
            group: group.to_owned(),
            ..KnownThread::default()
        };
        let names = Names {
            functions: BTreeMap::from([(0xf0, timer.to_owned())]),
            threads: BTreeMap::from([(7, thread(false, "100.scope")), (8, thread(true, ""))]),
            of_vm: of_vm.map(str::to_owned),
        };
        let culprits = culprits(&accounts, &names).into_iter();
        culprits.map(|one| (one.name, one.remedy)).collect()
    }

    #[test]
    fn a_remedy_depends_on_who_else_is_there() {
        let is_do = |remedy: &Remedy, text: &str| match remedy {
            Remedy::Do(this) => this.contains(text),
            _ => false,
        };
        let seen = remedies(WATCHDOG, Some("100.scope"));
        assert!(is_do(&seen["migration/4"], "isolate.watchdog"), "{seen:?}");
        assert!(is_do(&seen["kvm (100.scope)"], "pin.emulator"), "{seen:?}");
        let seen = remedies("hrtimer_wakeup", Some("101.scope"));
        assert!(
            matches!(seen["migration/4"], Remedy::Nothing(_)),
            "{seen:?}"
        );
        assert!(!is_do(&seen["kvm (100.scope)"], "pin.emulator"), "{seen:?}");
    }
}
