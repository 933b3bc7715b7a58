//! Checking a table before it is put in place, for the tools that write tables.

use std::io;

use serde::Serialize;

use super::complaint::Complaint;
use crate::config::table::{parse_host_settings, parse_table};
use crate::config::vm_conf::parse_vm_conf;
use crate::domain::admission::{check_others, check_scheduler};
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::knobs::Tuning;
use crate::domain::gate;
use crate::domain::guest::Guest;
use crate::domain::memory;
use crate::domain::nothing::Nothing;
use crate::domain::others::other_cpus;
use crate::domain::placement::{
    Request, check_reserve, doubts, homes, housekeeping, owned_by_table, place, threads_fit,
};
use crate::domain::table::{Cpus, HostSettings, Smt, Table};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::pve::{self, TextFile};
use crate::host::table::{check_place, path_of_table};
use crate::host::topology::read_topology;
use crate::host::{Host, surroundings};
use crate::lifecycle::case::nothing::no_vm;
use crate::lifecycle::case::resolve::{gate_facts, strange_nodes};
use crate::lifecycle::case::texts::{CaseError, read_settings};
use crate::lifecycle::case::yields;
use crate::lifecycle::devices::binding;
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::look::known_state;
use crate::lifecycle::engine::others::{look_at_files, look_at_groups};
use crate::lifecycle::engine::settings;

/// What is wrong with a table, if anything.
#[derive(Debug, Default, Serialize)]
pub struct Lint {
    /// The file, as it was named.
    pub file: String,
    /// VM of this node that the file's name says it is for.
    pub vmid: Option<Vmid>,
    /// Whether a start could use it on this host.
    pub ok: bool,
    /// What is wrong.
    pub error: Option<Complaint>,
    /// CPUs that the VM would own; nothing when the choice is left to the start.
    pub cpus: Option<CpuSet>,
    /// Whether it is the file with the settings of the host.
    #[serde(skip)]
    pub is_host: bool,
    /// What the operator should know nevertheless.
    pub warnings: Vec<String>,
    /// What could not be checked.
    pub left_out: Vec<String>,
}

/// Checks a table by itself and, as far as that can be seen, against this host.
pub fn lint(host: &Host, file: &TextFile) -> Lint {
    let mut lint = Lint {
        file: file.path.clone(),
        ..Lint::default()
    };
    if file.path.rsplit('/').next() == Some("host.toml") {
        return lint.of_host(host, file);
    }
    let settings = match read_settings(host) {
        Ok(settings) => settings,
        Err(error) => {
            lint.error = Some(Complaint::of(&error));
            return lint;
        }
    };
    let table = match understand(host, file, &settings) {
        Ok(table) => table,
        Err(error) => {
            lint.error = Some(Complaint::of(&error));
            return lint;
        }
    };
    let topology = read_topology(&*host.files);
    lint.cpus = match (&table.cpus, &topology) {
        (_, Ok(topology)) => owned_by_table(&table, topology),
        (Cpus::Set(cpus), Err(_)) => Some(cpus.union(&table.isolate.also)),
        (Cpus::Auto, Err(_)) => None,
    };
    lint.judge_place(host);
    lint.warnings.extend(strange_nodes(host, &table));
    let guest = lint.guest(host);
    lint.judge_devices(host, guest.as_ref(), &table);
    lint.judge_settings(host, &table);
    match topology {
        Ok(topology) => {
            lint.fits(&table, &settings, guest.as_ref(), &topology);
            lint.judge_others(host, &table, &settings, &topology);
        }
        Err(error) => {
            let text = format!("the table is not checked against this host: {error:#}");
            lint.left_out.push(text);
        }
    }
    lint.ok = lint.error.is_none();
    lint
}

/// Returns a lint of a file that cannot be read.
pub fn unreadable(path: &str, error: &anyhow::Error) -> Lint {
    Lint {
        file: path.to_owned(),
        error: Some(unreadable_by(path, error)),
        ..Lint::default()
    }
}

fn unreadable_by(path: &str, error: &anyhow::Error) -> Complaint {
    Complaint {
        message: format!("{error:#}"),
        help: Some(help_for_file(path, error)),
        file: Some(path.to_owned()),
        ..Complaint::default()
    }
}

/// Returns what to name instead of a directory or an id; otherwise what the error itself says.
fn help_for_file(path: &str, error: &anyhow::Error) -> String {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    let kind = cause.map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::IsADirectory) if vmid_of(path).is_none() => {
            let directory = path.trim_end_matches('/');
            format!("give a table in it, such as {directory}/100.toml")
        }
        Some(io::ErrorKind::NotFound) if path.parse::<Vmid>().is_ok() => {
            format!("pin-hook plan {path} checks the table of vm {path}, wherever it is")
        }
        _ => help_for(error),
    }
}

