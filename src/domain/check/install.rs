//! pin-hook itself: whether it is installed as it is to be on this node and the others.

use super::host_facts::HostFacts;
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use crate::domain::unit::Masked;

/// The unit that prepares the node at boot.
const BOOT_UNIT: &str = "pin-hook-boot.service";

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "boot-unit",
        required: "pin-hook-boot.service is enabled",
        why: "It prepares the scopes of VMs before PVE starts any. Without it the first start of each VM after \
              a boot has systemd read all of its unit files again.",
        fix: "systemctl enable pin-hook-boot.service",
        severity: Warning,
        judge: Judge::Host(boot_unit),
    },
    Check {
        id: "reconcile-units",
        required: "the units that look after what vms own are not masked",
        why: "They give back what a VM owned that has crashed, and set again what somebody else has changed.",
        fix: "systemctl unmask pin-hook-reconcile.service pin-hook-reconcile.timer pin-hook-reconcile.path",
        severity: Warning,
        judge: Judge::Host(|host| {
            let others = host.masked.iter().filter(|one| one.unit != BOOT_UNIT);
            Verdict::of(others.map(masked).collect(), "no unit is masked")
        }),
    },
    Check {
        id: "settings",
        required: "/etc/pin-hook/host.toml can be used, if there is one",
        why: "Every start of a VM with a table is refused while it cannot.",
        fix: "pin-hook check --table /etc/pin-hook/host.toml",
        severity: Failure,
        judge: Judge::Host(|host| match &host.settings_fault {
            None => Verdict::passed("the file can be used, or there is none"),
            Some(fault) => Fault::new(&fault.fact).fixed_by(&fault.help).into(),
        }),
    },
    Check {
        id: "strays",
        required: "every file among the tables is the table of a vm",
        why: "A table is named after its VM, such as 100.toml. Nobody reads a file with another name, or of a \
              guest that is no VM of this node.",
        fix: "rename or remove it",
        severity: Notice,
        judge: Judge::Host(|host| {
            let faults = host.strays.iter().map(Fault::new);
            Verdict::of(faults.collect(), "no file without a vm")
        }),
    },
    Check {
        id: "config-gone",
        required: "every vm that runs with cpus of its own has a config on this node",
        why: "PVE neither shows nor stops a VM without a config, and its CPUs stay its own until its process ends.",
        fix: "put the config back, or end the process",
        severity: Failure,
        judge: Judge::Host(|host| {
            let faults = host.gone.iter();
            let faults = faults.map(|one| Fault::new(&one.fact).fixed_by(&one.help));
            Verdict::of(faults.collect(), "each of them has one")
        }),
    },
];

fn boot_unit(host: &HostFacts) -> Verdict {
    let mask = host.masked.iter().find(|one| one.unit == BOOT_UNIT);
    match (host.boot_unit, mask) {
        (_, Some(mask)) => masked(mask).into(),
        (None, None) => Verdict::skipped("the unit is not installed on this host"),
        (Some(true), None) => Verdict::passed("the unit is enabled"),
        (Some(false), None) => Fault::new(format!("{BOOT_UNIT} is not enabled")).into(),
    }
}

fn masked(unit: &Masked) -> Fault {
    Fault::new(format!("{} is masked", unit.unit)).fixed_by(unit.undo())
}
