//! Reading what the doctor judges.

mod at_boot;
mod beside;
mod cores;

use self::at_boot::at_boot;
use self::beside::{asks_without_idle, controllers, lacks_elsewhere, passed, virtuals};
use self::cores::{Cores, cores};
use super::start::in_the_way;
use crate::domain::advice::Advised;
use crate::domain::check::{GuestOfHost, HostFacts, Owning, VmFacts};
use crate::domain::guest::Guest;
use crate::domain::placement::{Remark, Topic, owned_by_table};
use crate::domain::state::State;
use crate::domain::table::{HostSettings, Table};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::health::BOOT_UNIT;
use crate::host::table::{hidden_table, path_of_table, read_table, unread_files};
use crate::host::topology::read_topology;
use crate::host::units::masked;
use crate::host::{Host, cluster, health, pve, surroundings, upbringing};
use crate::lifecycle::case::ground::Ground;
use crate::lifecycle::case::nothing::{look_up, next_guest};
use crate::lifecycle::case::texts::understand;
use crate::lifecycle::engine::inventory::{Devices, Judged};
use crate::lifecycle::engine::units::masks;
use crate::lifecycle::hooking::snippet;
use crate::lifecycle::show::complaint::Complaint;
use crate::lifecycle::show::gone::Gone;
use crate::lifecycle::show::lint::{Bench, Lint, lint_of};
use crate::lifecycle::show::orphans::all_unused;

/// Returns what the doctor judges of the host, on which VMs in `gone` run without a config.
///
/// # Errors
/// Its CPUs cannot be read: it is no host then.
pub(super) fn host_facts(bench: &Bench, host: &Host, gone: &[Gone]) -> anyhow::Result<HostFacts> {
    let files = &*host.files;
    let topology = read_topology(files)?;
    let settings = bench.settings.as_ref();
    let settings_fault = settings.err().cloned().map(told);
    let own = pve::node_name(files).unwrap_or_default();
    let command_line = health::command_line(files);
    let guests = guests(
        host,
        settings.unwrap_or(&HostSettings::default()),
        &topology,
    );
    let passed = passed(files, &guests, &own);
    Ok(HostFacts {
        at_boot: at_boot(files, &guests, &passed),
        choice: bench.ground.as_ref().ok().map(Ground::best),
        controllers: health::controllers(files),
        has_systemd: files
            .exists("/run")
            .then(|| surroundings::features(files).systemd_bus),
        next_boot: health::next_boot(files, &command_line),
        sets_virtuals: beside::has_virtuals(files)
            .then(|| upbringing::sets_virtuals(files, &command_line))
            .flatten(),
        command_line,
        vendor: health::vendor(files),
        services: health::services(files),
        ksm: health::ksm(files),
        transparent_hugepages: health::transparent_hugepages(files),
        hugepages: health::hugepages(files, &topology),
        memory: health::memory(files),
        policies: health::policies(files),
        may_boost: health::may_boost(files),
        n_iommu_groups: health::n_iommu_groups(files),
        boot_unit: health::boot_unit(files),
        masked: masked(files, BOOT_UNIT)
            .into_iter()
            .chain(masks(host))
            .collect(),
        strays: unread_files(files)
            .into_iter()
            .chain(all_unused(files, gone))
            .collect(),
        gone: gone
            .iter()
            .map(|one| Advised::new(one.to_string(), &one.help))
            .collect(),
        settings_fault,
        passed,
        guests,
        iommu_messages: upbringing::iommu_messages(files),
        initramfs: upbringing::initramfs(files),
        qemu_server: upbringing::qemu_server(files),
        deepest_idle: upbringing::deepest_idle(files),
        mtus: upbringing::mtus(files),
        storages: upbringing::storages(files),
        topology,
    })
}

fn guests(host: &Host, settings: &HostSettings, topology: &Topology) -> Vec<GuestOfHost> {
    let files = &*host.files;
    let vmids = pve::vms_of_node(files).unwrap_or_default().into_iter();
    let guests = vmids.filter_map(|vmid| {
        let guest = next_guest(files, vmid, "")?;
        let file = read_table(files, vmid).ok().flatten();
        let table = file.and_then(|file| understand(host, &file, settings).ok());
        let table = table.as_ref();
        let cpus = table.and_then(|table| owned_by_table(table, topology));
        Some(GuestOfHost {
            vmid,
            guest,
            runs: pve::running(files, vmid).is_ok_and(|qemu| qemu.is_some()),
            is_started_by_ha: cluster::is_started_by_ha(files, vmid),
            // One that cannot be read is meant as well.
            has_table: path_of_table(files, vmid).is_some(),
            cpus: cpus.unwrap_or_default(),
            stops: table.map_or_else(Vec::new, |table| table.yields.stop.clone()),
        })
    });
    guests.collect()
}

/// Returns the VMs that are meant to own CPUs: those with a table, and those that PVE calls pin-hook for.
pub(super) fn of_interest(facts: &HostFacts) -> Vec<Vmid> {
    let guests = facts.guests.iter();
    let meant = guests.filter(|one| one.has_table || one.guest.is_hooked());
    meant.map(|one| one.vmid).collect()
}

