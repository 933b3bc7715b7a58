//! Checking a table before it is put in place, for the tools that write tables.

use std::io;

use serde::{Serialize, Serializer};

use super::complaint::Complaint;
use crate::config::table::{parse_host_settings, parse_table};
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::knobs::Tuning;
use crate::domain::guest::Guest;
use crate::domain::memory;
use crate::domain::nothing::Nothing;
use crate::domain::others::{Surroundings, other_cpus};
use crate::domain::placement::{Remark, Topic, check_reserve, housekeeping, owned_by_table};
use crate::domain::refusal::Refusal;
use crate::domain::table::{Cpus, HostSettings, Table};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::pve::{self, TextFile};
use crate::host::table::{check_place, path_of_table, read_table};
use crate::host::topology::read_topology;
use crate::host::{Host, hugepages};
use crate::lifecycle::case::assess::{around_alone, assess_alone};
use crate::lifecycle::case::ground::{Asking, Ground};
use crate::lifecycle::case::nothing::{look_up, next_guest};
use crate::lifecycle::case::overlaps::overlaps_of;
use crate::lifecycle::case::resolve::strange_nodes;
use crate::lifecycle::case::texts::{CaseError, read_settings};
use crate::lifecycle::case::yields;
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::others::look_at_files;
use crate::lifecycle::engine::settings;
use crate::lifecycle::start::preparing::wanted;

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
    /// What it says, if it is a table that can be understood.
    #[serde(skip)]
    pub(super) table: Option<Table>,
    /// Why a start would be refused with it, if that is what is wrong.
    #[serde(skip)]
    pub(super) refusal: Option<Refusal>,
    /// Whether it is the file with the settings of the host.
    #[serde(skip)]
    pub is_host: bool,
    /// What the operator should know nevertheless.
    #[serde(serialize_with = "texts")]
    pub warnings: Vec<Remark>,
    /// What could not be checked.
    pub left_out: Vec<String>,
}

/// What tables are held against, looked at once for however many there are.
#[derive(Debug)]
pub struct Bench {
    pub(super) settings: Result<HostSettings, Complaint>,
    pub(super) ground: anyhow::Result<Ground>,
    /// What the files say of others, and that with what cgroups say.
    pub(super) others: Surroundings,
    around: Surroundings,
    /// What could not be looked at.
    left_out: Option<String>,
}

impl Bench {
    /// Looks at the host.
    pub fn of(host: &Host) -> Self {
        let settings = read_settings(host).map_err(|error| Complaint::of(&error));
        let read = settings.as_ref().cloned().unwrap_or_default();
        // The claims of VMs that run are not the table's business.
        let others = look_at_files(host, &read);
        let (around, hidden) = around_alone(host, others.clone());
        Bench {
            ground: Ground::read(host, &read),
            others,
            around,
            left_out: hidden.map(|why| format!("what vms own is left out: {why}")),
            settings,
        }
    }
}

/// Checks a table by itself and, as far as that can be seen, against this host.
pub fn lint(host: &Host, file: &TextFile) -> Lint {
    lint_on(&Bench::of(host), host, file)
}

/// Does the same with what was looked at before.
fn lint_on(bench: &Bench, host: &Host, file: &TextFile) -> Lint {
    let mut lint = Lint {
        file: file.path.clone(),
        ..Lint::default()
    };
    if file.path.rsplit('/').next() == Some("host.toml") {
        return lint.of_host(host, file);
    }
    let settings = match &bench.settings {
        Ok(settings) => settings,
        Err(complaint) => {
            lint.error = Some(complaint.clone());
            return lint;
        }
    };
    let table = match understand(host, file, settings) {
        Ok(table) => table,
        Err(error) => {
            lint.error = Some(Complaint::of(&error));
            return lint;
        }
    };
    lint.cpus = match (&table.cpus, &bench.ground) {
        (_, Ok(ground)) => owned_by_table(&table, &ground.topology),
        (Cpus::Set(cpus), Err(_)) => Some(cpus.union(&table.isolate.also)),
        (Cpus::Auto, Err(_)) => None,
    };
    lint.judge_place(host);
    lint.warn_all(strange_nodes(host, &table), Topic::Placement);
    let guest = lint.guest(host);
    lint.judge_devices(host, guest.as_ref(), &table);
    lint.judge_settings(host, &table);
    match &bench.ground {
        Ok(ground) => {
            lint.left_out.extend(bench.left_out.clone());
            let asking = Asking {
                vmid: lint.vmid,
                guest: guest.as_ref(),
                table: &table,
            };
            lint.judge_memory(host, guest.as_ref(), &table, &ground.topology);
            lint.judge_others(host, &table, settings, &ground.topology);
            match assess_alone(ground, &asking, &bench.around) {
                Ok(warnings) => lint.warnings.extend(warnings),
                Err(refusal) => lint.deny(&refusal),
            }
        }
        Err(error) => {
            let text = format!("the table is not checked against this host: {error:#}");
            lint.left_out.push(text);
        }
    }
    lint.ok = lint.error.is_none();
    lint.table = Some(table);
    lint
}

