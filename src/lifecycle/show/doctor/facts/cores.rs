//! What the doctor judges of the cores of a VM: those that its table names, and what the guest knows of them.

use crate::domain::advice::Advised;
use crate::domain::guest::Guest;
use crate::domain::placement::{Choice, Packing, Placement, doubts};
use crate::domain::proposal::{fit, lacks_topoext};
use crate::domain::state::State;
use crate::domain::table::Cpus;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::table::read_table;
use crate::host::topology::is_amd;
use crate::lifecycle::case::texts::{Case, understand};
use crate::lifecycle::show::better::better;
use crate::lifecycle::show::lint::Bench;

/// What is to be said of the cores of a VM.
#[derive(Debug, Default)]
pub(super) struct Cores {
    /// What is to be said of the CPUs that its table names.
    pub(super) doubts: Vec<String>,
    /// CPUs that leave less to be said, in words.
    pub(super) better: Option<String>,
    /// What the guest does not know.
    pub(super) guest_smt: Option<Advised>,
}

/// Returns what is to be said of the cores of a VM; nothing where its table leaves the choice to the start, or
/// cannot be granted.
pub(super) fn cores(
    bench: &Bench,
    host: &Host,
    vmid: Vmid,
    guest: &Guest,
    state: Option<&State>,
) -> Cores {
    written(bench, host, vmid, guest, state).unwrap_or_default()
}

fn written(
    bench: &Bench,
    host: &Host,
    vmid: Vmid,
    guest: &Guest,
    state: Option<&State>,
) -> Option<Cores> {
    let (settings, ground) = (bench.settings.as_ref().ok()?, bench.ground.as_ref().ok()?);
    let file = read_table(&*host.files, vmid).ok()??;
    let case = Case {
        vmid,
        guest: guest.clone(),
        surplus_vcpus: None,
        table: understand(host, &file, settings).ok()?,
        table_path: file.path,
        settings: settings.clone(),
    };
    let Cpus::Set(cpus) = &case.table.cpus else {
        return None;
    };
    let (asking, topology) = (case.asking(), &ground.topology);
    let request = asking.request(cpus.clone(), &Default::default(), topology);
    let placement = ground.fit(&asking, &request).ok()?.placement;
    let doubts = asking.doubts_of_written(&placement, topology);
    Some(Cores {
        better: better(host, &case, topology, doubts.len(), state),
        doubts: doubts.into_iter().map(|remark| remark.text).collect(),
        guest_smt: unknown(host, &case, &placement, bench),
    })
}

/// Returns what the guest does not know of its cores, and what tells it.
fn unknown(host: &Host, case: &Case, placement: &Placement, bench: &Bench) -> Option<Advised> {
    let topology = &bench.ground.as_ref().ok()?.topology;
    let (guest, is_amd) = (&case.guest, is_amd(&*host.files));
    let fact = match doubts::of_smt(guest, placement, topology) {
        Some(fact) => fact.to_owned(),
        None if guest.smt > 1 && is_amd && lacks_topoext(guest) => {
            let smt = guest.smt;
            format!("args give the guest threads={smt}, which it does not see without topoext")
        }
        None => return None,
    };
    let choice = Choice {
        cpus: placement.vcpus.iter().copied().collect(),
        idle: placement.idle.clone(),
        packing: Packing::Siblings,
    };
    let lines = fit(guest, &choice, topology, is_amd).tells_smt(case.vmid, guest);
    let help = match lines.is_empty() {
        true => "smt = \"idle-sibling\" in the table of the vm, with a cpu of another core for each vcpu"
            .to_owned(),
        false => lines.join("; "),
    };
    Some(Advised { fact, help })
}
