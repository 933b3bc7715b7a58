//! What threads that never sleep see of their CPUs: gaps between two readings of the clock.

use serde::{Deserialize, Serialize};

use super::absence::Gap;
use super::account::Accounts;
use super::tally::{Histogram, Tally};
use crate::domain::cpuset::CpuId;

/// Longer times between two readings are gaps, in nanoseconds: a reading takes some 20.
const SHORTEST_NS: u64 = 1_000;

/// Longer gaps are looked up in the trace, in nanoseconds: the threshold of the kernel's own detector of latencies
/// of the hardware (`hwlat`). Below it are the ways into and out of an interrupt, which have no record.
pub const NOTABLE_NS: u64 = 10_000;

/// Gaps that a thread has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gaps {
    /// How often, and how long.
    pub tally: Tally,
    /// The same by length.
    pub histogram: Histogram,
}

impl Gaps {
    /// Adds the time between two readings of the clock, if it is a gap; returns one that is to be looked up.
    pub fn add(&mut self, last: u64, now: u64) -> Option<Gap> {
        let ns = now.saturating_sub(last);
        if ns <= SHORTEST_NS {
            return None;
        }
        self.tally.add(ns);
        self.histogram.add(ns);
        (ns > NOTABLE_NS).then_some(Gap { at: last, ns })
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Gaps) {
        self.tally.merge(other.tally);
        self.histogram.merge(&other.histogram);
    }
}

/// What threads that never sleep have seen, where CPUs were measured with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spin {
    /// Whether they were real-time threads.
    pub is_realtime: bool,
    /// How many gaps there were, and how long.
    #[serde(flatten)]
    pub gaps: Tally,
    /// The same by length.
    pub histogram: Histogram,
    /// Long gaps during which the kernel has recorded nothing.
    pub unexplained: Tally,
    /// Long gaps that could not be looked up: there were too many, or records were lost.
    pub n_unknown: u64,
    /// Time that a thread was ready and its CPU idle, in nanoseconds: the kernel limits real-time threads.
    pub idle_ns: u64,
}

/// Looks gaps up in the trace.
#[derive(Debug, Default)]
pub struct Lookup {
    /// Gaps that are later than what is noted of the trace.
    pub pending: Vec<(CpuId, Gap)>,
    /// Gaps during which the kernel has recorded nothing.
    pub unexplained: Tally,
}

impl Lookup {
    /// Looks up those that were over before this time, until which all records are noted.
    pub fn look(&mut self, accounts: &Accounts, until: u64) {
        for (cpu, gap) in self.pending.extract_if(.., |(_, gap)| gap.end() <= until) {
            let account = accounts.cpus.get(&cpu);
            if account.is_some_and(|account| !account.absences.explain(gap)) {
                self.unexplained.add(gap.ns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::measure::account::Record;
    use crate::domain::trace::event::{Context, Event};

    #[test]
    fn a_gap_is_more_than_a_reading_and_a_long_one_is_looked_up() {
        let mut gaps = Gaps::default();
        for (ns, is_looked_up) in [(20, false), (1_000, false), (1_001, false), (10_001, true)] {
            let gap = Gap { at: 5, ns };
            assert_eq!(gaps.add(5, 5 + ns), is_looked_up.then_some(gap), "{ns}");
        }
        let (times, total_ns, longest_ns) = (2, 11_002, 10_001);
        let tally = Tally {
            times,
            total_ns,
            longest_ns,
        };
        assert_eq!(gaps.tally, tally);
        assert_eq!(gaps.histogram.0, [1, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(gaps.add(9, 8), None);
        let mut twice = gaps;
        twice.merge(&gaps);
        assert_eq!((twice.tally.times, twice.histogram.0[3]), (4, 2));
    }

    /// CPU 4, where the thread 100 spins, with these records at these times in microseconds.
    fn accounts(records: Vec<(u64, i32, Event)>) -> Accounts {
        let mut accounts = Accounts::new(BTreeSet::from([100]), [(CpuId(4), 100)]);
        accounts.begin(0);
        for (us, running, event) in records {
            accounts.note(Record {
                at: us * 1000,
                cpu: CpuId(4),
                running,
                event,
            });
        }
        accounts
    }

    fn switch(last: i32, next: i32) -> Event {
        Event::Switch {
            last,
            is_ready: last == 100,
            next,
            name: String::new(),
        }
    }

    fn gap(us: u64, until: u64) -> (CpuId, Gap) {
        let (at, ns) = (us * 1000, (until - us) * 1000);
        (CpuId(4), Gap { at, ns })
    }

    #[test]
    fn gaps_with_a_record_are_explained_and_others_are_not() {
        let accounts = accounts(vec![
            (100, 100, Event::Begins(Context::Vector("local timer"))),
            (108, 100, Event::Ends),
            (200, 100, switch(100, 7)),
            (260, 7, switch(7, 100)),
            (400, 100, Event::Nmi(3, 20_000)),
            // Real-time threads have had their time.
            (500, 100, switch(100, 0)),
            (540, 0, switch(0, 100)),
        ]);
        let explained = [(98, 110), (199, 261), (378, 402), (499, 541)];
        let mut lookup = Lookup::default();
        for (from, to) in explained.into_iter().chain([(300, 350), (600, 612)]) {
            lookup.pending.push(gap(from, to));
        }
        lookup.look(&accounts, 610_000);
        assert_eq!((lookup.unexplained.times, lookup.pending.len()), (1, 1));
        assert_eq!(lookup.unexplained.longest_ns, 50_000);
        lookup.look(&accounts, 612_000);
        assert_eq!((lookup.unexplained.times, lookup.pending.len()), (2, 0));
        let account = &accounts.cpus[&CpuId(4)];
        assert_eq!((account.idle_ns, account.waited_ns), (40_000, 100_000));
    }
}