fn understand(host: &Host, file: &TextFile, settings: &HostSettings) -> Result<Table, CaseError> {
    // Elsewhere than on a node, the sections for nodes are checked and not used.
    let node = pve::node_name(&*host.files).unwrap_or_default();
    let table = parse_table(&file.path, &file.text, &node, &settings.defaults)?;
    yields::check(host, vmid_of(&file.path), &file.path, &table)?;
    Ok(table)
}

impl Lint {
    /// What no VM at all could leave to the host is no reserve.
    fn judge_reserve(&mut self, host: &Host, settings: &HostSettings) {
        let Ok(topology) = read_topology(&*host.files) else {
            return;
        };
        let left = housekeeping(&topology, &CpuSet::new(), &CpuSet::new());
        if let Err(error) = check_reserve(&topology, settings.reserve.as_ref(), &left) {
            self.refuse(&error.to_string(), error.help());
        }
    }

    /// Checks the settings of the host, which are no table.
    fn of_host(mut self, host: &Host, file: &TextFile) -> Self {
        self.is_host = true;
        match parse_host_settings(&file.path, &file.text) {
            Ok(settings) => self.judge_reserve(host, &settings),
            Err(error) => self.error = Some(Complaint::of(&error.into())),
        }
        self.judge_place(host);
        self.ok = self.error.is_none();
        self
    }

    /// Returns the guest of this node that the name of the file speaks of, unless it is a template.
    fn guest(&mut self, host: &Host) -> Option<Guest> {
        let vmid = vmid_of(&self.file)?;
        let guest = guest_of(host, vmid).filter(|guest| !guest.template)?;
        self.vmid = Some(vmid);
        Some(guest)
    }

    /// Says what keeps a file that is in the place of a table from being one.
    fn judge_place(&mut self, host: &Host) {
        match check_place(&*host.files, &self.file) {
            Ok(None) => self.warnings.extend(self.no_vm_for_it(host)),
            Ok(Some(stray)) => self.warnings.push(stray),
            Err(error) => {
                self.error
                    .get_or_insert_with(|| unreadable_by(&self.file, &error));
            }
        }
    }

    /// Says that nobody reads a table although it is in place; one of the cluster may be for another node.
    fn no_vm_for_it(&self, host: &Host) -> Option<String> {
        let files = &*host.files;
        let vmid = vmid_of(&self.file)?;
        let read = path_of_table(files, vmid)?;
        if read != self.file {
            let is_hidden = self.file.starts_with("/etc/pve/pin-hook/");
            return is_hidden.then(|| format!("not used on this node: {read} takes precedence"));
        }
        if guest_of(host, vmid).is_some_and(|guest| guest.template) {
            return Some(format!("not used: {}", Nothing::Template(vmid)));
        }
        let why = no_vm(files, vmid).ok()??;
        let is_shared = self.file.starts_with("/etc/pve/");
        let is_elsewhere = matches!(why, Nothing::Elsewhere { .. });
        (!is_shared || !is_elsewhere).then(|| format!("not used: {why}"))
    }

    /// Says who else needs the devices of the VM, and whether they can be bound as the table wishes;
    /// where none can be seen, nothing.
    fn judge_devices(&mut self, host: &Host, guest: Option<&Guest>, table: &Table) {
        let Some((vmid, guest)) = self.vmid.zip(guest) else {
            return;
        };
        let devices = Devices::read(host, vmid, guest, &[]);
        if devices.bus.is_empty() && !guest.hostpci.is_empty() {
            return;
        }
        self.warnings.extend(devices.warnings(vmid));
        if let Err(refusal) = binding::wanted(table, &devices, &[]) {
            self.refuse(&refusal.to_string(), refusal.help(vmid));
        }
    }

    /// Says what this host has no file for, and what else a wish brings with it.
    fn judge_settings(&mut self, host: &Host, table: &Table) {
        if let Some(cpus) = &self.cpus {
            let tuning = Tuning {
                cpus,
                power: &table.power,
                host: &table.host,
            };
            self.warnings.extend(settings::remarks(host, tuning));
        }
    }

