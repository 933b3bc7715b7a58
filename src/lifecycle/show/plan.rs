//! What a start of a VM would change: the way of pre-start and post-start up to the first write.

mod better;
mod devices;
mod layout;
mod outlook;
mod planned;

use anyhow::Context;
use serde::Serialize;

pub use layout::{Layout, ThreadCpus, VcpuPlace};
pub use planned::Planned;

use outlook::{Now, not_hooked};

use crate::domain::claim::{Claim, ClaimState, Claims};
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::{Facts, VmFacts};
use crate::domain::nothing::Nothing;
use crate::domain::pci::outlook::Outlook;
use crate::domain::refusal::{self, Refusal};
use crate::domain::scrub::scrubbed;
use crate::domain::state::State;
use crate::domain::stuck::Stuck;
use crate::domain::table::OnRefusal;
use crate::domain::vm::{TaskId, Vmid};
use crate::domain::words::count;
use crate::host::{irq, pve};
use crate::lifecycle::case::neighbours::{Yielding, without_neighbours, yielding};
use crate::lifecycle::case::notes;
use crate::lifecycle::case::resolve::{Resolved, read_case, resolve};
use crate::lifecycle::case::texts::{Case, CaseError, Found};
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::fate::{self, Answers};
use crate::lifecycle::engine::inventory::rows::DeviceRow;
use crate::lifecycle::engine::journal::check_room;
use crate::lifecycle::engine::look::{is_denied, known_state, look};
use crate::lifecycle::engine::others::{look_around, look_at_groups};
use crate::lifecycle::engine::recover;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::settings;
use crate::lifecycle::engine::settle::fixed_irq;

/// Process of a VM that does not run.
const NO_PROCESS: TaskId = TaskId { tid: 0, start: 0 };

/// What a start of a VM would change, and why.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Which VM.
    pub vmid: Vmid,
    /// Its name.
    pub name: Option<String>,
    /// What would come of a start.
    pub outcome: Outcome,
    /// The plan in one sentence.
    pub summary: String,
    /// Why it would be refused, or what is wrong with the table.
    pub error: Option<Complaint>,
    /// What to do where there is nothing to plan.
    pub advice: Option<String>,
    /// Where the table is.
    pub table: Option<String>,
    /// Whether the VM runs, so that the plan is about now.
    pub running: bool,
    /// Where the VM's threads are to run, if the table fits the host.
    pub layout: Option<Layout>,
    /// What the operator should know.
    pub notices: Vec<String>,
    /// The same, where something will not be as wished.
    pub warnings: Vec<String>,
    /// Devices that are passed through.
    pub devices: Vec<DeviceRow>,
    /// VMs that would make room, running or not.
    pub yields: Vec<Yielding>,
    /// What cannot be seen from here and is left out.
    pub left_out: Vec<String>,
    /// What would be written, in this order.
    pub changes: Vec<Planned>,
}

/// What would come of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The VM would get its CPUs.
    Ready,
    /// There is nothing to do for this guest.
    Nothing,
    /// This node has no such VM.
    Absent,
    /// The host cannot give what the table asks for.
    Refused,
    /// PVE or QEMU would refuse the start: the VM cannot have one of its devices.
    Fails,
    /// The VM would start, and take from the host or another VM what they work with.
    Harms,
    /// The table is wrong.
    Invalid,
}

/// What is wrong and what can be done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// What is wrong, in one line.
    pub message: String,
    /// What can be done about it.
    pub help: Option<String>,
    /// File, where one is wrong.
    pub file: Option<String>,
    /// Line in that file, from 1.
    pub line: Option<usize>,
    /// Column in that line, from 1.
    pub column: Option<usize>,
    /// The place in the text, for a terminal.
    #[serde(skip)]
    pub snippet: Option<String>,
}

