//! `/sys/devices/system/cpu` and `/sys/devices/system/node`: reads the host's topology.
//!
//! Reads each core and each L3 domain once, at its lowest CPU, instead of once per CPU: all CPUs
//! of a core (or of a cache) show the same list, because the kernel prints one mask for them.

use std::io::ErrorKind;
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::domain::check::Vendor;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::placement::Speeds;
use crate::domain::topology::{Core, CpuSets, L3Domain, Node, Parts, SmtControl, Topology};

use super::files::{self, Files};
use super::health::vendor;
use super::meminfo::kib;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";
/// CPUs that the PMU of Intel's performance cores counts on; there on hybrid hosts only.
const INTEL_P_CORES: &str = "/sys/devices/cpu_core/cpus";

/// Share of the fastest core's capacity or frequency, in percent, below which a core is built to
/// be slower. Cores of one kind differ by a few percent: some clock higher than their neighbours,
/// and a CCD with more cache clocks lower (5.25 to 5.75 GHz on a 7950X3D). E-cores reach 75 %
/// and less.
const SLOWER_PERCENT: u64 = 80;

/// Reads the topology of the host: of the CPUs that are online when it begins. One that comes meanwhile is in no group,
/// though the files of its siblings name it already.
pub fn read_topology(files: &dyn Files) -> Result<Topology> {
    let sets = read_sets(files)?;
    let cores = read_cores(files, &sets.online)?;
    Ok(Topology::new(Parts {
        efficient: read_efficient(files, &sets.online, &cores)?,
        cores,
        l3_domains: read_l3_domains(files, &sets.online)?,
        nodes: read_nodes(files, &sets.online)?,
        sets,
    }))
}

/// Reads how fast each core is. What not every core tells is left out; the rank is the capacity that
/// the scheduler uses on ARM, else that of CPPC (favoured cores have a higher one), else the frequency.
pub fn read_speeds(files: &dyn Files, topology: &Topology) -> Speeds {
    let read = |name: &str| {
        let speeds = read_speeds_of(files, name, topology.cores()).unwrap_or_default();
        let by_cpu = speeds.into_iter();
        let by_cpu = by_cpu.filter_map(|(speed, cpus)| Some((cpus.first()?, speed)));
        by_cpu.collect::<std::collections::BTreeMap<_, _>>()
    };
    let ranks = ["cpu_capacity", "acpi_cppc/highest_perf"]
        .into_iter()
        .map(read);
    let max_khz = read("cpufreq/cpuinfo_max_freq");
    let rank = ranks.into_iter().find(|rank| !rank.is_empty());
    Speeds {
        performance: rank.unwrap_or_else(|| max_khz.clone()),
        max_khz,
    }
}

/// Tells whether the CPUs are made by AMD; their guests are told of SMT in another way.
pub fn is_amd(files: &dyn Files) -> bool {
    vendor(files) == Vendor::Amd
}

/// Tells whether SMT siblings may run.
pub fn smt(files: &dyn Files) -> SmtControl {
    let control = files.read(&format!("{CPUS}/smt/control"));
    control.map_or(SmtControl::Allowed, |text| SmtControl::parse(&text))
}

fn read_sets(files: &dyn Files) -> Result<CpuSets> {
    let optional = |name| read_list_if_there(files, &format!("{CPUS}/{name}"));
    Ok(CpuSets {
        possible: read_list(files, &format!("{CPUS}/possible"))?,
        present: read_list(files, &format!("{CPUS}/present"))?,
        online: read_list(files, &format!("{CPUS}/online"))?,
        isolcpus: optional("isolated")?.unwrap_or_default(),
        nohz_full: optional("nohz_full")?.unwrap_or_default(),
        smt: smt(files),
    })
}

fn read_cores(files: &dyn Files, online: &CpuSet) -> Result<Vec<Core>> {
    let mut cores: Vec<Core> = Vec::new();
    let mut seen = CpuSet::new();
    for cpu in online.iter() {
        if seen.contains(cpu) {
            continue;
        }
        let dir = format!("{CPUS}/cpu{cpu}/topology");
        let siblings = read_siblings(files, &dir)?.intersection(online);
        let cpus = unseen(cpu, &siblings, &seen);
        seen.extend(cpus.iter());
        cores.push(Core {
            package: read_number(files, &format!("{dir}/physical_package_id"))?,
            die: if_there(read_number(files, &format!("{dir}/die_id")))?.unwrap_or(0),
            cpus,
        });
    }
    Ok(cores)
}

/// Reads the CPUs of a core: `thread_siblings_list` is the name before Linux 5.2.
fn read_siblings(files: &dyn Files, dir: &str) -> Result<CpuSet> {
    match read_list_if_there(files, &format!("{dir}/core_cpus_list"))? {
        Some(cpus) => Ok(cpus),
        None => read_list(files, &format!("{dir}/thread_siblings_list")),
    }
}

/// Reads which CPUs belong to cores that are built to be slower: from Intel's PMUs, else from the
/// capacity that the firmware of ARM hosts tells, else from the highest frequency. There is no
/// `core_type` in sysfs.
fn read_efficient(files: &dyn Files, online: &CpuSet, cores: &[Core]) -> Result<CpuSet> {
    if let Some(fast) = read_list_if_there(files, INTEL_P_CORES)? {
        return Ok(online.difference(&fast));
    }
    for name in ["cpu_capacity", "cpufreq/cpuinfo_max_freq"] {
        let speeds = read_speeds_of(files, name, cores)?;
        if !speeds.is_empty() {
            let fastest = speeds.iter().map(|(speed, _)| *speed).max().unwrap_or(0);
            let slower = speeds.into_iter().filter(|(speed, _)| {
                speed.saturating_mul(100) < fastest.saturating_mul(SLOWER_PERCENT)
            });
            return Ok(slower.flat_map(|(_, cpus)| cpus.iter()).collect());
        }
    }
    Ok(CpuSet::new())
}

