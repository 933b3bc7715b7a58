//! The isolation of a VM, from 0 to 5, and the step that raises it.

use serde::Serialize;

use super::backend::{Backend, BackendWish};
use super::claim::Claim;
use super::claim::Wishes;
use super::measure::proof::Proof;
use super::table::{HostKnobs, Power, Table};
use super::vm::Vmid;

/// The highest level: what a measurement has shown.
pub const HIGHEST: u8 = 5;

/// What is kept off the CPUs of a VM, or set on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// How they are taken; `None` where they are not.
    pub backend: Option<Backend>,
    /// Whether the table leaves the backend open.
    pub is_open: bool,
    /// Whether kernel threads are kept off.
    pub kernel_threads: bool,
    /// Whether interrupts are.
    pub interrupts: bool,
    /// Whether idle states and frequencies are set.
    pub power: bool,
    /// Whether timers of the kernel that run on every CPU are.
    pub timers: bool,
}

/// How much of the CPUs of a VM is its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Level {
    /// From 0, for nothing, to [`HIGHEST`].
    pub number: u8,
    /// Whether that is so now; otherwise it is what the next start would make of it.
    pub in_force: bool,
    /// What that means.
    pub means: &'static str,
    /// The one step to the next level, where there is one.
    pub next: Option<String>,
}

/// Why a VM has no CPUs of its own, and would not have any if it started now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacking {
    /// It has no table.
    Table,
    /// A file that its CPUs depend on cannot be used.
    Usable(String),
    /// PVE does not call the program for it; whether it runs.
    Hook {
        /// Whether the VM runs.
        runs: bool,
    },
    /// It runs without what its table says.
    Claim,
    /// Something is in the way of its start.
    Start,
}

impl Lacking {
    /// Returns the step that mends it.
    fn step(&self, vmid: Vmid) -> String {
        match self {
            Lacking::Table => {
                format!("pin-hook init {vmid} --write, then pin-hook enable {vmid}")
            }
            Lacking::Usable(path) => {
                format!("fix {path} (pin-hook check --table {path} shows the error)")
            }
            Lacking::Hook { runs: false } => format!("pin-hook enable {vmid}"),
            Lacking::Hook { runs: true } => {
                format!("pin-hook enable {vmid}, then pin-hook apply {vmid}")
            }
            Lacking::Claim => format!("pin-hook apply {vmid}"),
            Lacking::Start => format!("pin-hook plan {vmid} shows what is in the way"),
        }
    }
}

impl Kept {
    /// Returns what a claim keeps.
    pub fn of_wishes(wishes: &Wishes) -> Self {
        Kept {
            backend: (!wishes.cpus.is_empty()).then_some(wishes.backend),
            is_open: true,
            kernel_threads: wishes.kernel_threads,
            interrupts: wishes.interrupts,
            power: is_set(&wishes.power),
            timers: are_set(&wishes.host),
        }
    }

    /// Returns what a table would keep where a backend that it leaves open is `best`.
    pub fn of_table(table: &Table, best: Option<Backend>) -> Self {
        let (backend, is_open) = match table.isolate.backend {
            BackendWish::Auto => (best, true),
            BackendWish::Only(backend) => (Some(backend), false),
        };
        Kept {
            backend,
            is_open,
            kernel_threads: table.isolate.kthreads,
            interrupts: table.isolate.irqs,
            power: is_set(&table.power),
            timers: are_set(&table.host),
        }
    }
}

fn is_set(power: &Power) -> bool {
    power.max_idle_latency.is_some() && (power.governor.is_some() || power.min_frequency.is_some())
}

/// The statistics of memory are brought up to date on every CPU, once a second unless somebody says otherwise
/// (`mm/vmstat.c`).
fn are_set(host: &HostKnobs) -> bool {
    host.sysctl.contains_key("vm.stat_interval")
}

impl Level {
    /// Returns the level of a VM that owns CPUs: it wishes for one, and has another, or with `None` not even
    /// its threads where they should be.
    pub fn in_force(claim: &Claim, wished: &Kept, kept: Option<&Kept>) -> Self {
        let vmid = claim.vmid;
        let wished = Level::of(vmid, wished);
        let now = match kept {
            Some(kept) => Level::of(vmid, kept),
            None => Level {
                number: 0,
                means: "not every vcpu is where it should be",
                ..wished.clone()
            },
        };
        let differs = match claim.offline.is_empty() {
            true => format!("pin-hook apply {vmid} sets again what differs"),
            false => format!("take {} online again", claim.offline.in_words()),
        };
        Level {
            in_force: true,
            next: match now.number < wished.number {
                true => Some(differs),
                false => wished.next,
            },
            ..now
        }
    }