impl Complaint {
    /// Returns what is wrong with a table or the settings of the host.
    pub fn of(error: &CaseError) -> Self {
        let mut complaint = Complaint {
            message: error.to_string(),
            help: Some(error.help()),
            ..Complaint::default()
        };
        match error {
            CaseError::Config(error) => {
                complaint.file = Some(error.file.clone());
                complaint.line = Some(error.line);
                complaint.column = Some(error.column);
                complaint.snippet = Some(error.snippet.clone());
            }
            CaseError::Yield { path, .. } => {
                complaint.file = Some(path.clone());
            }
            CaseError::Other(_) => {}
        }
        complaint
    }
}

impl Run<'_> {
    /// Returns what a start of a VM would change, and changes nothing.
    pub fn plan(&self, vmid: Vmid) -> anyhow::Result<Plan> {
        let mut plan = Plan::new(vmid);
        match read_case(self.host, vmid, &self.caller.migrated_from) {
            Ok(Found::Case(case)) => {
                let guest = case.guest.clone();
                let case = self.as_it_starts(*case);
                if case.guest != guest {
                    let text =
                        "changes that are pending in the vm's config count: a start applies them";
                    plan.notices.push(text.to_owned());
                }
                let policy = case.table.start.on_refusal;
                if let Err(refusal) = self.plan_case(&case, &mut plan)? {
                    let (why, help) = (refusal.to_string(), refusal.help(vmid));
                    plan.refuse(&why, help, policy, self.what_runs(vmid));
                }
            }
            Ok(Found::Nothing(why)) => {
                plan.summary = format!("{why}: nothing to do");
                plan.advice = Some(why.help());
                plan.outcome = match why {
                    Nothing::NoTable(_) | Nothing::Misnamed { .. } | Nothing::Template(_) => {
                        Outcome::Nothing
                    }
                    Nothing::NoVm(_) | Nothing::Elsewhere { .. } | Nothing::Container(_) => {
                        Outcome::Absent
                    }
                };
            }
            Err(error) => plan.complain(&error, self.what_runs(vmid)),
        }
        Ok(plan)
    }

    fn plan_case(&self, case: &Case, plan: &mut Plan) -> anyhow::Result<Result<(), Refusal>> {
        plan.name.clone_from(&case.guest.name);
        plan.table = Some(case.table_path.clone());
        let mut state = self.state_now(plan)?;
        let qemu = self.qemu_now(plan)?;
        plan.running = qemu.is_some();
        plan.yields = yielding(self.host, case, plan.running)?;
        let mut obstacles = plan.yields.iter().filter_map(|one| one.obstacle.clone());
        if let Some(obstacle) = obstacles.next() {
            return Ok(Err(Refusal::NoYield(obstacle)));
        }
        let devices = match self.plan_devices(case, plan) {
            Ok(devices) => devices,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !plan.running {
            state = without_neighbours(state, case);
        }
        let resolved = match resolve(self.host, case, &state)? {
            Ok(resolved) => resolved,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut around = look_around(self.host, &case.settings, &case.table);
        look_at_groups(self.host, &state, &mut around);
        let Resolved {
            wishes, topology, ..
        } = &resolved;
        plan.layout = Some(Layout::of(case, &resolved, &state.claims, &around));
        let reasons = resolved.reasons.iter();
        plan.notices
            .extend(reasons.map(|why| format!("cpus chosen: {why}")));
        plan.notices.extend(resolved.notices.iter().cloned());
        plan.warnings.extend(resolved.warnings.iter().cloned());
        plan.warnings.extend(self.better(case, &resolved, &state));
        plan.tell_far(self, &devices, case, &resolved);
        plan.warnings.extend(not_hooked(case));
        plan.warnings
            .extend(notes::warning(self.host, case.vmid, &case.guest));
        match refusal::check(case.vmid, wishes, &state.claims, topology, &around) {
            Ok(warnings) => plan.warnings.extend(warnings),
            Err(refusal) => return Ok(Err(refusal)),
        }
        self.plan_changes(resolved, state, qemu, plan)?;
        plan.outcome = Outcome::Ready;
        plan.summarise();
        if let Err(error) = check_room(&*self.host.files) {
            let (why, policy) = (format!("{error:#}"), case.table.start.on_refusal);
            plan.refuse(&why, help_for(&error), policy, self.what_runs(case.vmid));
        }
        let outlook = || devices.outlook(case.vmid).or_else(|| self.outlook(case));
        if !plan.running
            && let Some(outlook) = outlook()
        {
            plan.foresee(outlook);
        }
        Ok(Ok(()))
    }

    /// Returns the state as it would be after a look at what is alive.
    fn state_now(&self, plan: &mut Plan) -> anyhow::Result<State> {
        let mut state = match known_state(self.host)? {
            Ok(state) => state,
            Err(hidden) => {
                let text = format!("claims of other vms are left out: {hidden}");
                plan.left_out.push(text);
                return Ok(State::default());
            }
        };
        if recover::foresee(self.host, &mut state)? {
            let text =
                "the state is lost, and a run takes in hand again what the host shows to be held";
            plan.warnings.push(text.to_owned());
        }
        let updates = fate::updates(self.host, &state, &Answers::default())?;
        updates.into_iter().for_each(|record| state.apply(record));
        Ok(state)
    }

    /// Returns the VM's QEMU, if it runs; who may not look is shown a start.
    fn qemu_now(&self, plan: &mut Plan) -> anyhow::Result<Option<TaskId>> {
        match pve::running(&*self.host.files, plan.vmid) {
            Err(error) if is_denied(&error) => {
                let vmid = plan.vmid;
                let text = format!("vm {vmid} is taken as not running: {error:#}");
                plan.left_out.push(text);
                Ok(None)
            }
            qemu => qemu,
        }
    }

    fn plan_changes(
        &self,
        resolved: Resolved,
        mut state: State,
        qemu: Option<TaskId>,
        plan: &mut Plan,
    ) -> anyhow::Result<()> {
        let vmid = plan.vmid;
        let known = state.claims.get(&vmid);
        let iothreads = known.map(|claim| claim.iothreads.clone());
        let qemu = qemu.unwrap_or(NO_PROCESS);
        let claim = Claim {
            vmid,
            state: ClaimState::Running { qemu },
            iothreads: iothreads.unwrap_or_default(),
            devices: plan.taken(),
            wishes: resolved.wishes,
            resets: Default::default(),
            bindings: Default::default(),
            offline: Default::default(),
            is_unproven: false,
            standby: None,
            ending: None,
            stopper: None,
        };
        plan.warnings
            .extend(settings::remarks(self.host, claim.wishes.tuning()));
        plan.notices
            .extend(settings::companions(self.host, claim.wishes.tuning()));
        state.claims.insert(vmid, claim);
        plan.notices
            .extend(settings::contested(self.host, &state.claims, vmid));
        let claims = state.claims.clone();
        let assumed = VmFacts {
            effective: None,
            nodes: CpuSet::new(),
            qemu,
            scope: format!("qemu.slice/{vmid}.scope"),
            threads: Vec::new(),
        };
        let seen = look(self.host, state, [(vmid, assumed)])
            .context("failed to look at what would change")?;
        plan.notices
            .extend(self.what_stays(&claims, vmid, &seen.facts));
        plan.left_out.extend(seen.left_out);
        let changes = seen.diff.changes.into_iter();
        plan.changes = changes
            .map(|change| Planned::of(change, &seen.facts))
            .collect();
        plan.changes
            .sort_by_key(|planned| planned.change.target.stage());
        Ok(())
    }
}

impl Run<'_> {
    /// Returns what is to be told of the owned CPUs of a VM: what the kernel leaves on them, and how
    /// they are cleared of the rest.
    fn what_stays(&self, claims: &Claims, vmid: Vmid, facts: &Facts) -> Vec<String> {
        let owned = claims.get(&vmid).map(|claim| claim.wishes.cpus.clone());
        let owned = owned.unwrap_or_default();
        let bound = facts.kernel_threads.iter();
        let bound = bound.filter(|thread| thread.bound && !thread.affinity.is_disjoint(&owned));
        let mut notices = Vec::new();
        let n = bound.count();
        if n > 0 {
            let text = "kernel threads that are bound to owned cpus stay there";
            notices.push(format!("{text}: {n}"));
        }
        let cleared = scrubbed(claims, &[vmid], facts);
        if !cleared.is_empty() {
            let cpus = cleared.in_words();
            let text = format!("{cpus} are taken offline and back before they are isolated");
            notices.push(text);
        }
        notices.extend(self.stuck(facts, &owned));
        notices
    }

    /// Returns what is to be told of interrupts on `owned` that the kernel lets nobody move, where
    /// it shows that (Linux 6.11 and later take the permission to write from their files).
    fn stuck(&self, facts: &Facts, owned: &CpuSet) -> Vec<String> {
        let files = &*self.host.files;
        let fixed = facts
            .irqs
            .iter()
            .filter(|irq| !irq.affinity.is_disjoint(owned) && irq::is_fixed(files, irq.number));
        let irqs = fixed.map(|irq| fixed_irq(files, (irq.number, &irq.actions), owned));
        let stuck = Stuck::by_device(irqs);
        stuck.iter().map(Stuck::to_string).collect()
    }
}

