//! Settings of the host that a VM wishes for: what this host lacks, and what others wish for too.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::domain::claim::Claims;
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::knobs::{
    HALT_POLL_GROW, Tuning, halt_poll_grow, is_implied, of_any_policy, of_tuning, settings,
};
use crate::domain::facts::{BoostBy, Facts};
use crate::domain::frequency::{self, Range};
use crate::domain::knob::Limit;
use crate::domain::merge;
use crate::domain::state::State;
use crate::domain::sysctl;
use crate::domain::table::{Frequency, Ksm};
use crate::domain::target::{Place, Target, Value};
use crate::domain::vm::Vmid;
use crate::domain::words::path_of_sysctl;
use crate::host::{Host, cpufreq, ksm, target};

/// Observes what wishes for settings depend on; what this run has seen `before` need not be asked again where it
/// cannot change.
pub fn observe(host: &Host, facts: &mut Facts, before: &Facts) {
    facts.policies = cpufreq::policies(&*host.files);
    let policies = facts.policies.keys();
    let ranges = policies.filter_map(|policy| {
        let known = before.frequencies.get(policy);
        Some((*policy, cpufreq::range(&*host.files, *policy, known)?))
    });
    facts.frequencies = ranges.collect();
    let first = facts.policies.keys().next().copied();
    facts.boost = cpufreq::boost_by(&*host.files, first);
    facts.ksm_may_unmerge = ksm::may_unmerge(&*host.files);
}

fn observed(host: &Host) -> Facts {
    let mut facts = Facts::default();
    observe(host, &mut facts, &Facts::default());
    facts
}

/// Returns what an operator should know of a VM's wishes on this host, before they are written.
pub fn remarks(host: &Host, wishes: Tuning<'_>) -> Vec<String> {
    if wishes.is_nothing() {
        return Vec::new();
    }
    let facts = observed(host);
    let mut remarks = lacks(host, wishes, &facts);
    remarks.extend(unavailable(host, wishes, &facts));
    remarks.extend(refused_sysctls(host, wishes));
    remarks.extend(consequences(wishes, &facts));
    remarks
}

/// Names each key of the table once that this host has no file for, or one that nobody can read.
fn lacks(host: &Host, wishes: Tuning<'_>, facts: &Facts) -> Vec<String> {
    let mut remarks = Vec::new();
    let covered: CpuSet = facts.policies.values().flat_map(CpuSet::iter).collect();
    let bare = wishes.cpus.difference(&covered);
    // The governor first: it is what people think of.
    let of_policies = of_any_policy(wishes).into_iter().rev();
    let keys = of_policies.filter_map(|target| key_of(&target, wishes));
    for key in keys.filter(|_| !bare.is_empty()) {
        let cpus = bare.in_words();
        remarks.push(format!(
            "{key} is skipped: nothing governs the frequency of {cpus}"
        ));
    }
    if wishes.power.boost.is_some() && facts.boost == BoostBy::Nothing {
        remarks.push("power.boost is skipped: this host has no switch for it".to_owned());
    }
    let mut seen = BTreeSet::new();
    for (target, _) in of_tuning(wishes, facts) {
        let Some(key) = key_of(&target, wishes) else {
            continue;
        };
        let path = target.path();
        let lack = match target::read(host, &target) {
            // A profile asks for it everywhere.
            Ok(Value::Absent) if is_given_anyway(&key, wishes) => continue,
            Ok(Value::Absent) => format!("this host has no {path}"),
            Ok(_) => continue,
            Err(error) => format!("{path} cannot be read: {error}"),
        };
        if seen.insert(key.clone()) {
            remarks.push(format!("{key} is skipped: {lack}"));
        }
    }
    remarks
}

/// Tells whether nothing is lost where a key has no file: at governor `performance` a driver without preferences runs
/// at its highest frequency, which is what the preference of that name asks for.
fn is_given_anyway(key: &str, wishes: Tuning<'_>) -> bool {
    let is_fast = |value: &Option<String>| value.as_deref() == Some("performance");
    let power = wishes.power;
    key == "power.energy-preference"
        && is_fast(&power.energy_preference)
        && is_fast(&power.governor)
}

