//! What the kernel makes of the frequencies that it is asked for, which is all that a limit shows.

use std::collections::BTreeMap;

use super::knob::{Limit, Words};
use super::target::{Place, Target, Value};

/// What limits the frequencies of each cpufreq policy, by its number.
pub type Frequencies = BTreeMap<u32, Range>;

/// What limits the frequencies of a cpufreq policy, in kHz.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    /// Lowest frequency of the hardware.
    pub least: u32,
    /// Highest frequency of the hardware; it changes with boost.
    pub most: u32,
    /// Frequencies that there are, in order, where the driver lists them.
    pub steps: Vec<u32>,
    /// Highest frequency that is allowed at the moment, which no lowest one exceeds.
    pub allowed: Option<u32>,
}

impl Range {
    /// Returns what a limit of the policy shows that asks for `asked`: within what the hardware can, and of the
    /// steps the one below as the highest frequency, the one above as the lowest (`__resolve_freq()` in
    /// `drivers/cpufreq/cpufreq.c`).
    pub fn rounded(&self, limit: Limit, asked: u32) -> u32 {
        let cut = asked.max(self.least).min(self.most);
        let mut steps = self.steps.iter().copied();
        let step = match limit {
            Limit::Lowest => steps.find(|step| *step >= cut),
            Limit::Highest => steps.rfind(|step| *step <= cut),
        };
        step.map_or(cut, |step| step.min(self.most))
    }

    /// Tells whether a limit that asks for `asked` may show `shown`. What the hardware can is told before it is
    /// applied.
    fn may_show(&self, limit: Limit, asked: u32, shown: u32) -> bool {
        let rounded = self.rounded(limit, asked);
        let is_outside =
            (self.most..=asked).contains(&shown) || (asked..=self.least).contains(&shown);
        let is_cut = limit == Limit::Lowest && self.allowed == Some(shown) && shown < rounded;
        shown == rounded || is_outside || is_cut
    }
}

/// Returns which end a target limits, and the policy.
pub fn limit_of(target: &Target) -> Option<(Limit, u32)> {
    match (target, target.row()?.words) {
        (Target::Knob(_, Place::Policy(policy)), Words::Limit(limit)) => Some((limit, *policy)),
        _ => None,
    }
}

/// Tells whether the upper limit of a frequency is that of the hardware. Switching boost sets it to that, and the
/// kernel forgets what was asked for (`cpufreq_boost_set_sw()`).
pub fn is_all(ranges: &Frequencies, target: &Target, live: &Value) -> bool {
    let policy = limit_of(target).filter(|(limit, _)| *limit == Limit::Highest);
    let range = policy.and_then(|(_, policy)| ranges.get(&policy));
    range.is_some_and(|range| number(live) == Some(range.most))
}

fn number(value: &Value) -> Option<u32> {
    value.to_string().parse().ok()
}

/// Tells whether `live` may be what the kernel makes of `asked`, where a target limits frequencies.
pub fn may_show(ranges: &Frequencies, target: &Target, live: &Value, asked: &Value) -> bool {
    let is_shown = || {
        let (limit, policy) = limit_of(target)?;
        let range = ranges.get(&policy)?;
        Some(range.may_show(limit, number(asked)?, number(live)?))
    };
    is_shown().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_cut_to_the_hardware_and_rounded_to_its_steps() {
        let range = Range {
            least: 1200,
            most: 3400,
            steps: vec![1200, 2200, 3400, 4400],
            allowed: None,
        };
        for (asked, lowest, highest) in [
            (1, 1200, 1200),
            (1200, 1200, 1200),
            (2000, 2200, 1200),
            (3000, 3400, 2200),
            (9000, 3400, 3400),
        ] {
            assert_eq!(range.rounded(Limit::Lowest, asked), lowest, "{asked}");
            assert_eq!(range.rounded(Limit::Highest, asked), highest, "{asked}");
        }
        let without = Range {
            steps: Vec::new(),
            ..range
        };
        assert_eq!(without.rounded(Limit::Highest, 2000), 2000);
    }

    #[test]
    fn a_limit_shows_what_was_asked_for_or_what_the_kernel_makes_of_it() {
        let range = Range {
            least: 1200,
            most: 3400,
            steps: Vec::new(),
            allowed: Some(2000),
        };
        let shows = |limit, asked, shown| range.may_show(limit, asked, shown);
        assert!(shows(Limit::Lowest, 3000, 2000), "cut by the highest one");
        assert!(!shows(Limit::Lowest, 1500, 2000));
        assert!(
            shows(Limit::Highest, 9000, 4400),
            "of boost, which has ended"
        );
        assert!(!shows(Limit::Highest, 2500, 2000));
        assert!(shows(Limit::Lowest, 800, 1200));
    }
}
