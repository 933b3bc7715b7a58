//! `/etc/pve/lxc/<ctid>.conf`: what it says about CPUs, read as `PVE::LXC::Config` does.
//!
//! Only the part before the first section counts; what follows are pending changes and snapshots.

use super::property::trim;
use crate::domain::container::ContainerConfig;
use crate::domain::cpuset::CpuSet;

/// Entries that LXC gets as they are and that keep PVE from choosing CPUs (cgroup v1 and v2).
const PINS: [&str; 2] = ["lxc.cgroup.cpuset.cpus", "lxc.cgroup2.cpuset.cpus"];

/// Parses the text of a container's configuration; any text has a meaning.
pub fn parse_ct_conf(text: &str) -> ContainerConfig {
    let mut config = ContainerConfig::default();
    for line in text.lines().take_while(|line| !line.starts_with('[')) {
        if let Some(cores) = line.strip_prefix("cores:") {
            let cores = trim(cores).parse().ok();
            // None and 0 are all CPUs.
            config.cores = cores.map_or(config.cores, |n| Some(n).filter(|n| *n > 0));
        } else if let Some(cpus) = PINS.iter().find_map(|key| entry(line, key)) {
            // What LXC would not understand names no CPUs; PVE keeps off nevertheless.
            config.cpus = Some(cpus.parse::<CpuSet>().unwrap_or_default());
        }
    }
    config
}

/// Returns the value of an entry for LXC, which may be written with a colon or as in its own files.
fn entry<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let rest = line.strip_prefix(key)?;
    let value = rest
        .strip_prefix(':')
        .or_else(|| trim_start(rest).strip_prefix('='))?;
    Some(trim(value))
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches(super::property::is_blank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Option<usize>, Option<String>) {
        let config = parse_ct_conf(text);
        (config.cores, config.cpus.map(|cpus| cpus.to_string()))
    }

    #[test]
    fn cores_and_pins_are_read_before_the_first_section() {
        let some = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("", (None, None)),
            ("arch: amd64\ncores: 4\r\nmemory: 512\n", (Some(4), None)),
            ("cores: 2\ncores: x\n", (Some(2), None)),
            ("cores: 2\ncores: 0\n", (None, None)),
            ("#cores: 4\n cores: 4\n", (None, None)),
            ("[PENDING]\ncores: 4\n", (None, None)),
            (
                "cores: 1\n\n[snap]\ncores: 4\nlxc.cgroup2.cpuset.cpus: 2\n",
                (Some(1), None),
            ),
            ("lxc.cgroup2.cpuset.cpus: 2-3\n", (None, some("2-3"))),
            ("lxc.cgroup2.cpuset.cpus = 2,4 \n", (None, some("2,4"))),
            ("lxc.cgroup.cpuset.cpus:1\ncores: 1\n", (Some(1), some("1"))),
            ("lxc.cgroup2.cpuset.cpus: all\n", (None, some(""))),
            ("lxc.cgroup2.cpuset.cpus.partition: root\n", (None, None)),
        ] {
            assert_eq!(of(text), expected, "{text:?}");
        }
    }
}
