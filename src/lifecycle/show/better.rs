//! A better line for a table that names its CPUs, where one is known.

use crate::domain::claim::Claims;
use crate::domain::cpuset::CpuSet;
use crate::domain::placement::{Request, doubts, homes, place};
use crate::domain::state::State;
use crate::domain::table::Cpus;
use crate::domain::topology::Topology;
use crate::host::Host;
use crate::lifecycle::case::room::{Room, RoomRequest};
use crate::lifecycle::case::texts::Case;

/// Returns what to write instead, if the CPUs that would be chosen now leave less to be said than the
/// `n_doubts` of those of the table.
pub(super) fn better(
    host: &Host,
    case: &Case,
    topology: &Topology,
    n_doubts: usize,
    state: Option<&State>,
) -> Option<String> {
    let guest = &case.guest;
    if case.table.cpus == Cpus::Auto || n_doubts == 0 {
        return None;
    }
    let settings = &case.settings;
    let room = Room::read(host, case.vmid, guest, settings, topology, state).ok()?;
    let nobody = Claims::new();
    let claims = state.map_or(&nobody, |state| &state.claims);
    let asked = RoomRequest {
        also: CpuSet::new(),
        ..RoomRequest::with_table(guest, &case.table)
    };
    let search = room.search(&asked, claims, topology);
    let choice = room.choose(&search, claims).ok()?;
    let n_vcpus = guest.n_vcpus as usize;
    let request = Request {
        cpus: choice.cpus.clone(),
        also: choice.idle.clone(),
        n_vcpus,
        max_vcpus: guest.max_vcpus as usize,
        guest_smt: guest.smt as usize,
        homes: homes(guest),
        ..Request::default()
    };
    let placement = place(&request, topology).ok()?;
    let left = doubts::of_written(&placement, n_vcpus, guest.memory_mib, topology);
    if left.len() >= n_doubts {
        return None;
    }
    let also = match choice.idle.is_empty() {
        true => String::new(),
        false => format!(" and isolate.also = \"{}\"", choice.idle),
    };
    let (cpus, vmid) = (&choice.cpus, case.vmid);
    Some(format!(
        "better cpus are free: cpus = \"{cpus}\"{also} (pin-hook init {vmid} says why)"
    ))
}