/// Checks the table of a VM of this node, if it has one.
pub(super) fn lint_of(bench: &Bench, host: &Host, vmid: Vmid) -> Option<Lint> {
    match read_table(&*host.files, vmid) {
        Ok(file) => Some(lint_on(bench, host, &file?)),
        Err(error) => Some(Lint {
            error: Some(Complaint::of(&error.into())),
            ..Lint::default()
        }),
    }
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
        file: Some(path.to_owned()),
        ..Complaint::new(format!("{error:#}"), help_for_file(path, error))
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
        let guest = next_guest(&*host.files, vmid, "")?;
        self.vmid = Some(vmid);
        Some(guest)
    }

    /// Says what keeps a file that is in the place of a table from being one.
    fn judge_place(&mut self, host: &Host) {
        match check_place(&*host.files, &self.file) {
            Ok(None) => self.warn_all(self.no_vm_for_it(host), Topic::Placement),
            Ok(Some(stray)) => self.warn_all([stray], Topic::Placement),
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
        let why = look_up(files, vmid, "").ok()?.vm().err()?;
        if let Nothing::Template(_) = why {
            return Some(format!("not used: {why}"));
        }
        let is_shared = self.file.starts_with("/etc/pve/");
        let is_elsewhere = matches!(why, Nothing::Elsewhere { .. });
        (!is_shared || !is_elsewhere).then(|| format!("not used: {why}"))
    }

    /// Says who else needs the devices of the VM, and whether they can be bound and reset as the table wishes;
    /// where none can be seen, nothing.
    fn judge_devices(&mut self, host: &Host, guest: Option<&Guest>, table: &Table) {
        let Some((vmid, guest)) = self.vmid.zip(guest) else {
            return;
        };
        let devices = Devices::read(host, vmid, guest, &[]);
        if !devices.can_be_judged(guest) {
            return;
        }
        // What other VMs have now is not the table's business.
        match wanted(host, table, &devices.apart_from_vms(), &[]) {
            Ok(_) => self.warn_all(devices.warnings(vmid), Topic::Devices),
            Err(refusal) => self.deny(&refusal),
        }
    }

    /// Says which tables of other VMs name the same CPUs.
    fn judge_others(
        &mut self,
        host: &Host,
        table: &Table,
        settings: &HostSettings,
        topology: &Topology,
    ) {
        let Some(vmid) = self.vmid else { return };
        let others = overlaps_of(host, vmid, table, settings, topology).into_iter();
        let others = others.filter(|one| one.yields.is_none());
        self.warn_all(others.map(|one| one.to_string()), Topic::Overlap);
    }

    /// Says when the host has not the memory at all that the VM takes as hugepages.
    fn judge_memory(
        &mut self,
        host: &Host,
        guest: Option<&Guest>,
        table: &Table,
        topology: &Topology,
    ) {
        let guest = guest.filter(|_| table.memory.hugepages.is_some());
        let has_gigantic = hugepages::has_gigantic(&*host.files);
        let pools = guest.map(|guest| memory::pools(guest, has_gigantic));
        if let Err(fault) = memory::check_pools(&pools.unwrap_or_default(), topology) {
            self.deny(&fault.into());
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
            self.warn_all(settings::remarks(host, tuning), Topic::Placement);
        }
    }

    fn warn_all(&mut self, texts: impl IntoIterator<Item = String>, topic: Topic) {
        let texts = texts.into_iter();
        let warnings = texts.map(|text| Remark::warning(text).about(topic));
        self.warnings.extend(warnings);
    }

    /// Says why a start would be refused.
    fn deny(&mut self, refusal: &Refusal) {
        if self.error.is_none() {
            self.refusal = Some(refusal.clone());
        }
        let help = match self.vmid {
            Some(vmid) => refusal.help(vmid),
            None => refusal.help_with(&other_cpus(None)),
        };
        self.refuse(&refusal.to_string(), help);
    }

    /// Says what is wrong; the first error counts.
    fn refuse(&mut self, message: &str, help: String) {
        let file = &self.file;
        self.error.get_or_insert_with(|| Complaint {
            file: Some(file.clone()),
            ..Complaint::new(format!("{file}: {message}"), help)
        });
    }
}

fn texts<S: Serializer>(warnings: &[Remark], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(warnings.iter().map(|warning| &warning.text))
}

/// Returns the VM that the name of a table speaks of.
fn vmid_of(path: &str) -> Option<Vmid> {
    let name = path.rsplit('/').next()?;
    name.strip_suffix(".toml")?.parse().ok()
}
