//! What VMs wish of the speed of their CPUs, and of the whole host.
//!
//! Untouched unless a table says so. A cpufreq policy and a setting of the host may be wished for
//! by several VMs; [`merge`] tells which value holds.
//!
//! What giving back does not undo: memory that KSM has taken apart is merged again only in time, a boost that is
//! switched takes the limits of frequencies with it, and the settings of a governor are gone with its last policy.
//! `scaling_max_freq` shows the least of all limits, so one of heat at the start is given back as an admin's.

use std::collections::BTreeMap;

use super::wish::{Desired, Wish};
use crate::domain::claim::{Claims, Wishes};
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::{BoostBy, Facts};
use crate::domain::knob::{Knob, UNMERGE};
use crate::domain::merge::{self, SettingWish};
use crate::domain::table::{HostKnobs, Ksm, Power};
use crate::domain::target::{Place, Target, Value};
use crate::domain::words::path_of_sysctl;

/// What one VM wishes of the speed of its CPUs, and of the host.
#[derive(Debug, Clone, Copy)]
pub struct Tuning<'w> {
    /// The CPUs that it owns.
    pub cpus: &'w CpuSet,
    /// Their speed and sleep.
    pub power: &'w Power,
    /// Settings of the whole host.
    pub host: &'w HostKnobs,
}

impl Tuning<'_> {
    /// Tells whether nothing is wished for.
    pub fn is_nothing(&self) -> bool {
        self.power.is_untouched() && self.host.is_untouched()
    }
}

impl Wishes {
    /// Returns what of it is about settings.
    pub fn tuning(&self) -> Tuning<'_> {
        Tuning {
            cpus: &self.cpus,
            power: &self.power,
            host: &self.host,
        }
    }
}

/// Every setting that a running claim wishes for, with all who do.
pub type Settings = BTreeMap<Target, Vec<SettingWish>>;

/// The governor under which the drivers that leave frequencies to the hardware set the energy
/// preference themselves, and refuse another one with EBUSY (`intel_pstate.c`, `amd-pstate.c`).
const PERFORMANCE: &str = "performance";

/// Returns the settings that running claims wish for.
pub fn settings(claims: &Claims, facts: &Facts) -> Settings {
    let mut settings = Settings::new();
    for claim in claims.values().filter(|claim| claim.is_running()) {
        for (target, value) in of_tuning(claim.wishes.tuning(), facts) {
            let asked = SettingWish {
                vmid: claim.vmid,
                // A VM that is only planned for has no process yet and comes after all others.
                since: claim
                    .qemu()
                    .filter(|qemu| qemu.tid != 0)
                    .map_or(u64::MAX, |qemu| qemu.start),
                value,
            };
            settings.entry(target).or_default().push(asked);
        }
    }
    settings
}

/// Adds the values that hold.
pub(super) fn wish(claims: &Claims, facts: &Facts, desired: &mut Desired) {
    for (target, asked) in settings(claims, facts) {
        if let Some(winner) = merge::winner(merge::rule(&target), &asked) {
            desired.insert(target, Wish::from(winner.value.clone()));
        }
    }
}

/// Returns what one VM wishes for.
pub fn of_tuning(wishes: Tuning<'_>, facts: &Facts) -> Vec<(Target, Value)> {
    let power = wishes.power;
    let mut wished = of_host(wishes, facts);
    let policies = facts
        .policies
        .iter()
        .filter(|(_, cpus)| !cpus.is_disjoint(wishes.cpus));
    for (number, _) in policies {
        let place = Place::Policy(*number);
        let of_policy = of_policy(power, facts.boost).into_iter();
        wished.extend(of_policy.map(|(knob, value)| (Target::Knob(knob, place.clone()), value)));
    }
    if let Some(latency) = power.max_idle_latency {
        // The kernel reads 0 as "no constraint" and "n/a" as zero (commit 0759e80b84e3).
        let value = match latency.duration().as_micros() {
            0 => "n/a".to_owned(),
            micros => micros.to_string(),
        };
        let cpus = wishes.cpus.iter();
        wished.extend(cpus.map(|cpu| {
            let target = Target::Knob(Knob::IdleLatency, Place::Cpu(cpu));
            (target, Value::Text(value.clone()))
        }));
    }
    wished
}

