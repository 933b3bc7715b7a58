//! A table for a VM that has none: which CPUs, why, and what PVE has to be told.

use anyhow::Context;
use serde::Serialize;

use super::complaint::Complaint;
use crate::config::table::parse_table;
use crate::domain::cpuset::CpuSet;
use crate::domain::guest::Guest;
use crate::domain::placement::{Choice, Remark, Search, doubts, remarks};
use crate::domain::proposal::{Command, Proposal, fit};
use crate::domain::state::State;
use crate::domain::table::{HostSettings, Prefer, Smt};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::table::{local_path, path_of_table, write_table};
use crate::host::topology::{is_amd, read_topology};
use crate::host::{Host, pve};
use crate::lifecycle::case::known::{Known, known};
use crate::lifecycle::case::notes;
use crate::lifecycle::case::nothing::look_up;
use crate::lifecycle::case::room::{Room, RoomRequest};
use crate::lifecycle::case::texts::read_settings;
use crate::lifecycle::engine::denied::Denied;

/// A proposed table.
#[derive(Debug, Serialize)]
pub struct Proposed {
    /// Which VM.
    pub vmid: Vmid,
    /// Its name.
    pub name: Option<String>,
    /// CPUs for vCPUs; nothing when there is no room.
    pub cpus: Option<CpuSet>,
    /// SMT siblings that stay without a vCPU.
    pub also: Option<CpuSet>,
    /// Why these CPUs.
    pub reasons: Vec<String>,
    /// What is not as it could be.
    pub warnings: Vec<String>,
    /// What to run so that the guest fits.
    pub commands: Vec<String>,
    /// The table.
    pub table: Option<String>,
    /// Where a table of the VM is already.
    pub existing: Option<String>,
    /// Where the table was written.
    pub written: Option<String>,
    /// Why there is none.
    pub error: Option<Complaint>,
}

/// What a proposal is made from.
struct Base {
    guest: Guest,
    topology: Topology,
    room: Room,
    state: State,
    /// What could not be seen.
    left_out: Vec<String>,
    /// What the notes have another hookscript do.
    notes: Option<String>,
}

/// What the operator wants the CPUs for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Intent {
    /// What counts when they are chosen.
    pub prefer: Option<Prefer>,
    /// What becomes of SMT siblings.
    pub smt: Option<Smt>,
}

/// Returns a table for a VM, and writes nothing.
///
/// # Errors
/// The host cannot be read, or its settings are wrong.
pub fn propose(host: &Host, vmid: Vmid, intent: Intent) -> anyhow::Result<Proposed> {
    let mut proposed = Proposed {
        vmid,
        name: None,
        cpus: None,
        also: None,
        reasons: Vec::new(),
        warnings: Vec::new(),
        commands: Vec::new(),
        table: None,
        existing: path_of_table(&*host.files, vmid),
        written: None,
        error: None,
    };
    let guest = match look_up(&*host.files, vmid, "")?.vm() {
        Ok(vm) => vm.conf.guest_of_next_start(),
        Err(why) => {
            proposed.error = Some(Complaint::new(why.to_string(), why.help()));
            return Ok(proposed);
        }
    };
    proposed.name.clone_from(&guest.name);
    let settings = match read_settings(host) {
        Ok(settings) => settings,
        Err(error) => {
            proposed.error = Some(Complaint::of(&error));
            return Ok(proposed);
        }
    };
    let base = Base::read(host, vmid, guest, &settings)?;
    if let Err(denied) = base.propose(host, intent, &mut proposed) {
        let refusal = denied.refusal()?;
        let message = format!("vm {vmid}: {refusal}");
        proposed.error = Some(Complaint::new(message, refusal.help(vmid)));
        // Others may have fewer cpus than it seems.
        proposed.warnings = base.left_out;
        let offline = base.topology.sets().offline();
        if !offline.is_empty() {
            let text = base.topology.sets().smt.why_offline(&offline);
            proposed.warnings.push(text);
        }
    }
    Ok(proposed)
}

/// Writes a proposed table; one that is there is replaced only by `force`.
///
/// # Errors
/// The file cannot be written.
pub fn write(host: &Host, proposed: &mut Proposed, force: bool) -> anyhow::Result<()> {
    let vmid = proposed.vmid;
    let Some(table) = proposed.table.clone() else {
        return Ok(());
    };
    match &proposed.existing {
        Some(path) if !force => {
            let message = format!("vm {vmid} already has a table ({path}), nothing written");
            proposed.error = Some(Complaint {
                file: Some(path.clone()),
                ..Complaint::new(message, help_for_existing(vmid, path))
            });
        }
        _ => proposed.written = Some(write_table(&*host.files, vmid, &table)?),
    }
    Ok(())
}

