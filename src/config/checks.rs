//! What contradicts each other within one table.
//!
//! Only what the table itself can tell: whether the CPUs exist, are free or are enough for the
//! guest is for placement to say, which knows the host.

mod place;
mod sysctls;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use place::At;
use toml::de::DeTable;

use super::error::Problem;
use super::nearest::nearest;
use crate::domain::backend::{Backend, BackendWish};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::{Cpus, Table, Workqueues};
use crate::domain::vm::Vmid;

/// Checks everything that a table can tell by itself.
pub(super) fn check(table: &Table, tree: &DeTable<'_>) -> Result<(), Problem> {
    let at = At(tree);
    check_owned(table, at)?;
    check_vcpus(table, at)?;
    check_threads(table, at)?;
    check_devices(table, at)?;
    check_kernel_rules(table, at)?;
    check_words(table, at)?;
    check_power(table, at)?;
    sysctls::check(table, at)?;
    check_yield(table, at)
}

/// Returns the CPUs with vCPUs on them, as far as the table names them.
fn named(cpus: &Cpus) -> Option<&CpuSet> {
    match cpus {
        Cpus::Set(cpus) => Some(cpus),
        Cpus::Auto => None,
    }
}

fn check_owned(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    let Some(cpus) = named(&table.cpus) else {
        return Ok(());
    };
    if cpus.is_empty() {
        let help = "list the cpus of the vm, or write cpus = \"auto\"";
        return Err(at.problem(&["cpus"], None, "cpus is empty".to_owned(), help));
    }
    let both = cpus.intersection(&table.isolate.also);
    if !both.is_empty() {
        let (both, are) = (both.in_words(), both.is_or_are());
        let message = format!("isolate.also has {both}, which {are} already in cpus");
        let help = "isolate.also is for cpus without a vcpu; keep them in only one of the two";
        return Err(at.problem(&["isolate", "also"], None, message, help));
    }
    Ok(())
}

fn check_vcpus(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    const PATH: &[&str] = &["pin", "vcpus"];
    let Some(vcpus) = &table.pin.vcpus else {
        return Ok(());
    };
    let Some(cpus) = named(&table.cpus) else {
        let message = "pin.vcpus names cpus, but cpus is \"auto\"".to_owned();
        let help = "list the cpus of the vm in cpus, or leave pin.vcpus out";
        return Err(at.problem(PATH, None, message, help));
    };
    if vcpus.is_empty() {
        let help = "leave it out to have vcpus placed in the order of the host's cores";
        return Err(at.problem(PATH, None, "pin.vcpus is empty".to_owned(), help));
    }
    let mut seen = BTreeMap::new();
    for (n, &cpu) in vcpus.iter().enumerate() {
        let (message, help) = match seen.insert(cpu, n) {
            Some(first) => (
                format!("cpu {cpu} is given to vcpu {first} and to vcpu {n}"),
                "give every vcpu a cpu of its own",
            ),
            None if cpus.contains(cpu) => continue,
            None => not_owned(cpu, n, &table.isolate.also),
        };
        return Err(at.problem(PATH, Some(n), message, help));
    }
    Ok(())
}

fn not_owned(cpu: CpuId, vcpu: usize, also: &CpuSet) -> (String, &'static str) {
    match also.contains(cpu) {
        true => (
            format!("vcpu {vcpu} is on cpu {cpu}, which isolate.also keeps without a vcpu"),
            "move the cpu from isolate.also to cpus",
        ),
        false => (
            format!("vcpu {vcpu} is on cpu {cpu}, which is not in cpus"),
            "add the cpu to cpus, or choose another one for the vcpu",
        ),
    }
}

/// Checks the threads that are no vCPUs: each has a CPU, and none of those of the vCPUs.
fn check_threads(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    let pin = &table.pin;
    if let Some(emulator) = &pin.emulator {
        check_thread(table, at, &["pin", "emulator"], emulator)?;
    }
    for (name, cpus) in &pin.iothreads {
        let path = ["pin", "iothreads", name];
        let disk = numbered(name, "scsi", 30) || numbered(name, "virtio", 15);
        if !disk && name != "*" {
            let help = "name disks as the vm's configuration does, such as scsi0, or \"*\"";
            return Err(at.name_problem(&path, format!("no iothread is named {name:?}"), help));
        }
        check_thread(table, at, &path, cpus)?;
    }
    for (name, cpus) in &pin.vhost {
        let path = ["pin", "vhost", name];
        if !numbered(name, "net", 31) {
            let help = "name network devices as the vm's configuration does, such as net0";
            return Err(at.name_problem(&path, format!("no vhost worker is named {name:?}"), help));
        }
        check_thread(table, at, &path, cpus)?;
    }
    Ok(())
}