/// Names what a policy does not accept: words that its driver does not know, and frequencies that the
/// hardware does not have.
fn unavailable(host: &Host, wishes: Tuning<'_>, facts: &Facts) -> BTreeSet<String> {
    let files = &*host.files;
    let switches_boost = wishes.power.boost.is_some() && facts.boost != BoostBy::Nothing;
    let wished = of_tuning(wishes, facts).into_iter();
    let refused = wished.filter_map(|(target, value)| {
        let Target::Knob(knob, Place::Policy(policy)) = &target else {
            return None;
        };
        let (key, value) = (key_of(&target, wishes)?, value.to_string());
        if let Some(words) = cpufreq::available(files, *knob, *policy) {
            let (is_known, words) = (words.contains(&value), words.join(", "));
            let text = format!("{key} \"{value}\" is unknown to this host, which has {words}");
            return (!is_known).then_some(text);
        }
        let (limit, policy) = frequency::limit_of(&target)?;
        let text = rounded(
            limit,
            facts.frequencies.get(&policy)?,
            value.parse().ok()?,
            switches_boost,
        )?;
        Some(format!("{key}: {text}"))
    });
    refused.collect()
}

/// Names values that no kernel takes for a sysctl of this host; of one that it lacks that is told.
fn refused_sysctls(host: &Host, wishes: Tuning<'_>) -> Vec<String> {
    let there = wishes.host.sysctl.iter().filter(|(name, _)| {
        let path = path_of_sysctl(name);
        host.files.exists(&format!("/proc/sys/{path}"))
    });
    let refused = there.filter_map(|(name, value)| {
        let value = value.as_str();
        let path = format!("/proc/sys/{}", path_of_sysctl(name));
        let is_now = host.files.read(&path).unwrap_or_default();
        if sysctl::has_numbers(&is_now) && !sysctl::has_numbers(value) {
            return Some(format!(
                "host.sysctl {name}: the kernel refuses \"{value}\", it takes numbers, such as {}",
                is_now.trim()
            ));
        }
        let (least, most) = sysctl::beyond(name, value)?;
        Some(format!(
            "host.sysctl {name}: the kernel refuses {value}, it takes {least} to {most}"
        ))
    });
    refused.collect()
}

/// Tells what the kernel makes of a frequency that the hardware does not have. What boost adds is not known before
/// it is switched.
fn rounded(limit: Limit, range: &Range, asked: u32, switches_boost: bool) -> Option<String> {
    let to = range.rounded(limit, asked);
    let in_words = |khz: u32| Frequency::of_kilohertz(khz).to_string();
    let Range { least, most, .. } = *range;
    let is_above = asked > most;
    if asked == to || is_above && switches_boost {
        return None;
    }
    let (asked_for, to) = (in_words(asked), in_words(to));
    if is_above || asked < least {
        let where_ = if is_above { "beyond" } else { "below" };
        let (least, most) = (in_words(least), in_words(most));
        return Some(format!(
            "{asked_for} is {where_} the hardware ({least} to {most}), the kernel makes it {to}"
        ));
    }
    let steps = range.steps.iter().map(|step| in_words(*step));
    let steps: Vec<String> = steps.collect();
    Some(format!(
        "the kernel rounds {asked_for} to {to}: this host has {}",
        steps.join(", ")
    ))
}

/// Tells what a wish brings with it.
fn consequences(wishes: Tuning<'_>, facts: &Facts) -> Vec<String> {
    let mut remarks = Vec::new();
    let latency = wishes.power.max_idle_latency;
    if latency.is_some_and(|latency| latency.duration().is_zero()) {
        let text = "power.max-idle-latency of zero makes the cpus poll: they get hot, and slow \
                    down siblings and boosted neighbours";
        remarks.push(text.to_owned());
    }
    if wishes.host.ksm == Some(Ksm::Unmerge) && !facts.ksm_may_unmerge {
        let text = "host.ksm: too little memory to unmerge pages, they stay merged";
        remarks.push(text.to_owned());
    }
    let governed = facts
        .policies
        .values()
        .filter(|cpus| !cpus.is_disjoint(wishes.cpus));
    let shared: CpuSet = governed
        .flat_map(|cpus| cpus.difference(wishes.cpus).iter().collect::<Vec<_>>())
        .collect();
    if !wishes.power.is_untouched() && !shared.is_empty() {
        let cpus = shared.in_words();
        remarks.push(format!(
            "the frequency of {cpus}, which the vm does not own, changes with that of the owned ones"
        ));
    }
    remarks
}