/// Reads one number at the lowest CPU of each core; empty as soon as one lacks it.
fn read_speeds_of<'c>(
    files: &dyn Files,
    name: &str,
    cores: &'c [Core],
) -> Result<Vec<(u64, &'c CpuSet)>> {
    let mut speeds = Vec::new();
    for core in cores {
        let Some(cpu) = core.cpus.first() else {
            continue;
        };
        match if_there(read_number(files, &format!("{CPUS}/cpu{cpu}/{name}")))? {
            Some(speed) => speeds.push((speed, &core.cpus)),
            None => return Ok(Vec::new()),
        }
    }
    Ok(speeds)
}

fn read_l3_domains(files: &dyn Files, online: &CpuSet) -> Result<Vec<L3Domain>> {
    let mut domains = Vec::new();
    let mut seen = CpuSet::new();
    for cpu in online.iter() {
        if seen.contains(cpu) {
            continue;
        }
        if let Some(L3Domain { cpus, kib }) = read_l3(files, cpu)? {
            let cpus = unseen(cpu, &cpus.intersection(online), &seen);
            seen.extend(cpus.iter());
            domains.push(L3Domain { cpus, kib });
        }
    }
    Ok(domains)
}

/// Reads who shares the level 3 cache of `cpu`; `None` where there is none, as in most VMs.
fn read_l3(files: &dyn Files, cpu: CpuId) -> Result<Option<L3Domain>> {
    let dir = format!("{CPUS}/cpu{cpu}/cache");
    let names = files::if_there(files.list(&dir));
    let names = names.with_context(|| format!("failed to list {dir}"))?;
    let indices = names.into_iter().flatten();
    // Backwards, because the outermost cache has the highest index.
    for name in indices.filter(|name| name.starts_with("index")).rev() {
        let index = format!("{dir}/{name}");
        if read_number::<u32>(files, &format!("{index}/level"))? == 3
            && read(files, &format!("{index}/type"))?.trim() == "Unified"
        {
            let size = files.read(&format!("{index}/size")).unwrap_or_default();
            return Ok(Some(L3Domain {
                cpus: read_list(files, &format!("{index}/shared_cpu_list"))?,
                // The kernel prints every cache in KiB with this letter.
                kib: size
                    .trim()
                    .strip_suffix('K')
                    .and_then(|kib| kib.parse().ok()),
            }));
        }
    }
    Ok(None)
}

/// Returns `cpu` and what of `cpus` belongs to no other group yet.
fn unseen(cpu: CpuId, cpus: &CpuSet, seen: &CpuSet) -> CpuSet {
    let mut cpus = cpus.difference(seen);
    cpus.insert(cpu);
    cpus
}

fn read_nodes(files: &dyn Files, online: &CpuSet) -> Result<Vec<Node>> {
    let Some(numbers) = read_list_if_there(files, &format!("{NODES}/online"))? else {
        return Ok(Vec::new());
    };
    let with_memory = read_list_if_there(files, &format!("{NODES}/has_memory"))?;
    let has_memory = |node| with_memory.as_ref().is_none_or(|some| some.contains(node));
    let ids: Vec<u32> = numbers.iter().map(|number| number.0).collect();
    let read_node = |number: CpuId| {
        let dir = format!("{NODES}/node{number}");
        let distances = files.read(&format!("{dir}/distance")).unwrap_or_default();
        let distances = distances.split_whitespace().map_while(|n| n.parse().ok());
        let memory = files.read(&format!("{dir}/meminfo"));
        Ok(Node {
            id: number.0,
            cpus: read_list(files, &format!("{dir}/cpulist"))?.intersection(online),
            has_memory: has_memory(number),
            memory_kib: kib(&memory.unwrap_or_default(), "MemTotal"),
            // One number for each node that is online, in their order.
            distances: ids.iter().copied().zip(distances).collect(),
        })
    };
    numbers.iter().map(read_node).collect()
}

fn read(files: &dyn Files, path: &str) -> Result<String> {
    files
        .read(path)
        .with_context(|| format!("failed to read {path}"))
}

fn read_list(files: &dyn Files, path: &str) -> Result<CpuSet> {
    parse_list(&read(files, path)?).with_context(|| format!("{path} is not a cpulist"))
}

fn read_number<T: FromStr>(files: &dyn Files, path: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = read(files, path)?;
    let text = text.trim();
    text.parse()
        .with_context(|| format!("{path} is \"{text}\", not a number"))
}

/// Returns the cpulist in a file, or `None` where this kernel has no such file.
pub fn read_list_if_there(files: &dyn Files, path: &str) -> Result<Option<CpuSet>> {
    if_there(read_list(files, path))
}

fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        },
    }
}

/// Parses a cpulist; a mask that the kernel never allocated prints as `(null)`, as `nohz_full`
/// does on kernels that are built with it and booted without.
fn parse_list(text: &str) -> Result<CpuSet> {
    match text.trim() {
        "(null)" => Ok(CpuSet::new()),
        text => Ok(text.parse()?),
    }
}
