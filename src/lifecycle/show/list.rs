//! Every table of this node, and what does not fit together.

use std::collections::BTreeSet;

use serde::Serialize;

use super::complaint::Complaint;
use super::gone::{Gone, gone};
use super::lint::{Bench, Lint, lint_of};
use super::orphans::unused;
use super::remembered::{is_lost, remembered};
use crate::domain::claim::Claim;
use crate::domain::cpuset::CpuSet;
use crate::domain::guest::Guest;
use crate::domain::nothing::Nothing;
use crate::domain::overlap::{Named, Overlap};
use crate::domain::placement::{check_reserve, housekeeping};
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::table::{Cpus, HostSettings};
use crate::domain::vm::Vmid;
use crate::host::table::{tables, unread_files};
use crate::host::{Host, pve};
use crate::lifecycle::case::nothing::{There, look_up, next_guest};
use crate::lifecycle::case::outdated::outdated;
use crate::lifecycle::engine::look::is_over;
use crate::lifecycle::hooking::snippet;

/// Every table of this node.
#[derive(Debug, Default, Serialize)]
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
    /// The table, held against the host.
    #[serde(skip)]
    lint: Lint,
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
        strays: unread_files(&*host.files),
        ..Listing::default()
    };
    let state = remembered(host, "states are", &mut listing.left_out)?;
    listing.gone = gone(host, &state);
    let bench = listing.bench(host);
    let with_table = tables(&*host.files)?;
    let mut vmids: BTreeSet<Vmid> = pve::vms_of_node(&*host.files)?.into_iter().collect();
    vmids.extend(&with_table);
    vmids.extend(state.claims.keys());
    for vmid in vmids {
        listing.guest(host, vmid, with_table.contains(&vmid), &bench, &state)?;
    }
    if is_lost(host, &state) {
        let running = listing.vms.iter_mut().filter(|vm| vm.running);
        for vm in running.filter(|vm| vm.state.is_none()) {
            vm.state = Some("unknown".to_owned());
        }
    }
    listing.overlaps = overlaps(&listing.vms);
    listing.hold_all_at_once(&bench);
    Ok(listing)
}

impl Listing {
    /// Looks at what tables are held against; settings that cannot be used count as none.
    fn bench(&mut self, host: &Host) -> Bench {
        let mut bench = Bench::of(host);
        if let Err(complaint) = &bench.settings {
            self.broken.push(Broken::of(None, complaint));
            bench.settings = Ok(HostSettings::default());
        }
        if let Err(error) = &bench.ground {
            let text = format!("tables are not checked against the host: {error:#}");
            self.left_out.push(text);
        }
        bench
    }

    fn guest(
        &mut self,
        host: &Host,
        vmid: Vmid,
        has_table: bool,
        bench: &Bench,
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
                    let mut entry = self.entry(host, vmid, &guest, bench);
                    entry.running =
                        pve::running(&*host.files, vmid).is_ok_and(|qemu| qemu.is_some());
                    if let Some(claim) = claim {
                        entry.hold_claim(host, state, claim);
                    }
                    self.vms.push(entry);
                }
                if !has_table && guest.is_hooked() {
                    let reason = format!(
                        "has the hookscript, but no table: pin-hook init {vmid} --write writes one"
                    );
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
            let error = Complaint::new(format!("vm {vmid}: {hook}"), hook.help(vmid, has_table));
            self.broken.push(Broken::of(Some(vmid), &error));
        }
    }

    fn entry(&mut self, host: &Host, vmid: Vmid, guest: &Guest, bench: &Bench) -> Entry {
        let lint = lint_of(bench, host, vmid).unwrap_or_default();
        match (&lint.refusal, &lint.error) {
            (Some(refusal), _) => {
                let (vmid, reason) = (Some(vmid), refusal.to_string());
                self.misfits.push(Misfit { vmid, reason });
            }
            (None, Some(error)) => self.broken.push(Broken::of(Some(vmid), error)),
            (None, None) => {}
        }
        Entry::of(vmid, Some(guest), lint)
    }

    /// Looks whether enough is left for the host when all VMs run; where one of them alone does not leave enough,
    /// that is told.
    fn hold_all_at_once(&mut self, bench: &Bench) {
        let (Ok(ground), Ok(settings)) = (&bench.ground, &bench.settings) else {
            return;
        };
        let is_too_large =
            |vm: &Entry| matches!(vm.lint.refusal, Some(Refusal::TooLittleLeft { .. }));
        if self.vms.iter().any(is_too_large) {
            return;
        }
        let topology = &ground.topology;
        let cpus = self.vms.iter().flat_map(|vm| &vm.cpus);
        let all: CpuSet = cpus.flat_map(CpuSet::iter).collect();
        let left = housekeeping(topology, &all, &CpuSet::new());
        if let Err(error) = check_reserve(topology, settings.reserve.as_ref(), &left) {
            let reason = format!("not all of these vms can own cpus at once: {error}");
            self.misfits.push(Misfit { vmid: None, reason });
        }
    }

    /// Shows what a guest owns that this node has no config of.
    fn cpus_without_vm(&mut self, host: &Host, vmid: Vmid, state: &State, why: &Nothing) {
        let Some(claim) = state.claims.get(&vmid).filter(|claim| claim.owns()) else {
            return;
        };
        let mut entry = Entry::of(vmid, None, Lint::default());
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

impl Entry {
    /// Returns a guest with its table; of one without a config nothing is known but its id.
    fn of(vmid: Vmid, guest: Option<&Guest>, lint: Lint) -> Self {
        let table = lint.table.as_ref();
        Entry {
            vmid,
            name: guest.and_then(|guest| guest.name.clone()),
            cpus: lint.cpus.clone(),
            auto: table.is_some_and(|table| table.cpus == Cpus::Auto),
            onboot: guest.is_some_and(|guest| guest.onboot),
            hookscript: guest.and_then(|guest| guest.hookscript.clone()),
            hooked: guest.is_some_and(Guest::is_hooked),
            running: false,
            state: None,
            over: false,
            owned: None,
            outdated: None,
            table: table.map(|_| lint.file.clone()),
            lint,
        }
    }

    /// Returns what its table names, where it names any.
    fn named(&self) -> Option<Named<'_>> {
        Some(Named {
            vmid: self.vmid,
            cpus: self.cpus.as_ref()?,
            stops: &self.lint.table.as_ref()?.yields.stop,
        })
    }

    fn hold_claim(&mut self, host: &Host, state: &State, claim: &Claim) {
        self.outdated = outdated(host, state, claim).map(|how| how.to_string());
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
    fn of(vmid: Option<Vmid>, error: &Complaint) -> Self {
        Broken {
            vmid,
            message: error.message.clone(),
            help: error.help.clone(),
        }
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
