//! Profiles: documented bundles of settings for keys that a table does not write.

use super::{Ksm, Profile, SysctlValue, Table, TimeSpan};
use std::time::Duration;

/// Longest wake-up that `low-latency` accepts: the shallow idle states of x86 (C1, C1E) are faster,
/// those that flush caches are slower by far.
const IDLE_LATENCY: Duration = Duration::from_micros(10);

/// Settings of the host in `low-latency`; the manual page gives the reason for each.
const SYSCTLS: [(&str, &str); 3] = [
    ("kernel.nmi_watchdog", "0"),
    ("kernel.numa_balancing", "0"),
    ("vm.stat_interval", "120"),
];

impl Profile {
    /// Fills in what the table does not write.
    pub fn fill(self, table: &mut Table) {
        match self {
            Profile::LowLatency => fill_low_latency(table),
        }
    }
}

fn fill_low_latency(table: &mut Table) {
    let power = &mut table.power;
    let governor = power
        .governor
        .get_or_insert_with(|| "performance".to_owned());
    // Another governor goes with its own preference, and with none that contradicts it.
    if governor == "performance" {
        let preference = &mut power.energy_preference;
        preference.get_or_insert_with(|| "performance".to_owned());
    }
    power.max_idle_latency.get_or_insert(TimeSpan(IDLE_LATENCY));
    table.host.ksm.get_or_insert(Ksm::Stop);
    for (name, value) in SYSCTLS {
        let value = SysctlValue(value.to_owned());
        table.host.sysctl.entry(name.to_owned()).or_insert(value);
    }
}
