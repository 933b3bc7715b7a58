//! Every table of this node, and what does not fit together.

use std::collections::BTreeSet;

use serde::Serialize;

use super::gone::{Gone, gone};
use super::known::{is_lost, known};
use super::orphans::unused;
use crate::domain::claim::Claim;
use crate::domain::cpuset::CpuSet;
use crate::domain::guest::Guest;
use crate::domain::nothing::Nothing;
use crate::domain::overlap::{Named, Overlap};
use crate::domain::placement::{
    PlacementError, check_reserve, housekeeping, owned_by_table, what_names_vcpus,
};
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::table::{Cpus, HostSettings, Smt, Table};
use crate::domain::vm::Vmid;
use crate::host::table::{read_table, tables, unread_files};
use crate::host::topology::read_topology;
use crate::host::{Host, pve};
use crate::lifecycle::case::assess::{around_alone, assess_alone};
use crate::lifecycle::case::ground::{Asking, Ground};
use crate::lifecycle::case::nothing::{There, look_up, next_guest};
use crate::lifecycle::case::outdated::outdated;
use crate::lifecycle::case::texts::{CaseError, read_settings, understand};
use crate::lifecycle::case::yields;
use crate::lifecycle::engine::look::is_over;
use crate::lifecycle::engine::others::look_at_files;
use crate::lifecycle::hooking::snippet;

/// Every table of this node.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// Name of the node.
    pub node: String,
    /// VMs of this node with a table, broken ones included.
    pub vms: Vec<Entry>,
    /// Tables that name the same CPUs.
    pub overlaps: Vec<Overlap>,
    /// Tables without a VM, and VMs that are hooked without a table.
    pub orphans: Vec<Orphan>,
    /// Tables that do not fit the host or their VM.
    pub misfits: Vec<Misfit>,
    /// Files among the tables that nobody reads, with the names that they should have.
    pub strays: Vec<String>,
    /// Tables that cannot be used.
    pub broken: Vec<Broken>,
    /// VMs that own CPUs and run, without a config on this node.
    pub gone: Vec<Gone>,
    /// What cannot be seen from here and is left out.
    pub left_out: Vec<String>,
}

/// A VM with a table.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Which VM.
    pub vmid: Vmid,
    /// Its name.
    pub name: Option<String>,
    /// CPUs that its table names, or that were chosen for it; nothing when the table is broken or
    /// the choice is left to the start.
    pub cpus: Option<CpuSet>,
    /// Whether the table leaves the choice to the start.
    pub auto: bool,
    /// Whether it is started at host boot.
    pub onboot: bool,
    /// Volume of its hookscript.
    pub hookscript: Option<String>,
    /// Whether that hookscript is the one of pin-hook.
    pub hooked: bool,
    /// Whether it runs.
    pub running: bool,
    /// How far the claim of its run has come; nothing without one.
    pub state: Option<String>,
    /// Whether that run is over, and the host not given back yet.
    pub over: bool,
    /// CPUs that it owns now.
    pub owned: Option<CpuSet>,
    /// Why what it owns is not what its table says now.
    pub outdated: Option<String>,
    /// Where the table is.
    pub table: Option<String>,
    /// VMs that a start shuts down first.
    #[serde(skip)]
    stops: Vec<Vmid>,
}

/// A table that a start would be refused with, or all tables together.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Misfit {
    /// Whose table it is; nothing when it is about all of them.
    pub vmid: Option<Vmid>,
    /// What does not fit.
    pub reason: String,
}

/// Something that lacks its counterpart.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// Id of the guest.
    pub vmid: Vmid,
    /// What is missing.
    pub reason: String,
}

/// A table that cannot be used.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Whose table it is; nothing for the settings of the host.
    pub vmid: Option<Vmid>,
    /// What is wrong, in one line.
    pub message: String,
    /// What can be done about it.
    pub help: Option<String>,
}

/// Returns every VM of this node with its name, with or without a table.
///
/// # Errors
/// The configs cannot be read.
pub fn ids(host: &Host) -> anyhow::Result<Vec<(Vmid, Option<String>)>> {
    let files = &*host.files;
    let vmids = pve::vms_of_node(files)?.into_iter();
    let name = |vmid| next_guest(files, vmid, "").and_then(|guest| guest.name);
    Ok(vmids.map(|vmid| (vmid, name(vmid))).collect())
}

