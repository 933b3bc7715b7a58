//! `/etc/pve/lxc/<ctid>.conf`: what it says about CPUs and about its start, read as `PVE::LXC::Config` does.
//!
//! Only the part before the first section counts; what follows are pending changes and snapshots.

use super::property::{boolean, trim};
use super::section::Section;
use super::startup::startup;
use super::vm_conf::parse_vm_conf;
use crate::domain::container::ContainerConfig;
use crate::domain::cpuset::CpuSet;
use crate::domain::startup::Startup;

/// What the config of a container says of its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CtStart {
    /// Whether PVE starts it at boot.
    pub onboot: bool,
    /// When.
    pub startup: Startup,
    /// Storages that it has volumes on.
    pub storages: Vec<String>,
}

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

/// Parses what the config of a container says of its start; any text has a meaning.
pub fn parse_ct_start(text: &str) -> CtStart {
    let conf = parse_vm_conf(text).active;
    let is_on = |key| last(&conf, key, boolean).unwrap_or(false);
    let is_volume = |key: &str| {
        let number = key.strip_prefix("mp").map(str::parse::<u16>);
        key == "rootfs" || matches!(number, Some(Ok(_)))
    };
    let volumes = conf.lines.iter().filter(|(key, _)| is_volume(key));
    let storages = volumes.filter_map(|(_, value)| {
        let value = value.strip_prefix("volume=").unwrap_or(value);
        let (storage, _) = value.split_once(':').filter(|_| !value.starts_with('/'))?;
        Some(storage.to_owned())
    });
    CtStart {
        onboot: is_on("onboot") && !is_on("template"),
        startup: last(&conf, "startup", startup).unwrap_or_default(),
        storages: storages.collect(),
    }
}

fn last<T>(conf: &Section, key: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let lines = conf.lines.iter().rev().filter(|(name, _)| name == key);
    lines.map(|(_, value)| parse(value)).find_map(|value| value)
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

    #[test]
    fn a_container_says_when_it_starts_and_where_its_volumes_are() {
        let text = "onboot: 1\nstartup: order=5\nrootfs: nas:101/vm-101-disk-0.raw,size=8G\n\
                    mp0: local-zfs:subvol-101-disk-1,mp=/srv\nmp1: /mnt/a:b,mp=/b\nmp10: volume=san:x,mp=/c\n\
                    unused0: old:x\n[snap]\nonboot: 0\n";
        let start = parse_ct_start(text);
        assert_eq!((start.onboot, start.startup.order), (true, Some(5)));
        assert_eq!(start.storages, ["nas", "local-zfs", "san"]);
        assert!(!parse_ct_start("onboot: 1\ntemplate: 1\n").onboot);
        assert_eq!(parse_ct_start(""), CtStart::default());
    }
}
