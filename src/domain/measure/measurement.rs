//! What a measurement has shown.

use serde::{Deserialize, Serialize};

use super::account::{Accounts, Interruption};
use super::culprit::{Culprit, Names, culprits};
use super::gaps::Spin;
use super::tally::{Histogram, Tally};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::vm::Vmid;

/// What a measurement has shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// VM that was measured, unless it was CPUs.
    pub vmid: Option<Vmid>,
    /// Its name.
    pub name: Option<String>,
    /// CPUs that were measured.
    pub cpus: CpuSet,
    /// When it began, in nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub began_ns: u64,
    /// For how long, in nanoseconds.
    pub duration_ns: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// What was taken, each interruption as one.
    pub taken: Tally,
    /// The same by length.
    pub histogram: Histogram,
    /// By vCPU, or by CPU where CPUs were measured.
    pub seats: Vec<Seat>,
    /// By whom, the one who took most first.
    pub culprits: Vec<Culprit>,
    /// The longest interruption, by whom and how long each, in nanoseconds.
    pub longest: Vec<(String, u64)>,
    /// Why it ended before its time.
    #[serde(default)]
    pub stopped: Option<Stopped>,
    /// What threads of this program have seen that never sleep, where CPUs were measured with them.
    #[serde(default)]
    pub spin: Option<Spin>,
    /// Times that the guest left for reasons of its own.
    pub own: Tally,
    /// Whether entries of the guest are seen: with KVM.
    pub sees_guest: bool,
    /// Time that the vCPUs were ready and had no CPU, by the scheduler's own count, in nanoseconds: what the guest
    /// sees as steal.
    pub steal_ns: u64,
    /// What of that the records show, in nanoseconds: the rest was waited after a wake-up.
    pub waited_ns: u64,
    /// How busy the SMT siblings were that others may use, in parts of a thousand.
    pub siblings: Vec<(CpuId, u64)>,
    /// What could not be seen, and why.
    pub unseen: Vec<String>,
    /// Records that were made on these CPUs for the measurement.
    pub n_records: u64,
    /// What one of them costs at most, in nanoseconds, as tried out before.
    pub record_ns: u64,
}

/// The longest interruption, where it was to end the measurement (`--stop-over`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Time that one may take, in nanoseconds.
    pub limit_ns: u64,
    /// How long this one took, in nanoseconds.
    pub ns: u64,
    /// When it began, in nanoseconds since the beginning of the measurement.
    pub after_ns: u64,
    /// On which CPU.
    pub cpu: CpuId,
    /// Of which vCPU, where a VM was measured.
    pub vcpu: Option<usize>,
}

/// What was taken at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Which vCPU, where a VM was measured.
    pub vcpu: Option<usize>,
    /// Its thread, or the one that spins; 0 where CPUs are measured without one.
    pub thread: i32,
    /// CPUs that it was measured on.
    pub cpus: CpuSet,
    /// What was taken.
    pub taken: Tally,
    /// Time that it was ready and had no CPU, in nanoseconds.
    pub steal_ns: u64,
}

impl Seat {
    fn is_of(&self, thread: i32, cpu: CpuId) -> bool {
        self.thread == thread && (thread != 0 || self.cpus.contains(cpu))
    }
}

impl Measurement {
    /// Adds up what the records of a measurement have shown; an interruption of more than `limit` nanoseconds has
    /// ended it.
    pub fn add_up(&mut self, accounts: &Accounts, names: &Names, limit: Option<u64>) {
        let mut longest = None;
        for (cpu, account) in &accounts.cpus {
            for (thread, tally) in &account.taken {
                self.taken.merge(*tally);
                let mut seats = self.seats.iter_mut();
                if let Some(seat) = seats.find(|seat| seat.is_of(*thread, *cpu)) {
                    seat.taken.merge(*tally);
                }
            }
            self.histogram.merge(&account.histogram);
            self.own.merge(account.own);
            self.waited_ns += account.waited_ns;
            if let Some(spin) = &mut self.spin {
                spin.idle_ns += account.idle_ns;
            }
            if account.longest.ns > longest.map_or(0, |(_, one): (_, &Interruption)| one.ns) {
                longest = Some((*cpu, &account.longest));
            }
        }
        self.stopped = longest
            .zip(limit)
            .and_then(|((cpu, one), limit)| self.stopped_by(cpu, one, limit));
        let parts = longest.into_iter().flat_map(|(_, one)| &one.parts);
        self.longest = parts.map(|(who, ns)| (names.of(who).1, *ns)).collect();
        self.culprits = culprits(accounts, names);
    }

    fn stopped_by(&self, cpu: CpuId, one: &Interruption, limit_ns: u64) -> Option<Stopped> {
        let mut seats = self.seats.iter();
        let seat = seats.find(|seat| seat.is_of(one.thread, cpu));
        (one.ns > limit_ns).then(|| Stopped {
            limit_ns,
            ns: one.ns,
            after_ns: one.at.saturating_sub(self.began_ns),
            cpu,
            vcpu: seat.and_then(|seat| seat.vcpu),
        })
    }

    /// Returns the time of the CPUs in all, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        let n = u64::try_from(self.seats.len()).unwrap_or(u64::MAX);
        self.duration_ns.saturating_mul(n)
    }

    /// Returns what the measurement itself has taken at most, in nanoseconds.
    pub fn overhead_ns(&self) -> u64 {
        self.n_records.saturating_mul(self.record_ns)
    }
}
