//! What others on this node have of its CPUs: the one reader, for promises and comparisons alike.

use std::collections::BTreeSet;

use crate::config::ct_conf::parse_ct_conf;
use crate::domain::cpuset::CpuSet;
use crate::domain::others::{Bystander, Surroundings, Way};
use crate::domain::state::State;
use crate::domain::table::{HostSettings, Table};
use crate::domain::target::{Target, Value};
use crate::domain::unit::{Setting, Unit};
use crate::host::{Host, cgroup, pve, surroundings, units};

/// Group that LXC makes for containers: their lists are PVE's, which has its own rules for them.
const CONTAINERS: &str = "lxc/";
/// Group of all VMs.
const VMS: &str = "qemu.slice/";

/// Looks around for what bears on a refusal, except cgroups.
///
/// Takes its time with unit files and guests' configs, so it is done without the host lock.
pub fn look_around(host: &Host, settings: &HostSettings, table: &Table) -> Surroundings {
    without_yielding(look_at_files(host, settings), table)
}

/// Leaves out the VMs that make room: they do not run meanwhile.
pub fn without_yielding(mut around: Surroundings, table: &Table) -> Surroundings {
    let stopped = table.yields.stop.iter();
    let stopped: Vec<String> = stopped.map(|vmid| format!("vm {vmid}")).collect();
    let is_stopped = |one: &Bystander| stopped.contains(&one.who);
    around.bystanders.retain(|bystander| !is_stopped(bystander));
    around
}

/// Returns the guests and units of this node that are to run on some CPUs, whether they run or not.
pub fn look_at_files(host: &Host, settings: &HostSettings) -> Surroundings {
    let mut bystanders = pinned_guests(host);
    bystanders.extend(pinned_containers(host));
    bystanders.extend(pinned_units(host));
    Surroundings {
        partitions: Vec::new(),
        bystanders,
        reserve: settings.reserve.clone(),
    }
}

/// Adds what cgroups say at this moment: partitions and lists of CPUs that are not ours.
///
/// The list of a group is what is in force of a property of its unit. Where ours is in its place, what
/// it had before counts.
/// Whose the partitions of VMs are cannot be told without the state, `None`: our own, most likely.
pub fn look_at_groups(host: &Host, state: Option<&State>, around: &mut Surroundings) {
    let is_hidden = state.is_none();
    let nobody = State::default();
    let state = state.unwrap_or(&nobody);
    let ours: BTreeSet<String> = state.held.keys().filter_map(cgroup_of).collect();
    around.partitions = Vec::new();
    for group in surroundings::groups(&*host.files) {
        let path = &group.path;
        let is_of_vms = is_hidden && path.starts_with(cgroup::QEMU_SLICE);
        let exclusive = group
            .exclusive
            .filter(|_| !ours.contains(path) && !is_of_vms);
        around.partitions.extend(exclusive);
        if let Some(cpus) = list_of_others(state, path, &group.listed) {
            around.set_list(match cgroup::unit_of(path) {
                Some(unit) => Bystander::unit(unit, cpus),
                None => Bystander::group(path, cpus),
            });
        }
    }
    for (target, held) in &state.held {
        if let (Target::AllowedCpus(unit), Value::Cpus(cpus)) = (target, &held.baseline) {
            around.set_list(Bystander::unit(unit, cpus.clone()));
        }
    }
    around.bystanders.retain(|one| !one.cpus.is_empty());
}

impl Surroundings {
    /// Puts the list that is in force in the place of what files say of the same unit.
    fn set_list(&mut self, list: Bystander) {
        match self.bystanders.iter_mut().find(|one| one.by == list.by) {
            Some(known) => *known = list,
            None => self.bystanders.push(list),
        }
    }
}

/// Returns the CPUs that others have listed for a group, if they have: not those of containers, and not
/// those of groups in the scope of a VM.
fn list_of_others(state: &State, path: &str, live: &CpuSet) -> Option<CpuSet> {
    let is_in_scope = path
        .strip_prefix(VMS)
        .is_some_and(|rest| rest.contains('/'));
    if path.is_empty() || path.starts_with(CONTAINERS) || is_in_scope {
        return None;
    }
    let held = [Target::listed(path), Target::outside(path)].map(|list| state.held.get(&list));
    let before = held
        .into_iter()
        .flatten()
        .find_map(|held| held.baseline.cpus());
    Some(before.unwrap_or(live).clone()).filter(|cpus| !cpus.is_empty())
}

fn cgroup_of(target: &Target) -> Option<String> {
    match target {
        Target::Group(path) => Some(path.clone()),
        // Not ours, only cut.
        Target::Knob(knob, _) if knob.row().is_list_of_others => None,
        _ => target.group().map(str::to_owned),
    }
}

/// Returns the units that are to run on some CPUs by their files, and systemd itself. What one file
/// says of many units (`service.d`) is told of the first of them.
fn pinned_units(host: &Host) -> Vec<Bystander> {
    let manager = units::manager_affinity(&*host.files).map(systemd_itself);
    let units = units::pinned_units(&*host.files).into_iter();
    let mut told = BTreeSet::new();
    let first = units.flat_map(settings_of).filter(|(file, one)| {
        let is_list = matches!(one.by, Way::Unit(_));
        told.insert((file.clone(), one.cpus.to_string(), is_list))
    });
    manager
        .into_iter()
        .chain(first.map(|(_, one)| one))
        .collect()
}

fn systemd_itself(setting: Setting) -> Bystander {
    let file = setting.file;
    let remedy = format!("change CPUAffinity= in {file} (systemctl daemon-reexec)");
    let who = "systemd with all its units".to_owned();
    Bystander::pinned(who, remedy, setting.cpus)
}

/// Returns what the files of a unit say of its CPUs, each with the file that says it.
fn settings_of(unit: Unit) -> impl Iterator<Item = (String, Bystander)> {
    let name = unit.name;
    let affinity = unit.affinity.map(|Setting { file, cpus }| {
        let remedy = format!(
            "change CPUAffinity= of {name} (systemctl edit {name}: a line CPUAffinity= that takes back \
             what {file} says, then one with other cpus)"
        );
        (file, Bystander::pinned(format!("unit {name}"), remedy, cpus))
    });
    let allowed = unit.allowed;
    let allowed = allowed.map(|Setting { file, cpus }| (file, Bystander::unit(&name, cpus)));
    affinity.into_iter().chain(allowed)
}

/// Returns the VMs of this node that PVE starts with an affinity of their own.
fn pinned_guests(host: &Host) -> Vec<Bystander> {
    let vmids = pve::vms_of_node(&*host.files).unwrap_or_default();
    let pinned = vmids.into_iter().filter_map(|vmid| {
        let cpus = pve::guest_of(&*host.files, vmid, "").ok()??.affinity?;
        let remedy = format!("change its affinity (qm set {vmid} --affinity ...)");
        Some(Bystander::pinned(format!("vm {vmid}"), remedy, cpus))
    });
    pinned.collect()
}

/// Returns the containers of this node whose administrator chose their CPUs.
fn pinned_containers(host: &Host) -> Vec<Bystander> {
    let ctids = pve::containers_of_node(&*host.files).unwrap_or_default();
    let pinned = ctids.into_iter().filter_map(|ctid| {
        let config = pve::container_config(&*host.files, ctid).ok()??;
        let cpus = parse_ct_conf(&config.text).cpus?;
        let remedy = format!("change lxc.cgroup2.cpuset.cpus in {}", config.path);
        let who = format!("container {ctid}");
        Some(Bystander::pinned(who, remedy, cpus))
    });
    pinned.collect()
}
