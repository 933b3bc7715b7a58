//! `/sys/devices/system/cpu` and `/sys/devices/system/node`: reads the host's topology.
//!
//! Reads each core and each L3 domain once, at its lowest CPU, instead of once per CPU: all CPUs
//! of a core (or of a cache) show the same list, because the kernel prints one mask for them.

use std::io::ErrorKind;
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::topology::{Core, CpuSets, Node, Parts, Topology};

use super::files::Files;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// Reads the topology of the host.
pub fn read_topology(files: &dyn Files) -> Result<Topology> {
    let sets = read_sets(files)?;
    Ok(Topology::new(Parts {
        cores: read_cores(files, &sets.online)?,
        l3_domains: read_l3_domains(files, &sets.online)?,
        nodes: read_nodes(files)?,
        sets,
    }))
}

fn read_sets(files: &dyn Files) -> Result<CpuSets> {
    let optional = |name| read_list_if_there(files, &format!("{CPUS}/{name}"));
    Ok(CpuSets {
        possible: read_list(files, &format!("{CPUS}/possible"))?,
        present: read_list(files, &format!("{CPUS}/present"))?,
        online: read_list(files, &format!("{CPUS}/online"))?,
        isolcpus: optional("isolated")?.unwrap_or_default(),
        nohz_full: optional("nohz_full")?.unwrap_or_default(),
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
        let cpus = unseen(cpu, &read_siblings(files, &dir)?, &seen);
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

fn read_l3_domains(files: &dyn Files, online: &CpuSet) -> Result<Vec<CpuSet>> {
    let mut domains = Vec::new();
    let mut seen = CpuSet::new();
    for cpu in online.iter() {
        if seen.contains(cpu) {
            continue;
        }
        if let Some(cpus) = read_l3(files, cpu)? {
            let cpus = unseen(cpu, &cpus, &seen);
            seen.extend(cpus.iter());
            domains.push(cpus);
        }
    }
    Ok(domains)
}

/// Reads who shares the level 3 cache of `cpu`; `None` where there is none, as in most VMs.
fn read_l3(files: &dyn Files, cpu: CpuId) -> Result<Option<CpuSet>> {
    let dir = format!("{CPUS}/cpu{cpu}/cache");
    let names = match files.list(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("failed to list {dir}")),
    };
    // Backwards, because the outermost cache has the highest index.
    for name in names.iter().rev().filter(|name| name.starts_with("index")) {
        let index = format!("{dir}/{name}");
        if read_number::<u32>(files, &format!("{index}/level"))? == 3
            && read(files, &format!("{index}/type"))?.trim() == "Unified"
        {
            return read_list(files, &format!("{index}/shared_cpu_list")).map(Some);
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

fn read_nodes(files: &dyn Files) -> Result<Vec<Node>> {
    let Some(numbers) = read_list_if_there(files, &format!("{NODES}/online"))? else {
        return Ok(Vec::new());
    };
    let with_memory = read_list_if_there(files, &format!("{NODES}/has_memory"))?;
    let read_node = |number: CpuId| {
        Ok(Node {
            id: number.0,
            cpus: read_list(files, &format!("{NODES}/node{number}/cpulist"))?,
            has_memory: with_memory
                .as_ref()
                .is_none_or(|some| some.contains(number)),
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

fn read_list_if_there(files: &dyn Files, path: &str) -> Result<Option<CpuSet>> {
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
