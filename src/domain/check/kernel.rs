//! The kernel and its parameters: whether CPUs can be given away at all, and what speaks against it.

use super::host_facts::HostFacts;
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use crate::domain::backend::Backend;
use crate::domain::cpuset::CpuSet;
use crate::domain::topology::SmtControl;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "kernel",
        required: "the kernel can give a vm cpus that nothing else runs on",
        why: "On kernels without remote partitions, or with a known fault in them, a weaker way is used: it \
              keeps less off the cpus of a vm, or only pins its threads.",
        fix: "install a newer kernel: apt install proxmox-default-kernel, then reboot; that of pve 8 is 6.8: upgrade to \
               pve 9",
        severity: Failure,
        judge: Judge::Host(backend),
    },
    Check {
        id: "cgroup",
        required: "the unified cgroup hierarchy with the controller cpuset",
        why: "CPUs are given to a VM and kept from everything else by the cgroup controller cpuset.",
        fix: "remove systemd.unified_cgroup_hierarchy=0 and cgroup_disable= from the kernel's command line",
        severity: Failure,
        judge: Judge::Host(cgroup),
    },
    Check {
        id: "systemd",
        required: "systemd is the service manager",
        why: "PVE starts each VM in a scope of systemd, and pin-hook asks it to leave that scope alone.",
        fix: "boot the host with systemd, as pve does",
        severity: Failure,
        judge: Judge::Host(|host| match host.has_systemd {
            Some(true) => Verdict::passed("systemd is running"),
            Some(false) => Fault::new("systemd does not run").into(),
            None => Verdict::skipped("this capture has no /run"),
        }),
    },
    Check {
        id: "command-line",
        required: "the host runs with the kernel parameters that its boot loader has",
        why: "Parameters such as intel_iommu=on take effect at the next boot, and with proxmox-boot-tool not \
              before the boot entries are written anew.",
        fix: "proxmox-boot-tool refresh (with grub alone: update-grub), then reboot",
        severity: Notice,
        judge: Judge::Host(next_boot),
    },
    Check {
        id: "isolcpus",
        required: "no cpus are taken from the scheduler at boot",
        why: "isolcpus= takes CPUs from everybody until the next boot, also while no VM runs, and a VM whose \
              threads share such CPUs has them all on the first one. pin-hook isolates CPUs only while a VM \
              owns them.",
        fix: "remove isolcpus= from the kernel's command line, then reboot",
        severity: Notice,
        judge: Judge::Host(|host| {
            let cpus = &host.topology.sets().isolcpus;
            match cpus.is_empty() {
                true => Verdict::passed("isolcpus= is not set"),
                false => Fault::new(format!("isolcpus= has {cpus}")).into(),
            }
        }),
    },
    Check {
        id: "nohz-full",
        required: "cpus without a tick (nohz_full=) are those of vms",
        why: "nohz_full= makes every entry into the kernel slower. It gains something on CPUs that one busy \
              vCPU has to itself, and costs on all others.",
        fix: "name only cpus of tables in nohz_full=, or remove it from the kernel's command line",
        severity: Notice,
        judge: Judge::Host(nohz_full),
    },
    Check {
        id: "smt",
        required: "smt siblings are not switched off",
        why: "With SMT off the host has half of its CPUs. A table that names siblings cannot be used, and one \
              that wants a sibling idle does not need it off: smt = \"idle-sibling\" does that for one VM.",
        fix: "remove nosmt from the kernel's command line, then reboot",
        severity: Notice,
        judge: Judge::Host(|host| match host.topology.sets().smt {
            SmtControl::Allowed => Verdict::passed("smt is not switched off"),
            // Without the parameter somebody has switched it off by hand.
            SmtControl::Off if host.parameter("nosmt").is_none() => Fault::new("smt is off")
                .fixed_by("echo on > /sys/devices/system/cpu/smt/control")
                .into(),
            SmtControl::Off | SmtControl::ForcedOff => Fault::new("smt is off").into(),
        }),
    },
    Check {
        id: "cpus-online",
        required: "every cpu that is plugged in is online",
        why: "A table that names an offline CPU is refused.",
        fix: "echo 1 > /sys/devices/system/cpu/cpuN/online",
        severity: Notice,
        judge: Judge::Host(online),
    },
    Check {
        id: "mitigations",
        required: "mitigations of processor faults are not switched off",
        why: "Without them a guest can read memory of the host and of other guests. What they cost a guest \
              with CPUs of its own is little.",
        fix: "remove mitigations=off from the kernel's command line, then reboot",
        severity: Notice,
        judge: Judge::Host(|host| match host.parameter("mitigations") {
            Some("off") => Fault::new("mitigations=off is on the command line").into(),
            value => Verdict::passed(value.unwrap_or("the kernel's own choice")),
        }),
    },
];