/// A table of the cluster is never written: this node's own hides it.
fn help_for_existing(vmid: Vmid, path: &str) -> String {
    let force = format!("pin-hook init {vmid} --write --force");
    match local_path(vmid) {
        local if local == path => format!("{force} replaces it"),
        local => format!(
            "{force} writes {local}, which takes precedence on this node; for all nodes, put the \
             proposal into {path}"
        ),
    }
}

impl Base {
    fn read(
        host: &Host,
        vmid: Vmid,
        guest: Guest,
        settings: &HostSettings,
    ) -> anyhow::Result<Self> {
        let topology = read_topology(&*host.files)?;
        let mut left_out = Vec::new();
        let known = known(host)?;
        left_out.extend(known.warning());
        if let Known::Hidden(hidden) = &known {
            left_out.push(format!("claims of running vms are left out: {hidden}"));
        }
        let state = known.state();
        let room = Room::read(host, vmid, &guest, settings, &topology, state.as_ref())?;
        left_out.extend(room.unreadable.iter().map(|vmid| {
            format!("the table of vm {vmid} cannot be used, so its cpus are not known")
        }));
        let notes = notes::warning(host, vmid, &guest);
        Ok(Base {
            guest,
            topology,
            room,
            state: state.unwrap_or_default(),
            left_out,
            notes,
        })
    }

    fn propose(&self, host: &Host, intent: Intent, proposed: &mut Proposed) -> Result<(), Denied> {
        let claims = &self.state.claims;
        let asked = RoomRequest {
            prefer: intent.prefer,
            smt: intent.smt,
            ..RoomRequest::of(&self.guest)
        };
        let search = self.room.search(&asked, claims, &self.topology);
        let choice = self.room.choose(&search, claims)?;
        let mut remarks = self.remarks(&search, &choice);
        let fit = fit(&self.guest, &choice, &self.topology, is_amd(&*host.files));
        remarks.extend(fit.remark(&choice, &self.topology));
        let too_much = doubts::more_than_host(&self.guest, &self.topology);
        remarks.extend(too_much.map(Remark::warning));
        let commands = fit.commands(proposed.vmid, &self.guest, &choice, &self.topology);
        let node = pve::node_name(&*host.files)?;
        let text = Proposal {
            title: &title(proposed, &node),
            choice: &choice,
            remarks: &remarks,
            commands: &commands,
        }
        .text();
        parse_table("the proposed table", &text, &node, &Default::default())
            .context("the proposed table cannot be read")?;
        proposed.tell(&choice, remarks, commands);
        proposed.table = Some(text);
        Ok(())
    }

    fn remarks(&self, search: &Search<'_>, choice: &Choice) -> Vec<Remark> {
        let mut all = remarks(search, choice, &self.room.devices);
        let owners = self.room.owners(&self.state.claims).into_iter();
        let owners: Vec<String> = owners
            .map(|(who, cpus)| format!("{who} ({cpus})"))
            .collect();
        if !owners.is_empty() {
            let text = format!("left alone: cpus of {}", owners.join(", "));
            all.push(Remark::info(text));
        }
        let others = self.left_out.iter().chain(&self.notes);
        all.extend(others.cloned().map(Remark::warning));
        all
    }
}

fn title(proposed: &Proposed, node: &str) -> String {
    let name = proposed.name.as_ref().map(|name| format!(" ({name})"));
    format!(
        "Table of vm {}{} on node {node}, proposed by pin-hook init.",
        proposed.vmid,
        name.unwrap_or_default()
    )
}

impl Proposed {
    fn tell(&mut self, choice: &Choice, remarks: Vec<Remark>, commands: Vec<Command>) {
        self.cpus = Some(choice.cpus.clone());
        self.also = Some(choice.idle.clone());
        let (warnings, reasons): (Vec<_>, Vec<_>) =
            remarks.into_iter().partition(|remark| remark.is_warning);
        self.warnings = warnings.into_iter().map(|remark| remark.text).collect();
        self.reasons = reasons.into_iter().map(|remark| remark.text).collect();
        self.commands = commands.into_iter().map(|command| command.line).collect();
    }
}
