//! Whether the table of a VM can be granted: the one place where that is worked out, in one order,
//! for a start as for those who only show.

use super::ground::{Asking, Ground};
use super::resolve::{Resolved, resolve, resolve_on};
use super::texts::Case;
use crate::domain::admission;
use crate::domain::claim::{Claims, Wishes};
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::has_partition;
use crate::domain::others::Surroundings;
use crate::domain::placement::Remark;
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::table::Cpus;
use crate::domain::vm::Vmid;
use crate::host::{Host, cgroup, pve, task};
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::look::known_state;
use crate::lifecycle::engine::observe::scope_in;
use crate::lifecycle::engine::others::{look_around, look_at_groups, without_yielding};
use crate::lifecycle::engine::recover;

/// What is looked at before it is known what others own: that takes its time, so it is done
/// without the host lock.
#[derive(Debug)]
pub struct Prospect {
    /// What the VM is to own.
    pub resolved: Resolved,
    around: Surroundings,
}

/// What comes of a table.
#[derive(Debug)]
pub struct Assessment {
    /// What the VM is to own.
    pub resolved: Resolved,
    /// What others have of the CPUs.
    pub around: Surroundings,
    /// What the operator should know if it is granted, or why it is not.
    verdict: Result<Vec<String>, Refusal>,
}

/// Finds out whether a table can be granted beside what `state` says; `None` when that is hidden.
///
/// # Errors
/// The host cannot be read, or does not have what the table asks for.
pub fn assess(host: &Host, case: &Case, state: Option<&State>) -> Result<Assessment, Denied> {
    let prospect = Prospect::of(host, case, state)?;
    Ok(prospect.assess(host, case, state))
}

/// Returns why a table cannot be granted beside what `state` says.
pub fn denied(host: &Host, case: &Case, state: &State) -> Option<Denied> {
    let assessment = assess(host, case, Some(state));
    assessment.and_then(|one| Ok(one.granted()?)).err()
}

/// Finds out whether a table can be granted, as far as it does not depend on what other VMs own;
/// returns what the operator should know nevertheless.
///
/// Where it leaves the choice of CPUs to the start, only what they do not matter for is looked at.
///
/// # Errors
/// The first reason why not.
pub fn assess_alone(
    ground: &Ground,
    asking: &Asking<'_>,
    around: &Surroundings,
) -> Result<Vec<Remark>, Refusal> {
    let (table, topology) = (asking.table, &ground.topology);
    let Cpus::Set(cpus) = &table.cpus else {
        ground.fit_any(table)?;
        return Ok(Vec::new());
    };
    let request = asking.request(cpus.clone(), &CpuSet::new(), topology);
    let fit = ground.fit(asking, &request)?;
    let placement = &fit.placement;
    let notices = placement.notices.iter();
    let notices = notices.filter(|notice| notice.is_warning());
    let notices = notices.map(|notice| Remark::warning(notice.to_string()));
    let mut warnings: Vec<Remark> = notices.collect();
    warnings.extend(asking.doubts_of_written(placement, topology));
    warnings.extend(asking.doubts_of_guest(placement, topology));
    let share = table.share(asking.vmid, placement.owned(), fit.choice.backend);
    let others = admission::check(&share, &Claims::new(), topology, around)?;
    warnings.extend(others.into_iter().map(Remark::warning));
    Ok(warnings)
}

/// Adds what cgroups say to what the files say of others, for [`assess_alone`]; returns why what VMs own cannot
/// be seen.
pub fn around_alone(
    host: &Host,
    mut around: Surroundings,
) -> (Surroundings, Option<anyhow::Error>) {
    let known = known_state(host).map(|mut state| {
        // What the next run takes in hand again is nobody else's.
        let _ = recover::foresee(host, &mut state);
        state
    });
    look_at_groups(host, known.as_ref().ok(), &mut around);
    (around, known.err())
}

impl Prospect {
    /// Resolves the table of a case next to `state`, where that is known, and looks around.
    ///
    /// # Errors
    /// The host cannot be read, or does not have what the table asks for.
    pub fn of(host: &Host, case: &Case, state: Option<&State>) -> Result<Self, Denied> {
        Ok(Prospect {
            resolved: resolve(host, case, state)?,
            around: look_around(host, &case.settings, &case.table),
        })
    }

    /// Does the same with what was looked at before: the ground, and what the files say of others.
    ///
    /// # Errors
    /// The host does not have what the table asks for.
    pub fn on(
        (ground, around): (&Ground, &Surroundings),
        host: &Host,
        case: &Case,
        state: Option<&State>,
    ) -> Result<Self, Denied> {
        Ok(Prospect {
            resolved: resolve_on(ground.clone(), host, case, state)?,
            around: without_yielding(around.clone(), &case.table),
        })
    }

    /// Resolves the table again next to `claims`: see [`Resolved::among`].
    ///
    /// # Errors
    /// There is no room any more.
    pub fn among(self, case: &Case, claims: &Claims) -> Result<Self, Refusal> {
        let resolved = self.resolved.among(case, claims)?;
        Ok(Prospect { resolved, ..self })
    }

    /// Finds out whether others leave the VM what it is to own, beside what `state` says.
    pub fn assess(mut self, host: &Host, case: &Case, state: Option<&State>) -> Assessment {
        look_at_groups(host, state, &mut self.around);
        let Prospect { resolved, around } = self;
        let nobody = Claims::new();
        let claims = state.map_or(&nobody, |state| &state.claims);
        let share = resolved.wishes.share(case.vmid);
        let verdict = match moved_away(host, case.vmid, &resolved.wishes) {
            Some(elsewhere) => Err(elsewhere),
            None => admission::check(&share, claims, &resolved.topology, &around),
        };
        Assessment {
            resolved,
            around,
            verdict,
        }
    }
}

impl Assessment {
    /// Returns what the VM is to own, and what the operator should know nevertheless.
    ///
    /// # Errors
    /// Others do not leave it that.
    pub fn granted(self) -> Result<(Resolved, Vec<String>), Refusal> {
        let warnings = self.verdict?;
        Ok((self.resolved, warnings))
    }
}

/// Tells where the QEMU of a VM is that needs a partition and is not in its scope.
fn moved_away(host: &Host, vmid: Vmid, wishes: &Wishes) -> Option<Refusal> {
    let files = &*host.files;
    let process = pve::running(files, vmid).ok()??.tid;
    let group = task::cgroup_of(files, process, process).ok()?;
    let scope = cgroup::scope_of(vmid);
    let is_there = scope_in(&group) == scope;
    (has_partition(wishes) && !is_there).then_some(Refusal::Elsewhere {
        process,
        scope,
        group,
    })
}
