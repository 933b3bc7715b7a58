//! `report`: everything that is shown of a host, each part by itself: one that fails leaves the others.

use std::collections::BTreeSet;

use super::doctor::{Diagnosis, examine};
use super::plan::Plan;
use super::plan::planned::object_of;
use super::status::{Status, status};
use super::topology::topology;
use crate::domain::clean::version;
use crate::domain::map::Map;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::pve::TextFile;
use crate::host::surroundings::release;
use crate::host::table::{read_host_table, read_table, tables};
use crate::lifecycle::engine::look::{known_state, look};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::measuring::saved::Kept;

/// Packages whose versions are told, in the words of people.
const PACKAGES: [(&str, &str); 5] = [
    ("PVE", "pve-manager"),
    ("QEMU", "pve-qemu-kvm"),
    ("QEMU", "qemu-system-x86"),
    ("qemu-server", "qemu-server"),
    ("systemd", "systemd"),
];

/// Everything that is shown of a host.
#[derive(Debug)]
pub struct Report {
    /// What is installed and runs, with its version.
    pub versions: Vec<(&'static str, String)>,
    /// Which CPUs share what, and who owns which.
    pub map: anyhow::Result<Map>,
    /// What is wrong with the host and its VMs.
    pub diagnosis: anyhow::Result<Diagnosis>,
    /// What VMs own.
    pub status: anyhow::Result<Status>,
    /// What was changed on the host.
    pub changed: anyhow::Result<Vec<Changed>>,
    /// The settings of the host as they are written.
    pub settings: anyhow::Result<Option<TextFile>>,
    /// Measurements that were kept.
    pub kept: Kept,
    /// Each VM that has a table, owns CPUs, or that PVE calls pin-hook for.
    pub vms: Vec<VmReport>,
}

/// What is shown of one VM alone.
#[derive(Debug)]
pub struct VmReport {
    /// Which VM.
    pub vmid: Vmid,
    /// Its table as it is written.
    pub table: anyhow::Result<Option<TextFile>>,
    /// What a start would change.
    pub plan: anyhow::Result<Plan>,
}

/// Something on the host that has another value than it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What that is good for.
    pub purpose: &'static str,
    /// What was changed.
    pub target: String,
    /// Name of the thread or of what an interrupt is for.
    pub object: Option<String>,
    /// Value that it had.
    pub baseline: Option<String>,
    /// Value that it was given.
    pub ours: Option<String>,
    /// Value that it has.
    pub actual: Option<String>,
    /// Whether the kernel refuses every change.
    pub is_fixed: bool,
}

impl Run<'_> {
    /// Returns everything that is shown of the host, and changes nothing.
    pub fn report(&self) -> Report {
        let host = self.host;
        let map = topology(host);
        let diagnosis = examine(host, None);
        let status = status(host, None);
        let mut vmids = tables(&*host.files).unwrap_or_default();
        let patients = diagnosis.iter().flat_map(|one| &one.patients);
        vmids.extend(patients.filter_map(|one| one.vmid));
        let claims = status.iter().flat_map(|one| &one.claims);
        vmids.extend(claims.map(|one| one.vmid));
        Report {
            versions: versions(host),
            map,
            diagnosis,
            changed: changed(host),
            status,
            settings: read_host_table(&*host.files),
            kept: Kept::read(&*host.files),
            vms: self.vms(vmids),
        }
    }

    fn vms(&self, vmids: BTreeSet<Vmid>) -> Vec<VmReport> {
        let vms = vmids.into_iter().map(|vmid| VmReport {
            vmid,
            table: read_table(&*self.host.files, vmid),
            plan: self.plan(vmid),
        });
        vms.collect()
    }
}

fn versions(host: &Host) -> Vec<(&'static str, String)> {
    let status = host.files.read("/var/lib/dpkg/status").unwrap_or_default();
    let mut versions = vec![("pin-hook", env!("CARGO_PKG_VERSION").to_owned())];
    let kernel = release(&*host.files).ok();
    versions.extend(kernel.map(|kernel| ("kernel", kernel)));
    let packages = PACKAGES.into_iter();
    versions.extend(
        packages.filter_map(|(name, package)| Some((name, version(&status, package)?.to_owned()))),
    );
    versions
}

/// Returns what has another value than it had, in the order of the targets.
fn changed(host: &Host) -> anyhow::Result<Vec<Changed>> {
    let state = known_state(host)?;
    let seen = look(host, state.clone(), [])?;
    let held = state.held.iter();
    let held = held.filter(|(_, held)| held.ours != held.baseline);
    let changed = held.map(|(target, held)| Changed {
        purpose: target.purpose(),
        target: target.to_string(),
        object: object_of(target, &seen.facts).filter(|name| !name.is_empty()),
        baseline: held.baseline.shown(),
        ours: held.ours.shown(),
        actual: seen.live.get(target).and_then(|live| live.shown()),
        is_fixed: held.unchangeable,
    });
    Ok(changed.collect())
}
