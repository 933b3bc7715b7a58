//! Claims: what one VM owns and wishes, and for which of its runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::cpuset::{CpuId, CpuSet};
use super::memory::MemoryWishes;
use super::pci::anew::{Before, Reset, away};
use super::table::{AfterStop, HostKnobs, PciIrqs, Power, Scheduler};
use super::vm::{TaskId, Vmid};

/// Every claim of this node.
pub type Claims = BTreeMap<Vmid, Claim>;

/// What one VM owns and wishes. The table is stored resolved, so that neither an edit of the table
/// nor the removal of the hookscript changes what a running VM has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Claim {
    /// Whose claim it is.
    pub vmid: Vmid,
    /// How far the claimed run has come.
    pub state: ClaimState,
    /// What the table says, resolved against this host.
    pub wishes: Wishes,
    /// Id of the iothread object of each thread that is one, by thread id, as QMP told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub iothreads: BTreeMap<i32, String>,
    /// Functions that are passed through and their models (vendor and device): those that PVE will
    /// take as things stand, and those that QEMU has once it runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, String>,
    /// Functions that are being reset, or were, and how far that has come.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resets: BTreeMap<String, Reset>,
    /// Functions that are bound to vfio-pci for the VM, and what becomes of them after its stop.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bindings: BTreeMap<String, AfterStop>,
    /// CPUs of a running VM that went offline and were told of.
    #[serde(default, skip_serializing_if = "CpuSet::is_empty")]
    pub offline: CpuSet,
    /// Whether the claim has come into force and its first settling has not come to its end: all
    /// of it is still to be taken back when the CPUs cannot be had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unproven: bool,
    /// Set as long as the claim stands by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// Since pre-stop, where that matters ([`waits_for_probes`](super::gate::waits_for_probes)): the VM is
    /// about to be stopped, and its partition is of type root, which goes without waiting. Time since boot
    /// after which the stop counts as given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Duration>,
    /// Who stops the VM then: once that process is gone and QEMU is not, the stop was in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopper: Option<TaskId>,
}

/// A claim that stands by keeps nobody from its CPUs: QEMU was started for a backup, and its guest
/// runs only if somebody starts the VM meanwhile. Then it is given what is free by that time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Standby {
    /// Why the guest, which runs, has no CPUs of its own, as it was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

/// How far a claimed run has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimState {
    /// The VM is being started. The CPUs count as taken; nothing is isolated yet.
    Reserved {
        /// Process that starts the VM: the holder of PVE's lock of it, otherwise the parent of the hook.
        starter: TaskId,
        /// Time since boot after which the starter counts as stuck.
        deadline: Duration,
    },
    /// QEMU exists, but its guest does not run yet: a backup start or an incoming migration.
    Waiting {
        /// QEMU's process.
        qemu: TaskId,
    },
    /// The guest runs and owns its CPUs.
    Running {
        /// QEMU's process.
        qemu: TaskId,
    },
    /// The guest runs, but its CPUs could not be isolated; nothing of this claim is in force.
    Failed {
        /// QEMU's process.
        qemu: TaskId,
        /// Why, as it was reported.
        reason: String,
    },
}

/// Table of a VM, resolved against this host and this guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wishes {
    /// Every CPU that is owned, with or without a vCPU.
    pub cpus: CpuSet,
    /// CPU of each vCPU.
    pub vcpus: Vec<CpuId>,
    /// CPUs of the emulator threads; `None`: those that are left to the host.
    pub emulator: Option<CpuSet>,
    /// CPUs of iothreads by object id; `*` stands for those not named.
    pub iothreads: BTreeMap<String, CpuSet>,
    /// CPUs of vhost workers, in the order in which they were created.
    pub vhost: Vec<Option<CpuSet>>,
    /// How the CPUs are taken.
    pub backend: Backend,
    /// Why that backend.
    pub reason: String,
    /// Whether kernel threads are kept off the owned CPUs.
    pub kernel_threads: bool,
    /// Whether interrupts are kept off the owned CPUs.
    pub interrupts: bool,
    /// Speed and sleep of the owned CPUs.
    #[serde(default, skip_serializing_if = "Power::is_untouched")]
    pub power: Power,
    /// Settings of the whole host.
    #[serde(default, skip_serializing_if = "HostKnobs::is_untouched")]
    pub host: HostKnobs,
    /// Whether unbound kernel work is kept off the owned CPUs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workqueues: bool,
    /// Whether the soft lockup watchdog is kept off the owned CPUs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watchdog: bool,
    /// Scheduling class of the vCPU threads.
    #[serde(default, skip_serializing_if = "Scheduler::is_other")]
    pub scheduler: Scheduler,
    /// Where the interrupts of passed-through devices go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_interrupts: Option<PciIrqs>,
    /// CPUs that PVE's own `affinity:` gives the whole VM.
    pub affinity: Option<CpuSet>,
    /// Whether the delegation of the scope stays in place when the claim ends, because the VM
    /// is hooked and will need it at its next start.
    pub stays_delegated: bool,
    /// Where the guest's memory comes from.
    #[serde(default, skip_serializing_if = "MemoryWishes::is_untouched")]
    pub memory: MemoryWishes,
    /// Whether the CPUs are taken offline and back when the claim comes into force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hotplug: bool,
}