/// Returns every table of this node.
pub fn list(host: &Host) -> anyhow::Result<Listing> {
    let mut listing = Listing {
        node: pve::node_name(&*host.files)?,
        vms: Vec::new(),
        overlaps: Vec::new(),
        orphans: Vec::new(),
        misfits: Vec::new(),
        strays: unread_files(&*host.files),
        broken: Vec::new(),
        gone: Vec::new(),
        left_out: Vec::new(),
    };
    let state = known(host, "states are", &mut listing.left_out)?;
    listing.gone = gone(host, &state);
    let settings = listing.settings(host);
    let with_table = tables(&*host.files)?;
    let mut vmids: BTreeSet<Vmid> = pve::vms_of_node(&*host.files)?.into_iter().collect();
    vmids.extend(&with_table);
    vmids.extend(state.claims.keys());
    for vmid in vmids {
        listing.guest(host, vmid, with_table.contains(&vmid), &settings, &state)?;
    }
    if is_lost(host, &state) {
        let running = listing.vms.iter_mut().filter(|vm| vm.running);
        for vm in running.filter(|vm| vm.state.is_none()) {
            vm.state = Some("unknown".to_owned());
        }
    }
    listing.overlaps = overlaps(&listing.vms);
    listing.hold_against_host(host);
    if listing.hold_against_start(host, &settings) {
        listing.hold_all_at_once(host, &settings);
    }
    Ok(listing)
}

impl Listing {
    fn settings(&mut self, host: &Host) -> HostSettings {
        read_settings(host).unwrap_or_else(|error| {
            self.broken.push(Broken::of(None, &error));
            HostSettings::default()
        })
    }

    fn guest(
        &mut self,
        host: &Host,
        vmid: Vmid,
        has_table: bool,
        settings: &HostSettings,
        state: &State,
    ) -> anyhow::Result<()> {
        let there = look_up(&*host.files, vmid, "")?;
        let unused = unused(&*host.files, vmid, &there).filter(|_| has_table);
        let unused = unused.map(|reason| Orphan { vmid, reason });
        self.orphans.extend(unused);
        match there {
            There::Nothing(why) => self.cpus_without_vm(host, vmid, state, &why),
            There::Template(_) => {}
            There::Vm(vm) => {
                let guest = vm.conf.guest_of_next_start();
                let claim = state.claims.get(&vmid);
                if has_table || claim.is_some() {
                    let mut entry = self.entry(host, vmid, &guest, settings);
                    entry.running =
                        pve::running(&*host.files, vmid).is_ok_and(|qemu| qemu.is_some());
                    if let Some(claim) = claim {
                        entry.hold_claim(host, state, claim);
                    }
                    self.vms.push(entry);
                }
                if !has_table && guest.is_hooked() {
                    let reason = "has the hookscript, but no table".to_owned();
                    self.orphans.push(Orphan { vmid, reason });
                }
                self.hold_hook(host, vmid, &guest, has_table);
            }
        }
        Ok(())
    }

    /// A start fails where PVE cannot call what it is to call.
    fn hold_hook(&mut self, host: &Host, vmid: Vmid, guest: &Guest, has_table: bool) {
        let broken = snippet::broken(&*host.files, vmid, guest);
        if let Some(hook) = broken.filter(|_| guest.is_hooked()) {
            self.broken.push(Broken {
                vmid: Some(vmid),
                message: format!("vm {vmid}: {hook}"),
                help: Some(hook.help(vmid, has_table)),
            });
        }
    }

    fn entry(&mut self, host: &Host, vmid: Vmid, guest: &Guest, settings: &HostSettings) -> Entry {
        let (path, table) = match table_of(host, vmid, settings) {
            Ok(Some((path, table))) => (Some(path), Some(table)),
            Ok(None) => (None, None),
            Err(error) => {
                self.broken.push(Broken::of(Some(vmid), &error));
                (None, None)
            }
        };
        if let Some(table) = &table {
            self.hold_against_guest(host, vmid, table, guest);
        }
        Entry {
            name: guest.name.clone(),
            auto: table.as_ref().is_some_and(|table| table.cpus == Cpus::Auto),
            cpus: table.as_ref().and_then(|table| cpus_of(host, table)),
            onboot: guest.onboot,
            hooked: guest.is_hooked(),
            hookscript: guest.hookscript.clone(),
            table: path,
            stops: table.map_or_else(Vec::new, |table| table.yields.stop),
            ..Entry::without_guest(vmid)
        }
    }

