//! What holds when several VMs wish for different values of one thing.
//!
//! CPUs belong to one VM, but a cpufreq policy may span several, and a setting of the host is
//! everybody's. Every row of the knob table has a rule, so that the order of starts and stops does not matter
//! where one value serves all.

use super::knob::{Rule, SYSCTLS};
use super::target::{Target, Value};
use super::vm::Vmid;
use super::words::path_of_sysctl;

/// Wish of one VM for a target that others may wish for too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingWish {
    /// Whose wish it is.
    pub vmid: Vmid,
    /// When its run began, in ticks since boot.
    pub since: u64,
    /// What it wishes for.
    pub value: Value,
}

/// Returns the rule for a target.
pub fn rule(target: &Target) -> Rule {
    let Target::Knob(knob, place) = target else {
        return Rule::First;
    };
    let row = knob.row();
    let place = place.to_string();
    let own = row.rules.iter().find(|(name, _)| *name == place);
    own.map_or(row.rule, |(_, rule)| *rule)
}

/// Tells whether a sysctl, by its name with dots, is a number of which the highest or lowest holds.
pub fn is_number(name: &str) -> bool {
    let path = path_of_sysctl(name);
    SYSCTLS.iter().any(|(known, _)| *known == path)
}

/// Returns the wish that holds; values that a rule does not know are left to the first VM.
pub fn winner(rule: Rule, asked: &[SettingWish]) -> Option<&SettingWish> {
    let first = || asked.iter().min_by_key(|asked| (asked.since, asked.vmid));
    let all: Option<Vec<(i64, &SettingWish)>> = asked
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
mod tests;