impl Claim {
    /// Returns a new claim of a VM. Of the `old` one of the same run it keeps what only a start can choose or a
    /// run has begun: devices that are bound, or removed and not back yet.
    pub fn new(vmid: Vmid, state: ClaimState, wishes: Wishes, old: Option<&Claim>) -> Self {
        let of_old = old.cloned();
        let (devices, bindings, offline) = of_old
            .map(|old| (old.devices, old.bindings, old.offline))
            .unwrap_or_default();
        Claim {
            vmid,
            state,
            wishes,
            iothreads: BTreeMap::new(),
            devices,
            resets: old.map(Claim::still_away).unwrap_or_default(),
            bindings,
            offline,
            is_unproven: false,
            standby: None,
            ending: None,
            stopper: None,
        }
    }

    /// Returns the QEMU process of the claimed run, once there is one.
    pub fn qemu(&self) -> Option<TaskId> {
        self.state.qemu()
    }

    /// Tells whether the claim is in force.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ClaimState::Running { .. })
    }

    /// Returns the claim as it takes the place of `old`: unproven while it runs, until what it
    /// wishes for now was settled once.
    pub fn in_place_of(self, old: Option<&Claim>) -> Self {
        let is_proven = old.is_some_and(|old| self.continues(old) && !old.is_unproven);
        let is_unproven = self.is_running() && !is_proven;
        Claim {
            is_unproven,
            ..self
        }
    }

    /// Tells whether the claim is what `old` was already: of the same run, for the same wishes.
    pub fn continues(&self, old: &Claim) -> bool {
        (&old.state, &old.wishes) == (&self.state, &self.wishes)
    }

    /// Returns the functions that are being removed and found again, as they were before.
    pub fn away(&self) -> BTreeMap<String, Before> {
        away(self.resets.iter())
    }

    /// Returns the resets that a run has begun and not finished.
    pub fn still_away(&self) -> BTreeMap<String, Reset> {
        let away = self.resets.iter();
        let away = away.filter(|(_, reset)| matches!(reset, Reset::Away(_)));
        away.map(|(address, reset)| (address.clone(), reset.clone()))
            .collect()
    }

    /// Tells whether a function is to be with vfio-pci for the VM, and with what it had afterwards.
    pub fn binds(&self, address: &str) -> bool {
        let after = self.bindings.get(address);
        after.is_some_and(|after| self.qemu().is_none() || *after == AfterStop::Return)
    }

    /// Returns the CPUs that the VM lacks because they are offline, of which we have taken `away` some.
    pub fn offline_now(&self, online: &CpuSet, away: &CpuSet) -> CpuSet {
        match self.is_running() {
            true => self.wishes.cpus.difference(online).difference(away),
            false => CpuSet::new(),
        }
    }

    /// Tells whether the claimed CPUs are lost to others.
    pub fn owns(&self) -> bool {
        self.counts() && self.standby.is_none()
    }

    /// Tells whether anything is done for the claim: what concerns the VM alone is also done for one
    /// that stands by.
    pub fn counts(&self) -> bool {
        !matches!(self.state, ClaimState::Failed { .. })
    }

    /// Returns the name of the claim's state.
    pub fn name(&self) -> String {
        match self.standby {
            Some(_) => "standby".to_owned(),
            None => self.state.to_string(),
        }
    }

    /// Returns why a guest that runs has no CPUs of its own.
    pub fn obstacle(&self) -> Option<&str> {
        match &self.state {
            ClaimState::Failed { reason, .. } => Some(reason),
            _ => self.standby.as_ref()?.obstacle.as_deref(),
        }
    }
}