    /// Raises the level to the highest where a measurement since the boot has shown that it holds for what the VM
    /// asks for now; otherwise the next step leads there.
    pub fn proven(self, vmid: Vmid, wishes: &Wishes, proof: Option<&Proof>) -> Self {
        if self.number + 1 != HIGHEST {
            return self;
        }
        let proof = proof.filter(|proof| proof.wishes == *wishes);
        let next = match proof.map(|proof| proof.intruders.as_slice()) {
            None => format!("pin-hook measure {vmid}, for 10 s or longer"),
            Some([]) => {
                return Level {
                    number: HIGHEST,
                    means: "measured: no program and no interrupt of a device was there",
                    ..self
                };
            }
            Some([first, ..]) => {
                format!("keep {first} off its cpus: pin-hook measure {vmid} shows what helps")
            }
        };
        Level {
            next: Some(next),
            ..self
        }
    }

    /// Returns the level of a VM that owns nothing.
    pub fn without(vmid: Vmid, lacking: &Lacking) -> Self {
        Level {
            in_force: true,
            next: Some(lacking.step(vmid)),
            ..Level::of(vmid, &Kept::default())
        }
    }

    /// Returns the same where something else comes before the next step, if there is one.
    pub fn after(self, step: String) -> Self {
        Level {
            next: self.next.map(|_| step),
            ..self
        }
    }

