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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claim::{Claim, ClaimState};
    use crate::domain::desired::tests::{claims as claims_of, facts, id};
    use crate::domain::table::TransparentHugepages;
    use crate::domain::vm::TaskId;

    /// A VM with CPU 2, of policy 0, that runs since `start`.
    fn asks(vmid: u32, (tid, start): (i32, u64), power: Power, host: HostKnobs) -> Claim {
        let qemu = TaskId { tid, start };
        let wishes = Wishes {
            cpus: "2".parse().unwrap(),
            power,
            host,
            ..Wishes::none()
        };
        Claim::new(id(vmid), ClaimState::Running { qemu }, wishes, None)
    }

    fn value(
        claims: impl IntoIterator<Item = Claim>,
        facts: Facts,
        knob: Knob,
        place: Place,
    ) -> String {
        let facts = Facts {
            policies: BTreeMap::from([(0, "0-3".parse().unwrap())]),
            ..facts
        };
        let mut wishes = Desired::new();
        wish(&claims_of(claims), &facts, &mut wishes);
        let wish = wishes.get(&Target::Knob(knob, place));
        wish.map_or_else(|| "untouched".to_owned(), |wish| wish.value.to_string())
    }

    /// A plan would say that a VM changes a setting which another one holds.
    #[test]
    fn a_vm_that_is_planned_for_comes_after_those_that_run() {
        let pages = |pages| HostKnobs {
            transparent_hugepages: Some(pages),
            ..HostKnobs::default()
        };
        let planned = pages(TransparentHugepages::Always);
        let planned = asks(100, (0, 0), Power::default(), planned);
        let running = pages(TransparentHugepages::Never);
        let running = asks(101, (50, 7), Power::default(), running);
        let claims = [planned, running];
        let value = value(claims, facts(), Knob::TransparentHugepages, Place::Host);
        assert_eq!(value, "never");
    }

    /// The host would run out of memory, or KVM would poll where a table says that it must not.
    #[test]
    fn pages_are_taken_apart_where_there_is_memory_and_who_does_not_poll_needs_no_time_that_grows()
    {
        let memory = |ksm_may_unmerge| Facts {
            ksm_may_unmerge,
            ..facts()
        };
        let polls = |time: &str| HostKnobs {
            halt_poll: time.parse().ok(),
            ..HostKnobs::default()
        };
        let unmerges = HostKnobs {
            ksm: Some(Ksm::Unmerge),
            ..HostKnobs::default()
        };
        let (some, none) = (polls("200us"), polls("0us"));
        for (host, facts, knob, expected) in [
            (&unmerges, memory(true), Knob::KsmRun, UNMERGE),
            (&unmerges, memory(false), Knob::KsmRun, "0"),
            (&some, facts(), Knob::HaltPoll, "200000"),
            (&some, facts(), Knob::HaltPollGrow, "2"),
            (&none, facts(), Knob::HaltPoll, "0"),
            (&none, facts(), Knob::HaltPollGrow, "untouched"),
        ] {
            let claim = asks(100, (50, 7), Power::default(), host.clone());
            let found = value([claim], facts, knob, Place::Host);
            assert_eq!(found, expected, "{knob:?} {host:?}");
        }
    }

    /// CPUs would be slow where a table wants them fast.
    #[test]
    fn boost_is_switched_by_the_file_of_the_driver_which_may_say_the_opposite() {
        use BoostBy::{Host, NoTurbo};
        for (boost, by, knob, expected) in [
            (false, NoTurbo, Knob::NoTurbo, "1"),
            (true, NoTurbo, Knob::NoTurbo, "0"),
            (false, Host, Knob::Boost, "0"),
            (true, Host, Knob::Boost, "1"),
            (true, Host, Knob::NoTurbo, "untouched"),
        ] {
            let power = Power {
                boost: Some(boost),
                ..Power::default()
            };
            let claim = asks(100, (50, 7), power, HostKnobs::default());
            let facts = Facts {
                boost: by,
                ..facts()
            };
            let found = value([claim], facts, knob, Place::Host);
            assert_eq!(found, expected, "{knob:?} {boost}");
        }
    }

    /// The governor changes the preference, which would never be given back.
    #[test]
    fn the_preference_that_a_governor_brings_along_is_in_hand_as_well() {
        for (governor, preference, expected, is_implicit) in [
            ("performance", None, "performance", true),
            ("performance", Some("default"), "default", false),
            ("powersave", None, "untouched", true),
        ] {
            let power = Power {
                governor: Some(governor.to_owned()),
                energy_preference: preference.map(str::to_owned),
                ..Power::default()
            };
            let claim = asks(100, (50, 7), power, HostKnobs::default());
            let target = Target::Knob(Knob::EnergyPreference, Place::Policy(0));
            assert_eq!(is_implied(&target, claim.wishes.tuning()), is_implicit);
            let governor = Target::Knob(Knob::Governor, Place::Policy(0));
            assert!(!is_implied(&governor, claim.wishes.tuning()));
            let found = value([claim], facts(), Knob::EnergyPreference, Place::Policy(0));
            assert_eq!(found, expected, "{governor:?} {preference:?}");
        }
    }
}