    /// Says whether the CPUs are somebody else's, as a start would; the claims of VMs that run are not
    /// the table's business.
    fn judge_others(
        &mut self,
        host: &Host,
        table: &Table,
        settings: &HostSettings,
        topology: &Topology,
    ) {
        let Some(cpus) = self.cpus.clone() else {
            return;
        };
        let mut around = look_at_files(host, settings);
        match known_state(host) {
            Ok(Ok(state)) => look_at_groups(host, &state, &mut around),
            Ok(Err(hidden)) => self
                .left_out
                .push(format!("cgroups are left out: {hidden}")),
            Err(error) => self
                .left_out
                .push(format!("cgroups are left out: {error:#}")),
        }
        let facts = gate_facts(host, table, settings);
        let choice = facts.map(|facts| gate::choose(table.isolate.backend, &facts));
        let Ok(Ok(choice)) = choice else { return };
        let is_throttled = surroundings::throttles_real_time(&*host.files);
        if let Err(refusal) = check_scheduler(table.pin.scheduler, choice.backend, is_throttled) {
            self.refuse(
                &refusal.to_string(),
                refusal.help_with(&other_cpus(self.vmid)),
            );
        }
        let share = table.share(self.vmid, cpus, choice.backend);
        match check_others(&share, topology, &around) {
            Ok(warnings) => self.warnings.extend(warnings),
            Err(refusal) => {
                let help = refusal.help_with(&other_cpus(self.vmid));
                self.refuse(&refusal.to_string(), help);
            }
        }
    }

    fn fits(
        &mut self,
        table: &Table,
        settings: &HostSettings,
        guest: Option<&Guest>,
        topology: &Topology,
    ) {
        if let Err(error) = threads_fit(&table.pin, topology) {
            self.refuse(&error.to_string(), error.help());
        }
        let Cpus::Set(cpus) = &table.cpus else {
            return;
        };
        let owned = owned_by_table(table, topology).unwrap_or_default();
        match place(&request(table, cpus, guest, topology), topology) {
            Ok(placement) => {
                let warnings = placement
                    .notices
                    .iter()
                    .filter(|notice| notice.is_warning());
                self.warnings.extend(warnings.map(ToString::to_string));
                let n_vcpus = guest.map_or(usize::MAX, |guest| guest.n_vcpus as usize);
                let mut doubts = doubts::of_written(&placement, n_vcpus, topology);
                if let Some((vmid, guest)) = self.vmid.zip(guest) {
                    doubts.extend(doubts::of_guest(vmid, guest, table, &placement, topology));
                }
                self.warnings
                    .extend(doubts.into_iter().map(|doubt| doubt.text));
            }
            Err(error) => self.refuse(&error.to_string(), error.help()),
        }
        if let Err(error) = memory::nodes(&table.memory, guest, &owned, topology) {
            self.refuse(&error.to_string(), error.help(self.vmid));
        }
        let left = housekeeping(topology, &owned, &CpuSet::new());
        if let Err(error) = check_reserve(topology, settings.reserve.as_ref(), &left) {
            self.refuse(&error.to_string(), error.help());
        }
    }

    /// Says what is wrong; the first error counts.
    fn refuse(&mut self, message: &str, help: String) {
        let file = &self.file;
        self.error.get_or_insert_with(|| Complaint {
            message: format!("{file}: {message}"),
            help: Some(help),
            file: Some(file.clone()),
            ..Complaint::default()
        });
    }
}

fn guest_of(host: &Host, vmid: Vmid) -> Option<Guest> {
    let config = pve::vm_config(&*host.files, vmid, "").ok()??;
    Some(parse_vm_conf(&config.text).guest_of_next_start())
}

/// Returns the VM that the name of a table speaks of.
fn vmid_of(path: &str) -> Option<Vmid> {
    let name = path.rsplit('/').next()?;
    name.strip_suffix(".toml")?.parse().ok()
}

/// Returns what would be asked of placement; without a guest, as many vCPUs as fit.
fn request(table: &Table, cpus: &CpuSet, guest: Option<&Guest>, topology: &Topology) -> Request {
    let vcpus = table.pin.vcpus.clone();
    let cores = topology.first_of_cores(cpus);
    let n_cpus = match (&vcpus, table.smt) {
        (Some(list), _) => list.len(),
        (None, Some(Smt::IdleSibling)) => cores.len(),
        (None, _) => cpus.len(),
    };
    Request {
        cpus: cpus.clone(),
        also: table.isolate.also.clone(),
        vcpus,
        n_vcpus: guest.map_or(n_cpus, |guest| guest.n_vcpus as usize),
        max_vcpus: guest.map_or(n_cpus, |guest| guest.max_vcpus as usize),
        guest_smt: guest.map_or(1, |guest| guest.smt as usize),
        smt: table.smt,
        homes: guest.map(homes).unwrap_or_default(),
    }
}