    fn hold_against_guest(&mut self, host: &Host, vmid: Vmid, table: &Table, guest: &Guest) {
        let Cpus::Set(cpus) = &table.cpus else {
            return;
        };
        let n_vcpus = guest.n_vcpus as usize;
        let n_cpus = table.pin.vcpus.as_ref().map_or(cpus.len(), Vec::len);
        let topology = (table.smt == Some(Smt::IdleSibling)).then(|| read_topology(&*host.files));
        let n_cores = topology.and_then(Result::ok);
        let n_cores = n_cores.map(|topology| topology.first_of_cores(cpus).len());
        let error = match n_cores {
            Some(n_cores) if n_vcpus > n_cores => PlacementError::TooFewCores { n_vcpus, n_cores },
            _ if n_vcpus > n_cpus => PlacementError::TooFew {
                n_vcpus,
                list: what_names_vcpus(table.pin.vcpus.is_some()),
                n_cpus,
            },
            _ => return,
        };
        let (vmid, reason) = (Some(vmid), error.to_string());
        self.misfits.push(Misfit { vmid, reason });
    }

    /// Looks whether the host has the CPUs.
    fn hold_against_host(&mut self, host: &Host) {
        let topology = match read_topology(&*host.files) {
            Ok(topology) => topology,
            Err(error) => return self.without_host(&error),
        };
        for Entry { vmid, cpus, .. } in &self.vms {
            let cpus = cpus.clone().unwrap_or_default();
            let missing = cpus.difference(topology.online());
            if !missing.is_empty() {
                let online = topology.online();
                let (cpus, are) = (missing.in_words(), missing.is_or_are());
                let reason = format!("{cpus} {are} missing or offline (online: {online})");
                let vmid = Some(*vmid);
                self.misfits.push(Misfit { vmid, reason });
            }
        }
    }

    /// Looks whether enough is left for the host when all VMs run.
    fn hold_all_at_once(&mut self, host: &Host, settings: &HostSettings) {
        let Ok(topology) = read_topology(&*host.files) else {
            return;
        };
        let all: CpuSet = self
            .vms
            .iter()
            .flat_map(|vm| &vm.cpus)
            .flat_map(CpuSet::iter)
            .collect();
        let left = housekeeping(&topology, &all, &CpuSet::new());
        if let Err(error) = check_reserve(&topology, settings.reserve.as_ref(), &left) {
            let reason = format!("not all of these vms can own cpus at once: {error}");
            self.misfits.push(Misfit { vmid: None, reason });
        }
    }

    /// Looks whether a start could have what each table asks for; what other VMs own is told as
    /// overlaps. Returns whether each of them alone leaves the host enough.
    fn hold_against_start(&mut self, host: &Host, settings: &HostSettings) -> bool {
        let ground = match Ground::read(host, settings) {
            Ok(ground) => ground,
            Err(error) => {
                self.without_host(&error);
                return true;
            }
        };
        // What cannot be seen is told elsewhere.
        let (around, _) = around_alone(host, look_at_files(host, settings));
        let mut is_one_too_large = false;
        for Entry { vmid, cpus, .. } in &self.vms {
            let Ok(Some((_, table))) = table_of(host, *vmid, settings) else {
                continue;
            };
            let guest = next_guest(&*host.files, *vmid, "");
            let asking = Asking {
                vmid: Some(*vmid),
                guest: guest.as_ref(),
                table: &table,
            };
            let Err(refusal) = assess_alone(&ground, &asking, &around) else {
                continue;
            };
            let (vmid, reason) = (Some(*vmid), refusal.to_string());
            let misfit = Misfit { vmid, reason };
            is_one_too_large |= matches!(refusal, Refusal::TooLittleLeft { .. });
            if !is_told(&refusal, cpus.as_ref()) && !self.misfits.contains(&misfit) {
                self.misfits.push(misfit);
            }
        }
        !is_one_too_large
    }

