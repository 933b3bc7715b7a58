//! Partitions of cpusets: what makes one another.

use super::cpuset::CpuSet;

/// Tells whether a partition that wants these CPUs is of others, or none any more, when one of the lists that
/// pass CPUs down to it changes.
pub fn is_changed(wanted: &CpuSet, before: &CpuSet, after: &CpuSet) -> bool {
    wanted.intersection(before) != wanted.intersection(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_changes_the_partitions_that_its_cpus_are_for() {
        for (before, after, expected) in [
            ("2-5", "", true),
            ("2-5", "3-5", true),
            ("2", "2-3", true),
            // Another VM comes, or goes.
            ("2-3", "2-5", false),
            ("2-5", "2-3", false),
            ("4-5", "", false),
        ] {
            let [wanted, before, after] = ["2-3", before, after].map(|text| {
                let cpus: CpuSet = text.parse().expect("a list");
                cpus
            });
            assert_eq!(
                is_changed(&wanted, &before, &after),
                expected,
                "{before} {after}"
            );
        }
    }
}