fn backend(host: &HostFacts) -> Verdict {
    let Some(choice) = &host.choice else {
        return Verdict::skipped("the kernel's version cannot be read");
    };
    let found = format!("{} ({})", choice.backend, choice.reason);
    let severity = match choice.backend {
        Backend::Isolated | Backend::Root => return Verdict::passed(found),
        Backend::Slices => Warning,
        Backend::Affinity => Failure,
    };
    Fault::new(found).with(severity).into()
}

fn cgroup(host: &HostFacts) -> Verdict {
    let Some(controllers) = &host.controllers else {
        return Fault::new("the unified hierarchy is not mounted at /sys/fs/cgroup").into();
    };
    match controllers.iter().any(|name| name == "cpuset") {
        true => Verdict::passed("there"),
        false => Fault::new(format!("it has only {}", controllers.join(" "))).into(),
    }
}

/// Compares the parameters, apart from those that a boot loader adds by itself.
fn next_boot(host: &HostFacts) -> Verdict {
    let Some(next) = &host.next_boot else {
        return Verdict::skipped("no file of a boot loader says them");
    };
    let now: Vec<&str> = host.command_line.split_whitespace().collect();
    let missing = next.parameters.iter();
    let missing = missing.filter(|word| !now.contains(&word.as_str()));
    let missing: Vec<&str> = missing.map(String::as_str).collect();
    let text = || format!("not active yet: {} (in {})", missing.join(" "), next.file);
    match missing.is_empty() {
        true => Verdict::passed(format!("as in {}", next.file)),
        false => Fault::new(text()).into(),
    }
}

fn nohz_full(host: &HostFacts) -> Verdict {
    let full = &host.topology.sets().nohz_full;
    if full.is_empty() {
        return Verdict::skipped("nohz_full= is not set");
    }
    let named: CpuSet = host.guests.iter().flat_map(|one| one.cpus.iter()).collect();
    let rest = full.difference(&named);
    match rest.is_empty() {
        true => Verdict::passed(format!("nohz_full={full}, all of them in tables")),
        false => Fault::new(format!(
            "{} {} in no table",
            rest.in_words(),
            rest.is_or_are()
        ))
        .into(),
    }
}

fn online(host: &HostFacts) -> Verdict {
    let sets = host.topology.sets();
    let offline = sets.offline();
    // With SMT off its siblings are offline as well, which is another check.
    if offline.is_empty() || sets.smt != SmtControl::Allowed {
        return Verdict::passed(format!("{} are", sets.online.in_words()));
    }
    let first = offline
        .first()
        .map_or_else(String::new, |cpu| cpu.to_string());
    let fault = Fault::new(format!(
        "{} {} offline",
        offline.in_words(),
        offline.is_or_are()
    ));
    let path = format!("/sys/devices/system/cpu/cpu{first}/online");
    match offline.len() {
        1 => fault.fixed_by(format!("echo 1 > {path}")).into(),
        _ => fault.into(),
    }
}