impl Wishes {
    /// Returns the wishes of a VM whose table cannot be fulfilled for now.
    pub fn none() -> Self {
        Wishes {
            reason: "nothing is isolated for now".to_owned(),
            ..Wishes::default()
        }
    }

    /// Returns the cgroups for threads below the VM's scope, each with its CPUs: `vcpu`, and
    /// `io` when other threads of the VM have owned CPUs of their own.
    pub fn groups(&self) -> Vec<(&'static str, CpuSet)> {
        let others = self.iothreads.values().chain(self.vhost.iter().flatten());
        let io: CpuSet = others
            .chain(&self.emulator)
            .flat_map(CpuSet::iter)
            .filter(|cpu| self.cpus.contains(*cpu))
            .collect();
        let mut groups = vec![("vcpu", self.cpus.difference(&io))];
        if !io.is_empty() {
            groups.push(("io", io));
        }
        groups
    }

    /// Returns every vCPU with its CPU.
    pub fn pins(&self) -> impl Iterator<Item = (usize, CpuId)> + '_ {
        self.vcpus.iter().copied().enumerate()
    }
}

/// Returns what is to be told of CPUs that VMs have lacked since `before`.
pub fn gone_offline(before: &Claims, after: &Claims) -> Vec<String> {
    let gone = after.values().filter_map(|claim| {
        let known = before.get(&claim.vmid).map(|before| &before.offline);
        let new = known.map_or(claim.offline.clone(), |known| {
            claim.offline.difference(known)
        });
        let (vmid, cpus, are) = (claim.vmid, new.in_words(), new.is_or_are());
        let text = format!(
            "vm {vmid}: {cpus} {are} offline, what was pinned there runs elsewhere for now"
        );
        (!new.is_empty()).then_some(text)
    });
    gone.collect()
}

/// Returns the CPUs that are owned by any of the claims but that of `except`.
pub fn owned_by_others(claims: &Claims, except: Vmid) -> CpuSet {
    let others = claims
        .values()
        .filter(|claim| claim.owns() && claim.vmid != except);
    others.flat_map(|claim| claim.wishes.cpus.iter()).collect()
}

impl ClaimState {
    /// Tells whether the VM is being started and has no QEMU yet.
    pub fn is_reserved(&self) -> bool {
        matches!(self, ClaimState::Reserved { .. })
    }

    /// Returns the QEMU process of the run, once there is one.
    pub fn qemu(&self) -> Option<TaskId> {
        match self {
            ClaimState::Reserved { .. } => None,
            ClaimState::Waiting { qemu }
            | ClaimState::Running { qemu }
            | ClaimState::Failed { qemu, .. } => Some(*qemu),
        }
    }
}