    fn without_host(&mut self, error: &anyhow::Error) {
        let text = format!("tables are not checked against the host: {error:#}");
        if !self.left_out.contains(&text) {
            self.left_out.push(text);
        }
    }

    /// Shows what a guest owns that this node has no config of.
    fn cpus_without_vm(&mut self, host: &Host, vmid: Vmid, state: &State, why: &Nothing) {
        let Some(claim) = state.claims.get(&vmid).filter(|claim| claim.owns()) else {
            return;
        };
        let mut entry = Entry::without_guest(vmid);
        entry.hold_claim(host, state, claim);
        let is_told = entry.over || self.gone.iter().any(|gone| gone.vmid == vmid);
        entry.running = !entry.over && claim.qemu().is_some();
        self.vms.push(entry);
        if !is_told {
            let reason = format!("owns {}, but {why}", claim.wishes.cpus.in_words());
            self.orphans.push(Orphan { vmid, reason });
        }
    }
}

/// Tells whether a refusal is for lack of CPUs that a table owns: that is told of all of them at once.
fn is_told(refusal: &Refusal, owned: Option<&CpuSet>) -> bool {
    match refusal {
        Refusal::Placement(
            PlacementError::Absent { cpus, .. } | PlacementError::Offline { cpus, .. },
        ) => owned.is_some_and(|owned| cpus.is_subset(owned)),
        _ => false,
    }
}

impl Entry {
    /// Returns a guest of which nothing is known but its id.
    fn without_guest(vmid: Vmid) -> Self {
        Entry {
            vmid,
            name: None,
            cpus: None,
            auto: false,
            onboot: false,
            hookscript: None,
            hooked: false,
            running: false,
            state: None,
            over: false,
            owned: None,
            outdated: None,
            table: None,
            stops: Vec::new(),
        }
    }

    /// Returns what its table names, where it names any.
    fn named(&self) -> Option<Named<'_>> {
        Some(Named {
            vmid: self.vmid,
            cpus: self.cpus.as_ref()?,
            stops: &self.stops,
        })
    }

    fn hold_claim(&mut self, host: &Host, state: &State, claim: &Claim) {
        self.outdated = outdated(host, state, claim);
        self.over = is_over(host, claim);
        self.state = Some(match self.over {
            true => "over".to_owned(),
            false => claim.name(),
        });
        self.owned = claim.owns().then(|| claim.wishes.cpus.clone());
        if self.auto {
            self.cpus = self.owned.clone().or(self.cpus.take());
        }
    }
}

impl Broken {
    fn of(vmid: Option<Vmid>, error: &CaseError) -> Self {
        Broken {
            vmid,
            message: error.to_string(),
            help: Some(error.help()),
        }
    }
}

fn table_of(
    host: &Host,
    vmid: Vmid,
    settings: &HostSettings,
) -> Result<Option<(String, Table)>, CaseError> {
    let Some(file) = read_table(&*host.files, vmid)? else {
        return Ok(None);
    };
    let table = understand(host, &file, settings)?;
    yields::check(host, Some(vmid), &file.path, &table)?;
    Ok(Some((file.path, table)))
}

/// Returns what a table owns; siblings are known where the host can be read.
fn cpus_of(host: &Host, table: &Table) -> Option<CpuSet> {
    let Cpus::Set(cpus) = &table.cpus else {
        return None;
    };
    let topology = (table.smt == Some(Smt::IdleSibling)).then(|| read_topology(&*host.files));
    match topology {
        Some(Ok(topology)) => owned_by_table(table, &topology),
        Some(Err(_)) | None => Some(cpus.union(&table.isolate.also)),
    }
}

fn overlaps(vms: &[Entry]) -> Vec<Overlap> {
    let named: Vec<Named<'_>> = vms.iter().filter_map(Entry::named).collect();
    let pairs = named.iter().enumerate();
    let pairs = pairs.flat_map(|(n, one)| named[n + 1..].iter().map(move |two| (*one, *two)));
    pairs
        .filter_map(|(one, two)| Overlap::of(one, two))
        .collect()
}