fn check_devices(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    let is_key = |name: &str| numbered(name, "hostpci", 15) || name == "*";
    let mut names = table.pci.bind.keys();
    match names.find(|name| !is_key(name)) {
        Some(name) => {
            let help = "name devices as the vm's configuration does, such as hostpci0, or \"*\"";
            let message = format!("no passed-through device is named {name:?}");
            Err(at.name_problem(&["pci", "bind", name], message, help))
        }
        None => Ok(()),
    }
}

fn numbered(name: &str, prefix: &str, max: u32) -> bool {
    super::property::index(name, prefix, max).is_some()
}

fn check_thread(
    table: &Table,
    at: At<'_, '_>,
    path: &[&str],
    cpus: &CpuSet,
) -> Result<(), Problem> {
    let name = path.join(".");
    if cpus.is_empty() {
        let help = "leave the key out for the default, or name the cpus";
        return Err(at.problem(path, None, format!("{name} is empty"), help));
    }
    let owned = named(&table.cpus).map(|owned| owned.intersection(cpus));
    match owned.filter(|both| !both.is_empty()) {
        Some(both) => {
            let belong = match both.len() {
                1 => "belongs to a vcpu",
                _ => "belong to vcpus",
            };
            let message = format!("{name} has {}, which {belong}", both.in_words());
            let help = "choose cpus of the host, or move them from cpus to isolate.also";
            Err(at.problem(path, None, message, help))
        }
        None => Ok(()),
    }
}

/// Checks combinations that the kernel makes impossible or deadly.
fn check_kernel_rules(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    if table.isolate.backend == BackendWish::Only(Backend::Isolated)
        && table.isolate.workqueues == Workqueues::Off
    {
        let message = "backend isolated moves unbound kernel work in any case".to_owned();
        let help = "write backend = \"root\" to leave it alone, or workqueues = \"auto\"";
        return Err(at.problem(&["isolate", "workqueues"], None, message, help));
    }
    Ok(())
}

/// Checks names that are written to the kernel as they are.
fn check_words(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    let power = &table.power;
    for (key, value) in [
        ("governor", &power.governor),
        ("energy-preference", &power.energy_preference),
    ] {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let word = |text: &String| !text.is_empty() && text.bytes().all(letter);
        if let Some(text) = value.as_ref().filter(|text| !word(text)) {
            let message = format!("power.{key} cannot be {text:?}");
            let help = "kernel names are one word in lower case, such as \"performance\"";
            return Err(at.problem(&["power", key], None, message, help));
        }
    }
    if let Some(name) = &power.governor
        && !GOVERNORS.contains(&name.as_str())
    {
        let message = format!("there is no cpufreq governor {name:?}");
        let help = match nearest(name, GOVERNORS.into_iter()) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("linux has {}", GOVERNORS.join(", ")),
        };
        return Err(at.problem(&["power", "governor"], None, message, &help));
    }
    Ok(())
}

/// Governors of Linux (`drivers/cpufreq`); which of them a host has depends on its driver.
const GOVERNORS: [&str; 6] = [
    "performance",
    "powersave",
    "schedutil",
    "ondemand",
    "conservative",
    "userspace",
];

/// Checks what one driver of frequencies or the other could not fulfil.
fn check_power(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    let power = &table.power;
    if let (Some(min), Some(max)) = (power.min_frequency, power.max_frequency)
        && min > max
    {
        let message =
            format!("power.min-frequency is {min}, more than power.max-frequency ({max})");
        let help = "write a lower one, or leave one of them out";
        return Err(at.problem(&["power", "min-frequency"], None, message, help));
    }
    let preference = power.energy_preference.as_deref();
    if preference == Some("default") {
        let message = "energy preference default differs from host to host".to_owned();
        let help = "write the one that the host reports, such as \"balance_performance\"";
        return Err(at.problem(&["power", "energy-preference"], None, message, help));
    }
    let contradicts = preference.is_some_and(|preference| preference != "performance");
    if contradicts && power.governor.as_deref() == Some("performance") {
        let message = "governor performance accepts no other energy preference".to_owned();
        let help = "write energy-preference = \"performance\", or another governor";
        return Err(at.problem(&["power", "energy-preference"], None, message, help));
    }
    Ok(())
}

/// The shortest time in which a VM can be asked to shut down.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

fn check_yield(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for (n, vmid) in table.yields.stop.iter().enumerate() {
        let text = vmid.to_string();
        let message = match text.parse::<Vmid>() {
            Err(error) => error.to_string(),
            Ok(_) if !seen.insert(vmid) => format!("vm {vmid} is in the list twice"),
            Ok(_) => continue,
        };
        let help = "yield.stop takes a list of vm ids, for example stop = [107]";
        return Err(at.problem(&["yield", "stop"], Some(n), message, help));
    }
    let timeout = table.yields.timeout;
    if timeout.duration() < SHORTEST_TIMEOUT {
        let message = "yield.timeout is less than 1s, too short for any vm to shut down".to_owned();
        let help = "raise it; a guest takes about half a minute";
        return Err(at.problem(&["yield", "timeout"], None, message, help));
    }
    Ok(())
}