/// Tells what is set as well because a wish has no effect without it.
pub fn companions(host: &Host, wishes: Tuning<'_>) -> Vec<String> {
    let halt_poll = wishes.host.halt_poll;
    let is_wished = halt_poll.is_some_and(|time| !time.duration().is_zero());
    let grow = halt_poll_grow();
    let keeps_off = || matches!(target::read(host, &grow), Ok(Value::Text(text)) if text == "0");
    if !is_wished || !keeps_off() {
        return Vec::new();
    }
    vec![format!(
        "host.halt-poll has no effect while halt_poll_ns_grow is 0, as it is on this host: it is \
         set to {HALT_POLL_GROW} as well"
    )]
}

/// Tells where VMs wish for different values of one setting, one line for each of a VM's wishes.
pub fn contested(host: &Host, claims: &Claims, vmid: Vmid) -> Vec<String> {
    if claims
        .get(&vmid)
        .is_none_or(|claim| claim.wishes.tuning().is_nothing())
    {
        return Vec::new();
    }
    let settings = settings(claims, &observed(host)).into_iter();
    let lines: BTreeSet<String> = settings
        .filter_map(|(target, asked)| {
            let own = asked.iter().find(|asked| asked.vmid == vmid)?;
            let rule = merge::rule(&target);
            let winner = merge::winner(rule, &asked)?;
            let other = asked.iter().find(|asked| asked.value != own.value)?;
            let wishes = &claims.get(&vmid)?.wishes;
            let key = key_of(&target, wishes.tuning())?;
            Some(format!(
                "{key}: this table asks for \"{}\", vm {} for \"{}\"; using \"{}\" ({})",
                own.value,
                other.vmid,
                other.value,
                winner.value,
                rule.in_words()
            ))
        })
        .collect();
    lines.into_iter().collect()
}

/// A setting of the host that differs from what it was, because VMs wish for it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct SettingStatus {
    /// What is set.
    pub target: String,
    /// Key of the table that it comes from; none for what only goes with another one.
    pub key: Option<String>,
    /// Value that it should have.
    pub wanted: String,
    /// Value that it gets back.
    pub before: String,
    /// Who wishes for what.
    pub wishes: Vec<WishOf>,
    /// What decides, when not all wish for the same.
    pub rule: Option<&'static str>,
}

/// Wish of a VM for a setting.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct WishOf {
    /// Which VM.
    pub vmid: Vmid,
    /// What it wishes for.
    pub value: String,
}

/// Returns the settings in hand, or those that `only` wishes for.
pub fn in_hand(state: &State, facts: &Facts, only: Option<Vmid>) -> Vec<SettingStatus> {
    let wished = settings(&state.claims, facts).into_iter();
    let in_hand = wished.filter_map(|(target, asked)| {
        // What the kernel refuses is told as that.
        let held = state.held.get(&target).filter(|held| held.refused == 0)?;
        let is_shown = |vmid| asked.iter().any(|asked| asked.vmid == vmid);
        if !only.is_none_or(is_shown) {
            return None;
        }
        let claims = asked
            .iter()
            .filter_map(|asked| state.claims.get(&asked.vmid));
        let is_contested = asked.windows(2).any(|two| two[0].value != two[1].value);
        Some(SettingStatus {
            target: target.to_string(),
            key: claims
                .into_iter()
                .find_map(|claim| key_of(&target, claim.wishes.tuning())),
            wanted: held.ours.to_string(),
            before: held.baseline.to_string(),
            rule: is_contested.then(|| merge::rule(&target).in_words()),
            wishes: asked
                .iter()
                .map(|asked| WishOf {
                    vmid: asked.vmid,
                    value: asked.value.to_string(),
                })
                .collect(),
        })
    });
    in_hand.collect()
}

/// Returns the key of the table that a setting comes from; none for what only goes with another.
fn key_of(target: &Target, wishes: Tuning<'_>) -> Option<String> {
    let Target::Knob(knob, place) = target else {
        return None;
    };
    let key = knob.row().key.filter(|_| !is_implied(target, wishes))?;
    Some(key.replacen("{}", &path_of_sysctl(&place.to_string()), 1))
}