impl Plan {
    fn new(vmid: Vmid) -> Self {
        Plan {
            vmid,
            name: None,
            outcome: Outcome::Nothing,
            summary: String::new(),
            error: None,
            advice: None,
            table: None,
            running: false,
            layout: None,
            notices: Vec::new(),
            warnings: Vec::new(),
            devices: Vec::new(),
            yields: Vec::new(),
            left_out: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn summarise(&mut self) {
        let (vmid, n) = (self.vmid, self.changes.len());
        let Some(layout) = &self.layout else { return };
        let gives = format!("gives vm {vmid} {}", layout.cpus.in_words());
        let changes = count(n, "change");
        self.summary = match (self.running, n) {
            (true, 0) => format!("vm {vmid} runs as planned, nothing would change"),
            (true, _) => format!("pin-hook apply {vmid} {gives} by {changes}"),
            (false, 0) => format!("a start pins the vcpus of vm {vmid} and changes nothing else"),
            (false, _) => {
                let rest = "and pinned threads, put back when it stops";
                format!("a start {gives} by {changes} {rest}")
            }
        };
    }

    fn refuse(&mut self, why: &str, help: String, policy: OnRefusal, now: Now) {
        let vmid = self.vmid;
        self.outcome = Outcome::Refused;
        self.error = Some(Complaint {
            message: format!("vm {vmid}: {why}"),
            help: Some(help),
            ..Complaint::default()
        });
        self.summary = now.refused(vmid, policy);
    }

    /// Says what would come of a start although its CPUs are there.
    fn foresee(&mut self, outlook: Outlook) {
        self.outcome = match outlook.fails {
            true => Outcome::Fails,
            false => Outcome::Harms,
        };
        // The reason is told once, as the error.
        self.warnings
            .retain(|text| !text.starts_with(&outlook.reason));
        self.error = Some(Complaint {
            message: format!("vm {}: {}", self.vmid, outlook.reason),
            help: Some(outlook.help),
            ..Complaint::default()
        });
        self.summary = outlook.summary;
    }

    fn complain(&mut self, error: &CaseError, now: Now) {
        self.outcome = match error {
            CaseError::Other(_) => Outcome::Refused,
            _ => Outcome::Invalid,
        };
        self.error = Some(Complaint::of(error));
        self.summary = now.refused(self.vmid, OnRefusal::Auto);
    }
}