/// Returns what the doctor judges of a VM beside what is remembered; nothing of one without a config.
pub(super) fn vm_facts(
    bench: &Bench,
    host: &Host,
    vmid: Vmid,
    state: Option<&State>,
) -> Option<VmFacts> {
    let files = &*host.files;
    let own = pve::node_name(files).unwrap_or_default();
    let conf = look_up(files, vmid, "").ok()?.vm().ok()?.conf;
    let guest = conf.guest_of_next_start();
    let devices = Devices::read(host, vmid, &guest, &[]);
    let (device_faults, of_devices) = judged(&devices, vmid);
    let table = path_of_table(files, vmid);
    let Cores {
        doubts,
        better,
        guest_smt,
    } = cores(bench, host, vmid, &guest, state);
    let held = held_against_host(bench, host, vmid);
    let said = table_of(bench, host, vmid);
    let may_start = held.table_fault.is_none() && held.refusal.is_none() && table.is_some();
    let obstacle = may_start.then(|| in_the_way(bench, host, vmid, state));
    let obstacle = obstacle.flatten();
    let owner = obstacle.as_ref().and_then(|one| one.owner);
    let obstacle = obstacle.map(|one| one.advice);
    let reason = obstacle.as_ref().map(|one| &one.fact);
    let warnings = without_own_check(held.warnings, reason, &doubts, guest_smt.as_ref());
    Some(VmFacts {
        vmid,
        owning: Owning::Nothing,
        hook_fault: hook_fault(host, vmid, &guest, table.is_some()),
        lacks_elsewhere: lacks_elsewhere(files, vmid, &guest),
        is_replicated: cluster::is_replicated(files, vmid),
        snapshots: conf.snapshots.keys().cloned().collect(),
        controllers: controllers(&devices),
        virtuals: virtuals(files, &devices),
        asks_without_idle: said.as_ref().and_then(asks_without_idle),
        guest,
        table_fault: held.table_fault,
        refusal: held.refusal.or(obstacle),
        refused_for: owner,
        warnings,
        doubts,
        better,
        guest_smt,
        devices: of_devices,
        device_faults,
        is_ha: cluster::is_ha(files, vmid).unwrap_or_default(),
        ha_nodes: cluster::ha_nodes(files, vmid, &own).unwrap_or_default(),
        hidden_table: hidden_table(files, vmid),
        table,
    })
}

/// Returns the warnings that no check of its own gives; `reason` is why the VM would not start.
fn without_own_check(
    warnings: Vec<Remark>,
    reason: Option<&String>,
    doubts: &[String],
    guest_smt: Option<&Advised>,
) -> Vec<String> {
    let is_left = |warning: &Remark| match warning.topic {
        Topic::Placement => true,
        Topic::Config | Topic::Devices | Topic::Overlap => false,
        Topic::Cpus | Topic::Nodes => doubts.is_empty(),
        Topic::Smt => guest_smt.is_none(),
        Topic::Memory => reason != Some(&warning.text),
    };
    let left = warnings.into_iter().filter(is_left);
    left.map(|warning| warning.text).collect()
}

/// Returns what the table of a VM says; nothing of one that cannot be used.
pub(super) fn table_of(bench: &Bench, host: &Host, vmid: Vmid) -> Option<Table> {
    let file = read_table(&*host.files, vmid).ok()??;
    understand(host, &file, bench.settings.as_ref().ok()?).ok()
}

/// Returns why PVE or QEMU would refuse the devices of a VM, the first reason, and what else is to be said of
/// them; nothing where none can be seen.
fn judged(devices: &Devices, vmid: Vmid) -> (Vec<Advised>, Vec<String>) {
    let mut all = match devices.bus.is_empty() {
        true => Vec::new(),
        false => devices.judged(vmid),
    };
    let fails = |one: &Judged| one.outlook.as_ref().is_some_and(|outlook| outlook.fails);
    let first = all.iter().position(fails).map(|n| all.remove(n));
    let fault = first.and_then(|judged| judged.outlook);
    let fault = fault.map(|outlook| Advised::new(outlook.reason, outlook.help));
    let others = all.into_iter().map(|judged| judged.warning);
    (fault.into_iter().collect(), others.collect())
}

fn hook_fault(host: &Host, vmid: Vmid, guest: &Guest, has_table: bool) -> Option<Advised> {
    let broken = snippet::broken(&*host.files, vmid, guest)?;
    Some(Advised::new(
        broken.to_string(),
        broken.help(vmid, has_table),
    ))
}

/// What came of holding the table of a VM against the host.
#[derive(Default)]
struct Held {
    table_fault: Option<Advised>,
    refusal: Option<Advised>,
    warnings: Vec<Remark>,
}

/// Holds the table of a VM against the host, as `check --table` does.
fn held_against_host(bench: &Bench, host: &Host, vmid: Vmid) -> Held {
    if let Err(fault) = &bench.settings {
        // What is wrong with the settings of the host is told there.
        let refusal = path_of_table(&*host.files, vmid).map(|_| told(fault.clone()));
        return Held {
            refusal,
            ..Held::default()
        };
    }
    let Some(Lint {
        error, warnings, ..
    }) = lint_of(bench, host, vmid)
    else {
        return Held::default();
    };
    // What has a place in the text, or cannot be read, is wrong by itself, wherever it is used.
    let is_text = |error: &Complaint| error.line.is_some() || error.file.is_none();
    let is_text = error.as_ref().is_some_and(is_text);
    let error = error.map(told);
    let (table_fault, refusal) = match is_text {
        true => (error, None),
        false => (None, error),
    };
    Held {
        table_fault,
        refusal,
        warnings,
    }
}

fn told(complaint: Complaint) -> Advised {
    Advised::new(complaint.message, complaint.help.unwrap_or_default())
}
