//! `/sys/devices/system/cpu/cpufreq`: which CPUs change their frequency together, and what the
//! driver offers (`Documentation/admin-guide/pm/cpufreq.rst`).
//!
//! `scaling_max_freq` is the least of all limits: what heat allows at the start of a VM is given back as an admin's.

use std::collections::BTreeMap;

use super::drivers::modules_dir;
use super::files::Files;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::desired::knobs::boost_switches;
use crate::domain::facts::BoostBy;
use crate::domain::frequency::Range;
use crate::domain::knob::{Knob, Words};

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

/// Returns how frequencies above nominal are switched on this host, whose `first` policy this is.
pub fn boost_by(files: &dyn Files, first: Option<u32>) -> BoostBy {
    let there = boost_switches(first)
        .into_iter()
        .find(|(_, target)| files.exists(&target.path()));
    there.map_or(BoostBy::Nothing, |(by, _)| by)
}

/// Returns the words that a policy accepts for a knob, where the driver lists them: governors that the
/// kernel loads as their name is written (`cpufreq_parse_governor`) as well.
pub fn available(files: &dyn Files, knob: Knob, policy: u32) -> Option<Vec<String>> {
    let (name, is_governor) = match knob.row().words {
        Words::Unlisted | Words::Limit(_) => return None,
        Words::Beside(name) => (name, false),
        Words::Governors(name) => (name, true),
    };
    let text = files.read(&format!("{DIR}/policy{policy}/{name}")).ok()?;
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if is_governor && !has_own_governors(files, policy) {
        words.extend(loadable_governors(files));
        words.sort_unstable();
        words.dedup();
    }
    Some(words)
}

/// Returns what limits the frequencies of a policy, where it tells. Of one that is `known` only what boost and others
/// may have changed is read again.
pub fn range(files: &dyn Files, policy: u32, known: Option<&Range>) -> Option<Range> {
    let numbers = |name: &str| -> Vec<u32> {
        let text = files.read(&format!("{DIR}/policy{policy}/{name}"));
        let text = text.unwrap_or_default();
        text.split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    let number = |name: &str| numbers(name).first().copied();
    if let Some(known) = known {
        return Some(Range {
            most: number("cpuinfo_max_freq")?,
            allowed: number("scaling_max_freq"),
            ..known.clone()
        });
    }
    let mut steps = numbers("scaling_available_frequencies");
    if !steps.is_empty() {
        steps.extend(numbers("scaling_boost_frequencies"));
        steps.sort_unstable();
    }
    Some(Range {
        least: number("cpuinfo_min_freq")?,
        most: number("cpuinfo_max_freq")?,
        steps,
        allowed: number("scaling_max_freq"),
    })
}

/// Tells whether the driver of a policy takes no governor but its own two (`cpufreq_driver.setpolicy`).
fn has_own_governors(files: &dyn Files, policy: u32) -> bool {
    let driver = files.read(&format!("{DIR}/policy{policy}/scaling_driver"));
    let driver = driver.unwrap_or_default();
    ["intel_pstate", "amd-pstate-epp", "longrun"].contains(&driver.trim())
}

fn loadable_governors(files: &dyn Files) -> Vec<String> {
    let list = modules_dir(files).and_then(|dir| files.read(&format!("{dir}/modules.dep")));
    let list = list.unwrap_or_default();
    let names = list.lines().filter_map(|line| {
        let (path, _) = line.split_once(':')?;
        let (_, file) = path.rsplit_once('/')?;
        let (name, _) = file.strip_prefix("cpufreq_")?.split_once(".ko")?;
        Some(name.to_owned())
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::make_dirs;
    use crate::host::files::RootFiles;

    #[test]
    fn governors_that_the_kernel_would_load_are_available() {
        let dir = tempfile::tempdir().unwrap();
        let files = RootFiles::new(dir.path());
        let put = |path: &str, text: &str| {
            let (above, _) = path.rsplit_once('/').unwrap();
            make_dirs(&files, above, 0o755).unwrap();
            files.replace(path, text, 0o644).unwrap();
        };
        put("/proc/sys/kernel/osrelease", "6.12.1\n");
        let list = "kernel/drivers/cpufreq/cpufreq_ondemand.ko.xz: kernel/x.ko\n\
                    kernel/drivers/cpufreq/acpi-cpufreq.ko.xz:\n";
        put("/lib/modules/6.12.1/modules.dep", list);
        let governs = |knob: &&Knob| knob.row().key == Some("power.governor");
        let governor = *Knob::ALL.iter().find(governs).unwrap();
        let policy = format!("{DIR}/policy0");
        let listed = "performance schedutil \n";
        put(&format!("{policy}/scaling_available_governors"), listed);
        for (driver, expected) in [
            ("acpi-cpufreq\n", "ondemand performance schedutil"),
            ("intel_pstate\n", "performance schedutil"),
        ] {
            put(&format!("{policy}/scaling_driver"), driver);
            let words = available(&files, governor, 0).unwrap();
            assert_eq!(words.join(" "), expected);
        }
    }
}
