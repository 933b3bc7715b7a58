//! What a start of a VM would change: the way of pre-start and post-start up to the first write.

mod answer;
mod devices;
mod layout;
mod outlook;
pub(super) mod planned;
mod staying;

use anyhow::Context;

pub use self::answer::{Outcome, Plan};
pub use self::layout::{Layout, ThreadCpus, VcpuPlace};
use self::outlook::not_hooked;
pub use self::planned::Planned;
use crate::domain::claim::{Claim, ClaimState};
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::VmFacts;
use crate::domain::nothing::Nothing;
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::table::OnRefusal;
use crate::domain::vm::{TaskId, Vmid};
use crate::host::pve;
use crate::lifecycle::case::assess::assess;
use crate::lifecycle::case::known::{Known, known};
use crate::lifecycle::case::neighbours::{without_neighbours, yielding};
use crate::lifecycle::case::notes;
use crate::lifecycle::case::overlaps::overlaps;
use crate::lifecycle::case::resolve::{Resolved, read_case};
use crate::lifecycle::case::texts::{Case, Found};
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::journal::check_room;
use crate::lifecycle::engine::look::{is_denied, look};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::settings;
use crate::lifecycle::show::better::better;

/// Process of a VM that does not run.
const NO_PROCESS: TaskId = TaskId { tid: 0, start: 0 };

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
                        "pending changes in the vm's config are included: a start applies them";
                    plan.notices.push(text.to_owned());
                }
                plan.notices.extend(case.on_vcpus());
                let (policy, leaving) = (case.table.start.on_refusal, &case.table.yields.stop);
                if let Err(denied) = self.plan_case(&case, &mut plan) {
                    let refusal = denied.refusal()?;
                    let (why, help) = (refusal.to_string(), refusal.help(vmid));
                    let policy = match refusal.fails_by_itself() {
                        true => OnRefusal::Abort,
                        false => policy,
                    };
                    plan.refuse(&why, help, policy, self.what_runs(vmid, leaving));
                }
            }
            Ok(Found::Nothing(why)) => self.say_nothing(&mut plan, &why),
            Err(error) => plan.complain(&error, self.what_runs(vmid, &[])),
        }
        Ok(plan)
    }

    /// Says why there is nothing to do; a VM that has lost its table may still own CPUs.
    fn say_nothing(&self, plan: &mut Plan, why: &Nothing) {
        let vmid = plan.vmid;
        let state = known(self.host).ok().and_then(Known::state);
        let claim = state.and_then(|mut state| state.claims.remove(&vmid));
        plan.summary = match claim.filter(Claim::owns) {
            Some(claim) => format!(
                "{why}; it owns {} until it stops or pin-hook release {vmid}",
                claim.wishes.cpus.in_words()
            ),
            None => format!("{why}: nothing to do"),
        };
        plan.advice = Some(why.help());
        plan.outcome = match why {
            Nothing::NoTable(_) | Nothing::Misnamed { .. } | Nothing::Template(_) => {
                Outcome::Nothing
            }
            Nothing::NoVm(_) | Nothing::Elsewhere { .. } | Nothing::Container(_) => Outcome::Absent,
        };
    }

    fn plan_case(&self, case: &Case, plan: &mut Plan) -> Result<(), Denied> {
        plan.name.clone_from(&case.guest.name);
        plan.table = Some(case.table_path.clone());
        let known = self.state_now(plan)?;
        let is_hidden = known.is_none();
        let mut state = known.unwrap_or_default();
        let qemu = self.qemu_now(plan)?;
        plan.running = qemu.is_some();
        plan.yields = yielding(self.host, case, plan.running)?;
        let mut obstacles = plan.yields.iter().filter_map(|one| one.obstacle.clone());
        if let Some(obstacle) = obstacles.next() {
            return Err(Refusal::NoYield(obstacle).into());
        }
        let devices = self.plan_devices(case, &state, plan)?;
        if !plan.running {
            state = without_neighbours(state, case);
        }
        let assessment = assess(self.host, case, (!is_hidden).then_some(&state))?;
        let (resolved, around) = (&assessment.resolved, &assessment.around);
        plan.layout = Some(Layout::of(case, resolved, &state.claims, around));
        let reasons = resolved.reasons.iter();
        plan.notices
            .extend(reasons.map(|why| format!("cpus chosen: {why}")));
        plan.notices.extend(resolved.notices.iter().cloned());
        plan.warnings.extend(resolved.warnings.iter().cloned());
        plan.warnings.extend(better(
            self.host,
            case,
            &resolved.topology,
            resolved.n_doubts,
            (!is_hidden).then_some(&state),
        ));
        let (cpus, topology) = (&resolved.wishes.cpus, &resolved.topology);
        let far = devices.far(&*self.host.files, cpus, &case.guest, topology);
        plan.warnings.extend(far);
        plan.warnings.extend(not_hooked(case));
        plan.warnings
            .extend(notes::warning(self.host, case.vmid, &case.guest));
        let (resolved, warnings) = assessment.granted()?;
        plan.warnings.extend(warnings);
        let overlaps = overlaps(self.host, case, &resolved.topology).into_iter();
        let overlaps = overlaps.filter(|one| one.yields.is_none());
        plan.warnings.extend(overlaps.map(|one| one.to_string()));
        self.plan_changes(resolved, &devices, state, qemu, plan)?;
        plan.outcome = Outcome::Ready;
        plan.summarise(case.guest.is_hooked());
        if let Err(error) = check_room(&*self.host.files) {
            let (why, policy) = (format!("{error:#}"), case.table.start.on_refusal);
            let now = self.what_runs(case.vmid, &case.table.yields.stop);
            plan.refuse(&why, help_for(&error), policy, now);
        }
        let outlook = || devices.outlook(case.vmid).or_else(|| self.outlook(case));
        if !plan.running
            && let Some(outlook) = outlook()
        {
            plan.foresee(outlook);
        }
        Ok(())
    }

    /// Returns the state as it would be after a look at what is alive; none when only root may read it.
    fn state_now(&self, plan: &mut Plan) -> anyhow::Result<Option<State>> {
        let known = known(self.host)?;
        if let Known::Hidden(hidden) = &known {
            let text = format!("claims of other vms are left out: {hidden}");
            plan.left_out.push(text);
        }
        plan.warnings.extend(known.warning());
        Ok(known.state())
    }

    /// Returns the VM's QEMU, if it runs; who may not look is shown a start.
    fn qemu_now(&self, plan: &mut Plan) -> anyhow::Result<Option<TaskId>> {
        match pve::running(&*self.host.files, plan.vmid) {
            Err(error) if is_denied(&error) => {
                let vmid = plan.vmid;
                let text = format!("assuming that vm {vmid} is not running: {error:#}");
                plan.left_out.push(text);
                Ok(None)
            }
            qemu => qemu,
        }
    }

    fn plan_changes(
        &self,
        resolved: Resolved,
        devices: &Devices,
        mut state: State,
        qemu: Option<TaskId>,
        plan: &mut Plan,
    ) -> anyhow::Result<()> {
        let vmid = plan.vmid;
        let known = state.claims.get(&vmid);
        let iothreads = known.map(|claim| claim.iothreads.clone());
        let qemu = qemu.unwrap_or(NO_PROCESS);
        let claim = Claim {
            iothreads: iothreads.unwrap_or_default(),
            devices: devices.models(),
            ..Claim::new(vmid, ClaimState::Running { qemu }, resolved.wishes, known)
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
            .context("failed to find out what would change")?;
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