    /// Returns the level that a VM would have.
    pub fn of(vmid: Vmid, kept: &Kept) -> Self {
        let level = |number, means, next: Option<String>| Level {
            number,
            in_force: false,
            means,
            next,
        };
        let key = |text: &str| Some(format!("{text} in its table"));
        match kept.backend {
            None => {
                let next = Lacking::Table.step(vmid);
                level(0, "nothing is kept off its cpus", Some(next))
            }
            Some(Backend::Affinity) => {
                let next = match kept.is_open {
                    true => Some("pin-hook check --explain kernel".to_owned()),
                    false => key("isolate.backend = \"auto\""),
                };
                level(1, "its threads are pinned, nothing is kept off", next)
            }
            Some(_) if !kept.kernel_threads || !kept.interrupts => {
                let next = match kept.kernel_threads {
                    true => key("isolate.irqs = true"),
                    false => key("isolate.kthreads = true"),
                };
                level(2, "programs, containers and other vms are kept off", next)
            }
            Some(_) if !kept.power || !kept.timers => {
                let means = "kernel threads and interrupts are kept off as well";
                level(3, means, key("profile = \"low-latency\""))
            }
            Some(_) => level(4, "power and timers are set for it as well", None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_level_is_earned_by_a_measurement_of_what_is_asked_for() {
        let vmid: Vmid = "100".parse().unwrap();
        let kept = Kept {
            backend: Some(Backend::Isolated),
            is_open: true,
            kernel_threads: true,
            interrupts: true,
            power: true,
            timers: true,
        };
        let wishes = Wishes::none();
        let other = Wishes {
            watchdog: true,
            ..Wishes::none()
        };
        let proof = |wishes: &Wishes, intruders: &[&str]| Proof {
            wishes: wishes.clone(),
            intruders: intruders.iter().map(|name| (*name).to_owned()).collect(),
        };
        let level = |proof: Option<&Proof>| {
            let level = Level::of(vmid, &kept).proven(vmid, &wishes, proof);
            (level.number, level.next.unwrap_or_default())
        };
        let measure = "pin-hook measure 100, for 10 s or longer".to_owned();
        assert_eq!(level(None), (4, measure.clone()));
        // Of another table it shows nothing.
        assert_eq!(level(Some(&proof(&other, &[]))), (4, measure));
        assert_eq!(level(Some(&proof(&wishes, &[]))), (5, String::new()));
        let (number, next) = level(Some(&proof(&wishes, &["irq 41 (nvme0q1)", "cron"])));
        assert!(
            number == 4 && next.starts_with("keep irq 41 (nvme0q1) off"),
            "{next}"
        );
        // Who is not as far has another step to take first.
        let kept = Kept {
            timers: false,
            ..kept
        };
        let lower = Level::of(vmid, &kept).proven(vmid, &wishes, Some(&proof(&wishes, &[])));
        assert_eq!(lower, Level::of(vmid, &kept));
    }

    /// Each step that is named leads to the next level.
    #[test]
    fn levels_are_reached_one_by_one() {
        let vmid: Vmid = "100".parse().unwrap();
        let mut kept = Kept::default();
        let steps: [fn(&mut Kept); 5] = [
            |_| {},
            |kept| kept.backend = Some(Backend::Affinity),
            |kept| kept.backend = Some(Backend::Isolated),
            |kept| (kept.kernel_threads, kept.interrupts) = (true, true),
            |kept| (kept.power, kept.timers) = (true, true),
        ];
        for (number, step) in steps.into_iter().enumerate() {
            step(&mut kept);
            let level = Level::of(vmid, &kept);
            assert_eq!(usize::from(level.number), number, "{level:?}");
            assert_eq!(level.next.is_some(), number < 4, "{level:?}");
        }
        kept.interrupts = false;
        let level = Level::of(vmid, &kept);
        assert_eq!(level.next.unwrap(), "isolate.irqs = true in its table");
    }

    fn kept(backend: Backend) -> Kept {
        Kept {
            backend: Some(backend),
            is_open: true,
            kernel_threads: true,
            interrupts: true,
            ..Kept::default()
        }
    }

    /// What `status` names has to be what raises the level of a VM that runs.
    #[test]
    fn the_next_step_of_a_vm_that_runs_is_the_one_that_is_lacking() {
        let vmid: Vmid = "100".parse().unwrap();
        let qemu = crate::domain::vm::TaskId { tid: 5, start: 50 };
        let state = crate::domain::claim::ClaimState::Running { qemu };
        let claim = Claim::new(vmid, state, Wishes::none(), None);
        let lacks = Claim {
            offline: "3-4".parse().unwrap(),
            ..claim.clone()
        };
        let (wished, less) = (kept(Backend::Isolated), kept(Backend::Affinity));
        let apply = "pin-hook apply 100 sets again what differs";
        let table = "profile = \"low-latency\" in its table";
        for (claim, kept, number, next) in [
            // All that the table asks for is in force: only the table leads further.
            (&claim, Some(&wished), 3, table),
            (&lacks, Some(&wished), 3, table),
            (&claim, Some(&less), 1, apply),
            (&claim, None, 0, apply),
            // No `apply` brings CPUs back.
            (&lacks, None, 0, "take cpus 3-4 online again"),
        ] {
            let level = Level::in_force(claim, &wished, kept);
            let found = (level.number, level.next.as_deref());
            assert_eq!(found, (number, Some(next)), "{kept:?}");
        }
    }

    /// A CPU that sleeps deeply, or is slow when it wakes up, is not one that was set for the VM.
    #[test]
    fn power_is_set_where_both_sleep_and_speed_are() {
        let (governor, frequency) = (Some("performance".to_owned()), "3GHz".parse().ok());
        let latency = "2us".parse().ok();
        for (max_idle_latency, governor, min_frequency, expected) in [
            (latency, governor.clone(), None, true),
            (latency, None, frequency, true),
            (latency, None, None, false),
            (None, governor, frequency, false),
        ] {
            let power = Power {
                max_idle_latency,
                governor,
                min_frequency,
                ..Power::default()
            };
            assert_eq!(is_set(&power), expected, "{power:?}");
        }
    }

    /// A VM that owns nothing must not look as if its threads were pinned.
    #[test]
    fn a_vm_without_cpus_of_its_own_is_at_the_lowest_level() {
        let vmid: Vmid = "100".parse().unwrap();
        let owns = Wishes {
            cpus: "2-3".parse().unwrap(),
            ..Wishes::none()
        };
        for (wishes, number) in [(Wishes::none(), 0), (owns, 1)] {
            let level = Level::of(vmid, &Kept::of_wishes(&wishes));
            assert_eq!(level.number, number, "{wishes:?}");
        }
    }
}
