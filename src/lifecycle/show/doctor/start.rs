//! What is in the way of a start at this moment, whatever the table says by itself: the same that a plan
//! comes to, in the same order.

use crate::domain::advice::Advised;
use crate::domain::others::Surroundings;
use crate::domain::pci::binding::lent;
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::vm::Vmid;
use crate::host::{Host, pve};
use crate::lifecycle::case::assess::Prospect;
use crate::lifecycle::case::config::{locked, memory};
use crate::lifecycle::case::ground::Ground;
use crate::lifecycle::case::neighbours::{without_neighbours, yielding};
use crate::lifecycle::case::nothing::next_guest;
use crate::lifecycle::case::resolve::read_case;
use crate::lifecycle::case::texts::{Case, Found};
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::journal::check_room;
use crate::lifecycle::show::lint::Bench;
use crate::lifecycle::start::preparing::wanted;

/// Why a VM would not start with CPUs of its own.
pub(super) struct Obstacle {
    /// What is in the way, and what can be done about it.
    pub advice: Advised,
    /// VM that has the CPUs, where that is why.
    pub owner: Option<Vmid>,
}

impl From<Advised> for Obstacle {
    fn from(advice: Advised) -> Self {
        Obstacle {
            advice,
            owner: None,
        }
    }
}

/// Returns why a VM that does not run would not start with CPUs of its own now; `state` is what the program
/// remembers, `None` where that is hidden.
pub(super) fn in_the_way(
    bench: &Bench,
    host: &Host,
    vmid: Vmid,
    state: Option<&State>,
) -> Option<Obstacle> {
    let ground = bench.ground.as_ref().ok()?;
    if !matches!(pve::running(&*host.files, vmid), Ok(None)) {
        return None;
    }
    let case = match read_case(host, vmid, "") {
        Ok(Found::Case(case)) => *case,
        Ok(Found::Nothing(_)) => return None,
        Err(error) => return Some(Advised::new(error.to_string(), error.help()).into()),
    };
    let guest = next_guest(&*host.files, vmid, "")?;
    let case = Case { guest, ..case };
    if let Err(denied) = granted((ground, &bench.others), host, &case, state) {
        return Some(Obstacle {
            advice: Advised::new(denied.to_string(), denied.help(vmid)),
            owner: match denied {
                Denied::Refused(refusal) => refusal.owner(),
                Denied::Failed(_) => None,
            },
        });
    }
    let outlook = locked(vmid, &case.guest);
    if let Some(outlook) = outlook.or_else(|| memory(&ground.topology, vmid, &case.guest)) {
        return Some(Advised::new(outlook.reason, outlook.help).into());
    }
    let full = check_room(&*host.files).err()?;
    Some(Advised::new(format!("{full:#}"), help_for(&full)).into())
}

/// # Errors
/// Why the VM would not get what its table says.
fn granted(
    known: (&Ground, &Surroundings),
    host: &Host,
    case: &Case,
    state: Option<&State>,
) -> Result<(), Denied> {
    let yields = yielding(host, case, false)?;
    if let Some(obstacle) = yields.into_iter().find_map(|one| one.obstacle) {
        return Err(Refusal::NoYield(obstacle).into());
    }
    let devices = Devices::read(host, case.vmid, &case.guest, &case.table.yields.stop);
    if devices.can_be_judged(&case.guest) {
        let lent = state.map(lent).unwrap_or_default();
        wanted(host, &case.table, &devices, &lent)?;
    }
    let state = state.map(|state| without_neighbours(state.clone(), case));
    let prospect = Prospect::on(known, host, case, state.as_ref())?;
    prospect.assess(host, case, state.as_ref()).granted()?;
    Ok(())
}
