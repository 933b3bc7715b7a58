//! `/sys/devices/system/cpu/cpufreq`: which CPUs change their frequency together, and what the
//! driver offers (`Documentation/admin-guide/pm/cpufreq.rst`).

use std::collections::BTreeMap;

use super::files::Files;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::facts::BoostBy;
use crate::domain::knob::Knob;
use crate::domain::target::{Place, Target};

const DIR: &str = "/sys/devices/system/cpu/cpufreq";

/// Returns the CPUs of every policy by its number; none where no driver governs frequencies.
pub fn policies(files: &dyn Files) -> BTreeMap<u32, CpuSet> {
    let names = files.list(DIR).unwrap_or_default();
    let policies = names.iter().filter_map(|name| {
        let number = name.strip_prefix("policy")?.parse().ok()?;
        // Unlike everywhere else, the numbers are separated by blanks.
        let text = files.read(&format!("{DIR}/{name}/affected_cpus")).ok()?;
        let cpus: Option<CpuSet> = text
            .split_whitespace()
            .map(|cpu| cpu.parse().ok().map(CpuId))
            .collect();
        Some((number, cpus?))
    });
    policies.collect()
}

/// Returns how frequencies above nominal are switched on this host.
pub fn boost_by(files: &dyn Files) -> BoostBy {
    let exists = |knob, place| files.exists(&Target::Knob(knob, place).path());
    let first = policies(files).into_keys().next();
    match first {
        _ if exists(Knob::NoTurbo, Place::Host) => BoostBy::NoTurbo,
        Some(policy) if exists(Knob::PolicyBoost, Place::Policy(policy)) => BoostBy::Policy,
        _ if exists(Knob::Boost, Place::Host) => BoostBy::Host,
        _ => BoostBy::Nothing,
    }
}

/// Returns the words that a policy accepts for a knob, where the driver lists them.
pub fn available(files: &dyn Files, knob: Knob, policy: u32) -> Option<Vec<String>> {
    let name = match knob {
        Knob::Governor => "scaling_available_governors",
        Knob::EnergyPreference => "energy_performance_available_preferences",
        _ => return None,
    };
    let text = files.read(&format!("{DIR}/policy{policy}/{name}")).ok()?;
    Some(text.split_whitespace().map(str::to_owned).collect())
}
