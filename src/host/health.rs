//! What only `check` reads of a host: files that say how it was set up.
//!
//! Reads only, and nothing whose read disturbs a CPU: `cpufreq` tells its governor from memory.

use std::collections::BTreeSet;

use super::files::Files;
use super::meminfo::kib;
use super::{cpufreq, surroundings};
use crate::domain::check::{KsmFacts, MemoryFacts, NextBoot, PolicyFacts, Vendor};
use crate::domain::memory::Pool;
use crate::domain::topology::Topology;

/// Services that have a check.
const SERVICES: [&str; 3] = ["irqbalance", "numad", "tuned"];
/// The unit that prepares the node at boot.
pub const BOOT_UNIT: &str = "pin-hook-boot.service";
const KSM: &str = "/sys/kernel/mm/ksm";

fn text(files: &dyn Files, path: &str) -> Option<String> {
    let text = files.read(path).ok()?;
    Some(text.trim().to_owned())
}

fn number(files: &dyn Files, path: &str) -> Option<u64> {
    text(files, path)?.parse().ok()
}

/// Returns the kernel's command line, empty where it cannot be read.
pub fn command_line(files: &dyn Files) -> String {
    text(files, "/proc/cmdline").unwrap_or_default()
}

/// Returns the controllers of the root cgroup, where the unified hierarchy is mounted.
pub fn controllers(files: &dyn Files) -> Option<Vec<String>> {
    let text = text(files, "/sys/fs/cgroup/cgroup.controllers")?;
    Some(text.split_whitespace().map(str::to_owned).collect())
}

/// Returns the parameters that the boot loader's own file has: `/etc/kernel/cmdline` where systemd-boot has
/// started this kernel by an entry of proxmox-boot-tool, else those of GRUB.
pub fn next_boot(files: &dyn Files, command_line: &str) -> Option<NextBoot> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    if command_line.contains("initrd=\\EFI\\proxmox") {
        let file = "/etc/kernel/cmdline";
        let parameters = words(&text(files, file)?);
        let file = file.to_owned();
        return Some(NextBoot { file, parameters });
    }
    // What these set replaces the file's, as a shell understands it.
    let dropped_in = files.list("/etc/default/grub.d").unwrap_or_default();
    let mut dropped_in = dropped_in.iter().filter_map(|name| {
        let path = format!("/etc/default/grub.d/{name}");
        name.ends_with(".cfg").then(|| files.read(&path).ok())?
    });
    if dropped_in.any(|text| text.contains("GRUB_CMDLINE_LINUX")) {
        return None;
    }
    let file = "/etc/default/grub";
    let grub = files.read(file).ok()?;
    let value = |name: &str| {
        let mut lines = grub.lines().rev();
        let last = lines.find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim().trim_matches(['"', '\'']))
        });
        last.unwrap_or_default()
    };
    let all = ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"].map(value);
    // Only a shell knows what a variable in there comes to.
    let is_plain = all.iter().all(|value| !value.contains(['$', '`', '\\']));
    is_plain.then(|| NextBoot {
        file: file.to_owned(),
        parameters: words(&all.join(" ")),
    })
}

/// Returns who made the processor.
pub fn vendor(files: &dyn Files) -> Vendor {
    let info = files.read("/proc/cpuinfo").unwrap_or_default();
    let mut lines = info.lines();
    let vendor = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "vendor_id").then(|| value.trim().to_owned())
    });
    match vendor.as_deref() {
        Some("GenuineIntel") => Vendor::Intel,
        Some("AuthenticAMD") => Vendor::Amd,
        _ => Vendor::Other,
    }
}

/// Returns the services with a check that run.
pub fn services(files: &dyn Files) -> BTreeSet<&'static str> {
    let services = SERVICES.into_iter();
    services
        .filter(|name| surroundings::is_service_running(files, name))
        .collect()
}

/// Returns how equal pages are merged; `None` where the kernel cannot.
pub fn ksm(files: &dyn Files) -> Option<KsmFacts> {
    let run = number(files, &format!("{KSM}/run"))?;
    Some(KsmFacts {
        runs: run == 1,
        n_sharing: number(files, &format!("{KSM}/pages_sharing")).unwrap_or_default(),
    })
}

/// Returns the choice in brackets of `transparent_hugepage/enabled`.
pub fn transparent_hugepages(files: &dyn Files) -> Option<String> {
    let text = text(files, "/sys/kernel/mm/transparent_hugepage/enabled")?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Returns each pool of hugepages of each node with its pages.
pub fn hugepages(files: &dyn Files, topology: &Topology) -> Vec<(Pool, u64)> {
    let mut found = Vec::new();
    for node in topology.nodes() {
        let dir = format!("/sys/devices/system/node/node{}/hugepages", node.id);
        for name in files.list(&dir).unwrap_or_default() {
            let size = name.strip_prefix("hugepages-");
            let size = size.and_then(|rest| rest.strip_suffix("kB")?.parse().ok());
            let all = number(files, &format!("{dir}/{name}/nr_hugepages"));
            if let Some((kib, all)) = size.zip(all) {
                let node = node.id;
                found.push((Pool { node, kib }, all));
            }
        }
    }
    found
}

/// Returns memory and swap of the host.
pub fn memory(files: &dyn Files) -> Option<MemoryFacts> {
    let text = files.read("/proc/meminfo").ok()?;
    let value = |name| kib(&text, name);
    let (swap, free): (u64, u64) = (value("SwapTotal")?, value("SwapFree")?);
    Some(MemoryFacts {
        total: value("MemTotal")?,
        swap,
        swap_used: swap.saturating_sub(free),
    })
}

/// Returns driver and governor of each frequency policy.
pub fn policies(files: &dyn Files) -> Vec<PolicyFacts> {
    let policies = cpufreq::policies(files).into_iter();
    let facts = policies.filter_map(|(number, cpus)| {
        let dir = format!("/sys/devices/system/cpu/cpufreq/policy{number}");
        let of = |name| text(files, &format!("{dir}/{name}"));
        Some(PolicyFacts {
            cpus,
            driver: of("scaling_driver")?,
            governor: of("scaling_governor")?,
        })
    });
    facts.collect()
}

/// Tells whether CPUs may run faster than their nominal frequency, where the kernel tells.
pub fn may_boost(files: &dyn Files) -> Option<bool> {
    let no_turbo = number(files, "/sys/devices/system/cpu/intel_pstate/no_turbo");
    let boost = || number(files, "/sys/devices/system/cpu/cpufreq/boost");
    no_turbo.map(|off| off == 0).or_else(|| Some(boost()? == 1))
}

/// Returns how many groups the IOMMU has, none while it is off. The kernel always has a directory for them; a
/// capture may not.
pub fn n_iommu_groups(files: &dyn Files) -> Option<usize> {
    let names = files.list("/sys/kernel/iommu_groups").ok()?;
    Some(names.len())
}

/// Tells whether the unit of the boot is enabled; `None` where it is not installed.
pub fn boot_unit(files: &dyn Files) -> Option<bool> {
    let dirs = ["/etc/systemd/system", "/usr/lib/systemd/system"];
    let is_there = |dir: &&str| files.exists(&format!("{dir}/{BOOT_UNIT}"));
    dirs.iter().find(|dir| is_there(dir))?;
    let wants = files.list(dirs[0]).unwrap_or_default();
    let mut wants = wants.iter().filter(|name| name.ends_with(".wants"));
    // A link to a file of this root, or of none.
    Some(wants.any(|name| {
        files
            .link(&format!("{}/{name}/{BOOT_UNIT}", dirs[0]))
            .is_ok()
    }))
}