impl fmt::Display for ClaimState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClaimState::Reserved { .. } => "reserved",
            ClaimState::Waiting { .. } => "waiting",
            ClaimState::Running { .. } => "running",
            ClaimState::Failed { .. } => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_claim_keeps_what_only_a_start_can_choose_and_what_was_begun() {
        let (vmid, state) = (
            "100".parse().unwrap(),
            ClaimState::Reserved {
                starter: TaskId { tid: 7, start: 7 },
                deadline: Duration::ZERO,
            },
        );
        let of = |address: &str| address.to_owned();
        let away = Reset::Away(Before::default());
        let old = Claim {
            devices: BTreeMap::from([(of("0000:01:00.0"), of("10de:2204"))]),
            bindings: BTreeMap::from([
                (of("0000:01:00.0"), AfterStop::Return),
                (of("0000:02:00.0"), AfterStop::Stay),
            ]),
            resets: BTreeMap::from([
                (of("0000:01:00.0"), away.clone()),
                (of("0000:02:00.0"), Reset::Back),
            ]),
            standby: Some(Standby::default()),
            ..Claim::new(vmid, state.clone(), Wishes::none(), None)
        };
        let new = Claim::new(vmid, state, Wishes::none(), Some(&old));
        let kept = Claim {
            standby: None,
            resets: BTreeMap::from([(of("0000:01:00.0"), away)]),
            ..old
        };
        assert_eq!(new, kept);
        // Until QEMU has them, whatever becomes of them afterwards.
        assert!(["0000:01:00.0", "0000:02:00.0"].map(|one| new.binds(one)) == [true; 2]);
    }

    fn claim(vmid: u32, state: ClaimState, cpus: &str) -> Claim {
        let wishes = Wishes {
            cpus: cpus.parse().unwrap(),
            ..Wishes::none()
        };
        Claim::new(vmid.to_string().parse().unwrap(), state, wishes, None)
    }

    fn states() -> [ClaimState; 3] {
        let qemu = TaskId { tid: 5, start: 50 };
        let reason = String::new();
        [
            ClaimState::Waiting { qemu },
            ClaimState::Running { qemu },
            ClaimState::Failed { qemu, reason },
        ]
    }

    #[test]
    fn a_claim_is_unproven_until_it_has_come_to_its_end_once() {
        let [waiting, running, _] = states().map(|state| claim(100, state, "2-3"));
        let unproven = Claim {
            is_unproven: true,
            ..running.clone()
        };
        for (new, old, is_unproven) in [
            (&waiting, None, false),
            (&running, None, true),
            (&running, Some(&waiting), true),
            (&running, Some(&unproven), true),
            (&running, Some(&running), false),
        ] {
            let found = new.clone().in_place_of(old).is_unproven;
            assert_eq!(found, is_unproven, "{} after {old:?}", new.name());
        }
    }

    #[test]
    fn others_own_what_is_neither_failed_nor_for_a_backup() {
        let [waiting, running, failed] = states();
        let standby = Claim {
            standby: Some(Standby::default()),
            ..claim(103, waiting.clone(), "7")
        };
        let all = [
            claim(100, running, "2"),
            claim(101, waiting, "3"),
            claim(102, failed, "4-6"),
            standby,
        ];
        let claims = Claims::from(all.map(|claim| (claim.vmid, claim)));
        for (except, owned) in [("100", "3"), ("101", "2"), ("103", "2-3")] {
            let found = owned_by_others(&claims, except.parse().unwrap());
            assert_eq!(found.to_string(), owned, "{except}");
        }
    }

    #[test]
    fn cpus_that_have_gone_offline_are_told_once() {
        let [_, running, _] = states();
        let offline = |list: &str| {
            let claim = Claim {
                offline: list.parse().unwrap(),
                ..claim(100, running.clone(), "2-5")
            };
            Claims::from([(claim.vmid, claim)])
        };
        for (before, after, told) in [
            ("", "3", Some("cpu 3 is offline")),
            ("3", "3-4", Some("cpu 4 is offline")),
            ("3", "3", None),
            ("3", "", None),
        ] {
            let lines = gone_offline(&offline(before), &offline(after));
            assert_eq!(lines.len(), usize::from(told.is_some()), "{lines:?}");
            assert!(
                lines
                    .iter()
                    .all(|line| line.contains(told.unwrap_or_default()))
            );
        }
    }

    #[test]
    fn cpus_that_the_program_itself_has_taken_offline_do_not_count() {
        let [waiting, running, _] = states();
        let set = |list: &str| list.parse::<CpuSet>().unwrap();
        let (online, away) = (set("0-1,5"), set("2"));
        for (state, offline) in [(waiting, ""), (running, "3-4")] {
            let claim = claim(100, state, "2-5");
            assert_eq!(claim.offline_now(&online, &away), set(offline));
        }
    }

    #[test]
    fn owned_cpus_of_other_threads_are_a_group_of_their_own() {
        let wishes = |emulator: &str| Wishes {
            emulator: Some(emulator.parse().unwrap()),
            ..claim(100, states()[1].clone(), "2-5").wishes
        };
        for (emulator, expected) in [
            ("0-1", vec![("vcpu", "2-5")]),
            ("1,5", vec![("vcpu", "2-4"), ("io", "5")]),
        ] {
            let groups = wishes(emulator).groups();
            let groups: Vec<(&str, String)> = groups
                .into_iter()
                .map(|(name, cpus)| (name, cpus.to_string()))
                .collect();
            let expected: Vec<(&str, String)> = expected
                .into_iter()
                .map(|(name, cpus)| (name, cpus.to_owned()))
                .collect();
            assert_eq!(groups, expected);
        }
    }
}
