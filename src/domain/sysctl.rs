//! What the kernel takes for the sysctls that people set for a VM.
//!
//! Only limits that have been the same in every kernel since 6.1; the kernel answers any other value with
//! EINVAL. A table that names another sysctl is not judged.

/// Sysctls by their names with dots, the least and the most that each takes, and where the kernel says so.
const RANGES: &[(&str, i64, i64)] = &[
    // kernel/watchdog.c
    ("kernel.nmi_watchdog", 0, 1),
    ("kernel.soft_watchdog", 0, 1),
    ("kernel.watchdog_thresh", 0, 60),
    // kernel/time/timer.c
    ("kernel.timer_migration", 0, 1),
    // kernel/sched/autogroup.c
    ("kernel.sched_autogroup_enabled", 0, 1),
    // mm/compaction.c
    ("vm.compaction_proactiveness", 0, 100),
    // mm/util.c
    ("vm.overcommit_memory", 0, 2),
    // mm/vmscan.c, in older kernels kernel/sysctl.c
    ("vm.swappiness", 0, 200),
];

/// Tells whether a value consists of numbers; the kernel reads `0x` as it is meant (`proc_get_long()` in
/// `kernel/sysctl.c`).
pub fn has_numbers(value: &str) -> bool {
    let is_number = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).is_ok(),
        None => word.parse::<i64>().is_ok() || word.parse::<u64>().is_ok(),
    };
    let mut words = value.split_ascii_whitespace().peekable();
    words.peek().is_some() && words.all(is_number)
}

/// Returns the least and the most that the kernel takes, of a value that is neither.
pub fn beyond(name: &str, value: &str) -> Option<(i64, i64)> {
    let (_, least, most) = *RANGES.iter().find(|(known, ..)| *known == name)?;
    let value: i64 = value.trim().parse().ok()?;
    (!(least..=most).contains(&value)).then_some((least, most))
}
