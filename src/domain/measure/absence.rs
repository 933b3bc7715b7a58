//! When a CPU did something else than the thread that is measured on it, as the kernel's records show.

use std::collections::VecDeque;

/// How many absences are kept for a CPU. Gaps are looked up ten times a second, so that this is one in 24 us.
const MOST: usize = 4096;

/// The clock of the trace and the one that threads read are the same, but not read in the same way, in
/// nanoseconds (`ktime_get_boot_fast_ns`).
const CLOSE_NS: u64 = 1_000;

/// Time between two readings of the clock by a thread that does nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When it began, in nanoseconds since boot.
    pub at: u64,
    /// How long it was, in nanoseconds.
    pub ns: u64,
}

impl Gap {
    /// Returns when it was over.
    pub fn end(self) -> u64 {
        self.at.saturating_add(self.ns)
    }
}

/// The last absences from a CPU: beginning and end, in their order.
#[derive(Debug, Default)]
pub struct Absences {
    last: VecDeque<(u64, u64)>,
    /// Until when they are forgotten.
    forgotten: u64,
}

impl Absences {
    /// Adds one that began last.
    pub fn add(&mut self, from: u64, to: u64) {
        if let Some((begun, ended)) = self.last.back_mut()
            && from <= *ended
        {
            *begun = from.min(*begun);
            *ended = to.max(*ended);
            return;
        }
        if self.last.len() == MOST
            && let Some((_, ended)) = self.last.pop_front()
        {
            self.forgotten = ended;
        }
        self.last.push_back((from, to));
    }

    /// Tells whether there was one during the gap. What is forgotten counts as one.
    pub fn explain(&self, gap: Gap) -> bool {
        let is_before = |(_, ended): &(u64, u64)| ended.saturating_add(CLOSE_NS) <= gap.at;
        let next = self.last.get(self.last.partition_point(is_before));
        let until = gap.end().saturating_add(CLOSE_NS);
        gap.at < self.forgotten || next.is_some_and(|(begun, _)| *begun < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Absences that last, each after so much time of presence, both in microseconds.
    fn absences(lasting: &[(u64, u64)]) -> (Absences, Vec<(u64, u64)>) {
        let (mut absences, mut all, mut at) = (Absences::default(), Vec::new(), 0);
        for (present, absent) in lasting {
            let from = at + present * 1000;
            at = from + absent * 1000;
            absences.add(from, at);
            all.push((from, at));
        }
        (absences, all)
    }

    fn between(at: u64, end: u64) -> Gap {
        Gap { at, ns: end - at }
    }

    #[test]
    fn absences_that_touch_are_one_and_an_nmi_within_is_a_part() {
        let mut absences = Absences::default();
        for (from, to) in [(10, 20), (20, 30), (24, 29), (40, 50)] {
            absences.add(from, to);
        }
        assert_eq!(absences.last, [(10, 30), (40, 50)]);
    }

    #[test]
    fn what_is_forgotten_accuses_no_firmware() {
        let (absences, all) = absences(&[(10, 10); MOST + 10]);
        assert_eq!(absences.last.len(), MOST);
        let present = |n: usize| between(all[n].1 + 2_000, all[n + 1].0 - 2_000);
        assert!(absences.explain(present(5)));
        assert!(!absences.explain(present(15)));
    }

    proptest! {
        #[test]
        fn a_gap_is_explained_if_an_absence_is_in_it(
            lasting in proptest::collection::vec((4..100_u64, 1..100_u64), 1..50),
            n in any::<proptest::sample::Index>(),
            earlier in 0..3_000_000_u64,
            later in 0..3_000_000_u64,
        ) {
            let (absences, all) = absences(&lasting);
            let (from, to) = all[n.index(all.len())];
            // Around it, with others perhaps, or a part of it.
            prop_assert!(absences.explain(between(from.saturating_sub(earlier), to + later)));
            let middle = from.midpoint(to);
            prop_assert!(absences.explain(between(middle, middle + 1)));
            // While the thread had its CPU.
            let before = all.iter().rev().map(|(_, end)| *end).find(|end| *end < from);
            let present = between(before.unwrap_or_default() + 1_000, from - 1_000);
            prop_assert!(!absences.explain(present));
        }

        #[test]
        fn their_memory_is_bounded(lasting in proptest::collection::vec((1..3_u64, 1..3_u64), MOST..MOST + 200)) {
            let (absences, all) = absences(&lasting);
            prop_assert_eq!(absences.last.len(), MOST);
            prop_assert_eq!(absences.last.back(), all.last());
        }
    }
}