/// Returns what one VM wishes for of any policy, whatever that can do.
pub fn of_any_policy(wishes: Tuning<'_>) -> Vec<Target> {
    let wished = of_policy(wishes.power, BoostBy::Nothing).into_iter();
    wished
        .map(|(knob, _)| Target::Knob(knob, Place::Policy(0)))
        .collect()
}

/// Tells whether a target is wished for only because another wish changes it.
pub fn is_implied(target: &Target, wishes: Tuning<'_>) -> bool {
    let is_preference = matches!(target, Target::Knob(Knob::EnergyPreference, _));
    is_preference && wishes.power.energy_preference.is_none()
}

/// Returns the switches of boost, the one first that is used where there are several.
pub fn boost_switches(policy: Option<u32>) -> Vec<(BoostBy, Target)> {
    let of_policy = policy.map(|policy| {
        let target = Target::Knob(Knob::PolicyBoost, Place::Policy(policy));
        (BoostBy::Policy, target)
    });
    let of_host = |by, knob| Some((by, Target::Knob(knob, Place::Host)));
    let switches = [
        of_host(BoostBy::NoTurbo, Knob::NoTurbo),
        of_policy,
        of_host(BoostBy::Host, Knob::Boost),
    ];
    switches.into_iter().flatten().collect()
}

/// Returns the target that goes with [`Knob::HaltPoll`], which has no effect where this one is 0.
pub fn halt_poll_grow() -> Target {
    Target::Knob(Knob::HaltPollGrow, Place::Host)
}

fn of_policy(power: &Power, boost: BoostBy) -> Vec<(Knob, Value)> {
    let preference = power.energy_preference.clone();
    // It is remembered before the governor changes it, and given back after that.
    let implied = power.governor.clone().filter(|name| name == PERFORMANCE);
    let switch = |on: bool| u8::from(on).to_string();
    let boosted = power.boost.filter(|_| boost == BoostBy::Policy);
    let wished = [
        (
            Knob::MaxFrequency,
            power.max_frequency.map(|f| f.kilohertz().to_string()),
        ),
        (
            Knob::MinFrequency,
            power.min_frequency.map(|f| f.kilohertz().to_string()),
        ),
        (Knob::PolicyBoost, boosted.map(switch)),
        (Knob::EnergyPreference, preference.or(implied)),
        (Knob::Governor, power.governor.clone()),
    ];
    let wished = wished.into_iter();
    wished
        .filter_map(|(knob, text)| Some((knob, Value::Text(text?))))
        .collect()
}

/// What Linux has without PVE's patch: the time doubles (`virt/kvm/kvm_main.c`).
pub const HALT_POLL_GROW: &str = "2";

fn of_host(wishes: Tuning<'_>, facts: &Facts) -> Vec<(Target, Value)> {
    let host = wishes.host;
    let boost = wishes.power.boost;
    let ksm = host.ksm.map(|ksm| match ksm {
        Ksm::Unmerge if facts.ksm_may_unmerge => UNMERGE,
        Ksm::Unmerge | Ksm::Stop => "0",
    });
    let pages = host.transparent_hugepages;
    let halt_poll = host.halt_poll.map(|time| time.duration().as_nanos());
    let wished = [
        (Knob::KsmRun, ksm.map(str::to_owned)),
        (
            Knob::TransparentHugepages,
            pages.map(|pages| pages.to_string()),
        ),
        (Knob::HaltPoll, halt_poll.map(|ns| ns.to_string())),
        (
            Knob::HaltPollGrow,
            halt_poll
                .filter(|ns| *ns > 0)
                .map(|_| HALT_POLL_GROW.to_owned()),
        ),
        (
            Knob::Boost,
            boost
                .filter(|_| facts.boost == BoostBy::Host)
                .map(|on| u8::from(on).to_string()),
        ),
        (
            Knob::NoTurbo,
            boost
                .filter(|_| facts.boost == BoostBy::NoTurbo)
                .map(|on| u8::from(!on).to_string()),
        ),
    ];
    let knobs = wished
        .into_iter()
        .filter_map(|(knob, text)| Some((Target::Knob(knob, Place::Host), Value::Text(text?))));
    let sysctls = host.sysctl.iter().map(|(name, value)| {
        let place = Place::Sysctl(path_of_sysctl(name));
        let target = Target::Knob(Knob::Sysctl, place);
        (
            target,
            Value::parse(Knob::Sysctl.row().grammar, value.as_str()),
        )
    });
    knobs.chain(sysctls).collect()
}
