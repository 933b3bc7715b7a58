//! What holds when several VMs wish for different values of one thing.
//!
//! CPUs belong to one VM, but a cpufreq policy may span several, and a setting of the host is
//! everybody's. Every knob has a rule, so that the order of starts and stops does not matter
//! where one value serves all.

use super::knob::Knob;
use super::target::{Place, Target, Value};
use super::vm::Vmid;
use super::words::path_of_sysctl;

/// Which of several wishes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// That of the VM that was started first, as long as it runs.
    First,
    /// The largest number.
    Highest,
    /// The smallest number.
    Lowest,
    /// The word that comes first in this list.
    Strongest(&'static [&'static str]),
}

impl Rule {
    /// Returns the rule in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Rule::First => "the vm that was started first decides",
            Rule::Highest => "the highest value holds",
            Rule::Lowest => "the lowest value holds",
            Rule::Strongest(_) => "the strongest value holds",
        }
    }
}

const GOVERNORS: &[&str] = &[
    "performance",
    "schedutil",
    "ondemand",
    "conservative",
    "powersave",
];
const PREFERENCES: &[&str] = &[
    "performance",
    "balance_performance",
    "balance_power",
    "power",
];
/// Taking merged pages apart stops the merging as well.
const KSM: &[&str] = &["2", "0"];

/// Sysctls of which one value serves every VM (`Documentation/admin-guide/sysctl`).
const SYSCTLS: &[(&str, Rule)] = &[
    ("kernel/nmi_watchdog", Rule::Lowest),
    ("kernel/numa_balancing", Rule::Lowest),
    ("kernel/soft_watchdog", Rule::Lowest),
    ("kernel/watchdog_thresh", Rule::Highest),
    ("vm/stat_interval", Rule::Highest),
];

/// Wish of one VM for a target that others may wish for too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whose wish it is.
    pub vmid: Vmid,
    /// When its run began, in ticks since boot.
    pub since: u64,
    /// What it wishes for.
    pub value: Value,
}

/// Returns the rule for a target.
pub fn rule(target: &Target) -> Rule {
    match target {
        Target::Knob(Knob::Governor, _) => Rule::Strongest(GOVERNORS),
        Target::Knob(Knob::EnergyPreference, _) => Rule::Strongest(PREFERENCES),
        Target::Knob(Knob::KsmRun, _) => Rule::Strongest(KSM),
        Target::Knob(Knob::NoTurbo, _) => Rule::Lowest,
        Target::Knob(
            Knob::MaxFrequency
            | Knob::MinFrequency
            | Knob::PolicyBoost
            | Knob::Boost
            | Knob::HaltPoll
            | Knob::HaltPollGrow,
            _,
        ) => Rule::Highest,
        Target::Knob(Knob::Sysctl, Place::Sysctl(path)) => {
            let known = SYSCTLS.iter().find(|(name, _)| name == path);
            known.map_or(Rule::First, |(_, rule)| *rule)
        }
        _ => Rule::First,
    }
}

/// Tells whether a sysctl, by its name with dots, is a number of which the highest or lowest holds.
pub fn is_number(name: &str) -> bool {
    let path = path_of_sysctl(name);
    SYSCTLS.iter().any(|(known, _)| *known == path)
}

/// Returns the wish that holds; values that a rule does not know are left to the first VM.
pub fn winner(rule: Rule, asked: &[Asked]) -> Option<&Asked> {
    let first = || asked.iter().min_by_key(|asked| (asked.since, asked.vmid));
    let all: Option<Vec<(i64, &Asked)>> = asked
        .iter()
        .map(|asked| Some((rank(rule, &asked.value)?, asked)))
        .collect();
    let Some(ranked) = all else { return first() };
    let best = ranked
        .into_iter()
        .min_by_key(|(rank, asked)| (*rank, asked.since, asked.vmid));
    best.map(|(_, asked)| asked)
}

/// Returns the place of a value in the order of a rule, the one that holds first.
fn rank(rule: Rule, value: &Value) -> Option<i64> {
    let Value::Text(text) = value else {
        return None;
    };
    match rule {
        Rule::First => None,
        Rule::Highest => text.parse::<i64>().ok()?.checked_neg(),
        Rule::Lowest => text.parse().ok(),
        Rule::Strongest(words) => {
            let place = words.iter().position(|word| word == text)?;
            i64::try_from(place).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(vmid: u32, since: u64, text: &str) -> Asked {
        Asked {
            vmid: vmid.to_string().parse().unwrap(),
            since,
            value: Value::Text(text.to_owned()),
        }
    }

    fn held(rule: Rule, wishes: &[(u32, u64, &str)]) -> String {
        let wishes = wishes
            .iter()
            .map(|(vmid, since, text)| asked(*vmid, *since, text));
        let wishes: Vec<Asked> = wishes.collect();
        winner(rule, &wishes).unwrap().value.to_string()
    }

    #[test]
    fn the_rule_decides_and_not_the_order_of_starts() {
        for (rule, wishes, expected) in [
            (Rule::First, [(101, 5, "a"), (100, 9, "b")], "a"),
            (Rule::Highest, [(101, 5, "3"), (100, 9, "120")], "120"),
            (Rule::Lowest, [(101, 5, "3"), (100, 9, "120")], "3"),
            (
                Rule::Strongest(GOVERNORS),
                [(101, 5, "powersave"), (100, 9, "performance")],
                "performance",
            ),
        ] {
            assert_eq!(held(rule, &wishes), expected, "{rule:?}");
            let [first, second] = wishes;
            assert_eq!(held(rule, &[second, first]), expected, "{rule:?}");
        }
    }

    #[test]
    fn what_a_rule_does_not_know_is_left_to_the_first() {
        let wishes = [(101, 5, "userspace"), (100, 9, "performance")];
        assert_eq!(held(Rule::Strongest(GOVERNORS), &wishes), "userspace");
        assert_eq!(held(Rule::Highest, &[(101, 5, "all"), (100, 2, "1")]), "1");
        assert_eq!(winner(Rule::First, &[]), None);
    }
}
