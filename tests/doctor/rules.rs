//! Every check with a case that it finds and one that it passes.

use std::collections::BTreeSet;

use pin_hook::config::vm_conf::parse_vm_conf;
use pin_hook::domain::advice::Advised;
use pin_hook::domain::backend::Backend;
use pin_hook::domain::check::{
    Check, GuestOfHost, HostFacts, Judge, KsmFacts, Owning, PolicyFacts, Severity, Vendor, Verdict,
    VmFacts, checks,
};
use pin_hook::domain::topology::{CpuSets, SmtControl};
use pin_hook::domain::unit::Masked;

use crate::well::{
    CONF, choice, function, host, initramfs, next_boot, policy, qemu_server, represented, sets,
    topology, vm,
};

fn advice() -> Option<Advised> {
    Some(Advised {
        fact: "cpus 4-5 are claimed by vm 103".to_owned(),
        help: "stop vm 103".to_owned(),
    })
}

/// Replaces a line of the VM's config, or adds one.
fn conf(vm: &mut VmFacts, line: &str) {
    let key = line.split(':').next().unwrap();
    let others = CONF
        .lines()
        .filter(|old| old.split(':').next() != Some(key));
    let lines: Vec<&str> = others.chain([line]).collect();
    vm.guest = parse_vm_conf(&lines.join("\n")).guest();
}

type Break = fn(&mut HostFacts, &mut VmFacts);

/// What makes each check find something, and how much that matters.
const BROKEN: &[(&str, Severity, Break)] = &[
    ("kernel", Severity::Warning, |host, _| {
        host.choice = Some(choice(Backend::Slices));
    }),
    ("kernel", Severity::Failure, |host, _| {
        host.choice = Some(choice(Backend::Affinity));
    }),
    ("cgroup", Severity::Failure, |host, _| {
        host.controllers = None;
    }),
    ("cgroup", Severity::Failure, |host, _| {
        host.controllers = Some(vec!["cpu".to_owned()]);
    }),
    ("systemd", Severity::Failure, |host, _| {
        host.has_systemd = Some(false);
    }),
    ("command-line", Severity::Notice, |host, _| {
        host.next_boot = Some(next_boot("intel_iommu=on"));
    }),
    ("isolcpus", Severity::Notice, |host, _| {
        let isolcpus = "4-7".parse().unwrap();
        host.topology = topology(
            CpuSets {
                isolcpus,
                ..sets("0-7")
            },
            true,
        );
    }),
    ("nohz-full", Severity::Notice, |host, _| host.guests.clear()),
    ("smt", Severity::Notice, |host, _| {
        let smt = SmtControl::Off;
        host.topology = topology(CpuSets { smt, ..sets("0-3") }, true);
    }),
    ("cpus-online", Severity::Notice, |host, _| {
        host.topology = topology(sets("0-6"), true);
    }),
    ("mitigations", Severity::Notice, |host, _| {
        host.command_line = "mitigations=off".to_owned();
    }),
    ("initramfs", Severity::Notice, |host, _| {
        host.initramfs = initramfs(1500);
    }),
    ("post-stop", Severity::Notice, |host, _| {
        host.qemu_server = qemu_server("8.4.10", false);
    }),
    ("post-stop", Severity::Notice, |host, _| {
        host.qemu_server = qemu_server("9.2.6", true);
    }),
    ("boot-unit", Severity::Warning, |host, _| {
        host.boot_unit = Some(false);
    }),
    ("start-order", Severity::Notice, |host, _| {
        host.at_boot[1].vmid = "110".parse().unwrap();
    }),
    ("in-force", Severity::Failure, |_, vm| {
        vm.owning = Owning::Amiss(Advised::new("cpu 5 is offline", "echo 1"));
    }),
    ("reconcile-units", Severity::Warning, |host, _| {
        let unit = "pin-hook-reconcile.service";
        let until_boot = true;
        host.masked = vec![Masked { unit, until_boot }];
    }),
    ("settings", Severity::Failure, |host, _| {
        host.settings_fault = advice();
    }),
    ("config-gone", Severity::Failure, |host, _| {
        host.gone = advice().into_iter().collect();
    }),
    ("strays", Severity::Notice, |host, _| {
        host.strays = vec!["vr.toml is not read".to_owned()];
    }),
    ("irqbalance", Severity::Warning, |host, _| {
        host.services = BTreeSet::from(["irqbalance"]);
    }),
    ("numad", Severity::Warning, |host, _| {
        host.services = BTreeSet::from(["numad"]);
    }),
    ("tuned", Severity::Notice, |host, _| {
        host.services = BTreeSet::from(["tuned"]);
    }),
    ("ksm", Severity::Notice, |host, _| {
        host.ksm = Some(KsmFacts {
            runs: true,
            n_sharing: 4711,
        });
    }),
    ("transparent-hugepages", Severity::Notice, |host, _| {
        host.transparent_hugepages = Some("never".to_owned());
    }),
    ("hugepages", Severity::Notice, |host, _| {
        host.guests[0].guest.hugepages = None;
    }),
    ("numa-memory", Severity::Notice, |host, _| {
        host.topology = topology(sets("0-7"), false);
    }),
    ("swap", Severity::Notice, |host, _| {
        host.memory.as_mut().unwrap().swap_used = 2 << 20;
    }),
    ("memory-overcommit", Severity::Warning, |host, _| {
        host.memory.as_mut().unwrap().total = 4 << 20;
    }),
    ("cpu-overcommit", Severity::Notice, |host, _| {
        let other = GuestOfHost {
            has_table: false,
            ..host.guests[0].clone()
        };
        host.guests.extend(vec![other; 20]);
    }),
    ("governor", Severity::Warning, |host, _| {
        host.policies = vec![policy("acpi-cpufreq", "powersave")];
    }),
    ("boost", Severity::Notice, |host, _| {
        host.may_boost = Some(false);
    }),
    ("iommu", Severity::Failure, |host, _| {
        host.n_iommu_groups = Some(0);
    }),
    ("acs-override", Severity::Warning, |host, _| {
        host.command_line = "pcie_acs_override=downstream".to_owned();
    }),
    ("iommu-faults", Severity::Warning, |host, _| {
        host.iommu_messages = said(
            "DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0xdeadb000 [fault reason 0x06]",
        );
    }),
    ("iommu-faults", Severity::Notice, |host, _| {
        host.iommu_messages = said(
            "xhci_hcd 0000:0a:00.3: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0x0 flags=0x0]",
        );
    }),
    ("table", Severity::Failure, |_, vm| {
        vm.table_fault = advice();
    }),
    ("table", Severity::Notice, |_, vm| vm.table = None),
    ("table", Severity::Notice, |_, vm| {
        vm.hidden_table = Some("/etc/pve/pin-hook/100.toml".to_owned());
    }),
    ("hookscript", Severity::Warning, |_, vm| {
        conf(vm, "hookscript: local:snippets/own.pl");
    }),
    ("hookscript", Severity::Failure, |_, vm| {
        vm.hook_fault = advice();
    }),
    ("start", Severity::Failure, |_, vm| vm.refusal = advice()),
    ("placement", Severity::Warning, |_, vm| {
        vm.warnings = vec!["the vcpus share cores".to_owned()];
    }),
    ("placement", Severity::Notice, |_, vm| {
        vm.doubts = vec!["the vcpus are on numa nodes 0-1, but one would do".to_owned()];
    }),
    ("placement", Severity::Warning, |_, vm| {
        vm.doubts = vec!["the vcpus are on numa nodes 0-1, but one would do".to_owned()];
        vm.better = Some("better cpus are free: cpus = \"4-7\"".to_owned());
    }),
    ("guest-smt", Severity::Warning, |_, vm| {
        vm.guest_smt = advice();
    }),
    ("overlap", Severity::Warning, |host, _| {
        let other = GuestOfHost {
            vmid: "101".parse().unwrap(),
            ..host.guests[0].clone()
        };
        host.guests.push(other);
    }),
    ("idle-latency", Severity::Notice, |_, vm| {
        vm.asks_without_idle = Some("pin.scheduler");
    }),
    ("affinity", Severity::Notice, |_, vm| {
        conf(vm, "affinity: 4-7");
    }),
    ("ha", Severity::Notice, |_, vm| {
        vm.table = Some("/etc/pin-hook/100.toml".to_owned());
    }),
    ("ha-nodes", Severity::Warning, |_, vm| {
        vm.lacks_elsewhere = advice().into_iter().collect();
    }),
    ("ha-hardware", Severity::Notice, |_, vm| {
        conf(vm, "tpmstate0: local-zfs:vm-100-disk-2");
    }),
    ("ha-hardware", Severity::Notice, |_, vm| {
        conf(vm, "hostpci0: 0000:01:00,pcie=1,x-vga=1");
    }),
    ("kvm", Severity::Warning, |_, vm| conf(vm, "kvm: 0")),
    ("cpu-type", Severity::Notice, |_, vm| {
        conf(vm, "cpu: x86-64-v3");
    }),
    ("cpu-flags", Severity::Notice, |_, vm| {
        conf(vm, "cpu: host,flags=+aes;+pdpe1gb");
    }),
    ("cpu-limit", Severity::Warning, |_, vm| {
        conf(vm, "cpulimit: 2");
    }),
    ("balloon", Severity::Warning, |_, vm| {
        conf(vm, "balloon: 4096");
    }),
    ("machine", Severity::Failure, |_, vm| {
        conf(vm, "machine: pc-i440fx-10.0");
    }),
    ("firmware", Severity::Notice, |_, vm| {
        conf(vm, "bios: seabios");
    }),
    ("efi-disk", Severity::Notice, |_, vm| {
        conf(vm, "efidisk0: none");
    }),
    ("secure-boot", Severity::Notice, |_, vm| {
        conf(vm, "efidisk0: rbd:vm-100-disk-1");
    }),
    ("secure-boot", Severity::Notice, |_, vm| {
        conf(vm, "tpmstate0: none");
    }),
    ("net-bridge", Severity::Failure, |_, vm| {
        conf(vm, "net0: virtio,bridge=vmbr0,mtu=9000");
    }),
    ("net-bridge", Severity::Failure, |_, vm| {
        conf(vm, "net0: virtio,bridge=vmbr9");
    }),
    ("vf-at-boot", Severity::Notice, |_, vm| {
        vm.virtuals = vec![function(None)];
    }),
    ("vf-bond", Severity::Notice, |_, vm| {
        vm.virtuals = vec![function(Some("bond0"))];
    }),
    ("vf-mtu", Severity::Notice, |host, vm| {
        vm.virtuals = vec![function(None)];
        host.mtus = [("enp3s0f0".to_owned(), 1500), ("vmbr0".to_owned(), 9000)].into();
    }),
    ("vf-representor", Severity::Warning, |_, vm| {
        vm.virtuals = vec![represented(false)];
    }),
    ("vf-representor", Severity::Notice, |host, vm| {
        vm.virtuals = vec![represented(false)];
        host.guests[0].runs = false;
    }),
    ("vf-representor", Severity::Notice, |host, vm| {
        vm.virtuals = vec![represented(true)];
        host.mtus = [("vf0".to_owned(), 1500), ("vmbr0".to_owned(), 9000)].into();
    }),
    ("device", Severity::Warning, |_, vm| {
        vm.devices = vec!["its group has others".to_owned()];
    }),
    ("device", Severity::Failure, |_, vm| {
        vm.device_faults = advice().into_iter().collect();
    }),
    ("net-model", Severity::Notice, |_, vm| {
        conf(vm, "net0: e1000=BC:24:11:00:00:01,bridge=vmbr0");
    }),
    ("net-queues", Severity::Notice, |_, vm| {
        conf(vm, "net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,queues=8");
    }),
    ("disk-format", Severity::Notice, |_, vm| {
        conf(vm, "scsi0: local:100/vm-100-disk-0.qcow2,iothread=1");
    }),
    ("disk-cache", Severity::Notice, |_, vm| {
        conf(vm, "scsi0: zfs:vm-100-disk-0,cache=writeback,iothread=1");
    }),
    ("disk-cache", Severity::Warning, |_, vm| {
        conf(vm, "scsi0: zfs:vm-100-disk-0,cache=unsafe,iothread=1");
    }),
    ("iothread", Severity::Notice, |_, vm| {
        conf(vm, "scsi0: local-zfs:vm-100-disk-0");
    }),
    ("scsi-controller", Severity::Warning, |_, vm| {
        conf(vm, "scsihw: virtio-scsi-pci");
    }),
    ("disk-aio", Severity::Failure, |_, vm| {
        conf(vm, "scsi0: rbd:vm-100-disk-0,aio=native,cache=writeback");
    }),
    ("snapshots", Severity::Notice, |_, vm| {
        vm.controllers = vec!["0000:02:00.0".to_owned()];
        vm.snapshots = vec!["before".to_owned()];
    }),
];

fn said(message: &str) -> Option<Vec<String>> {
    Some(vec![message.to_owned()])
}

fn verdict(check: &Check, host: &HostFacts, vm: &VmFacts) -> Verdict {
    match check.judge {
        Judge::Host(rule) => rule(host),
        Judge::Vm(rule) => rule(vm, host),
    }
}

#[test]
fn a_host_and_a_vm_as_they_are_to_be_pass_every_check() {
    let (host, vm) = (host(), vm());
    for check in checks() {
        let verdict = verdict(check, &host, &vm);
        assert!(
            matches!(verdict, Verdict::Passed(_)),
            "{}: {verdict:?}",
            check.id
        );
    }
}

#[test]
fn every_check_finds_what_it_is_for() {
    for (id, severity, breaks) in BROKEN {
        let (mut host, mut vm) = (host(), vm());
        breaks(&mut host, &mut vm);
        let check = checks().find(|check| check.id == *id).unwrap();
        let Verdict::Found(faults) = verdict(check, &host, &vm) else {
            panic!("{id} finds nothing");
        };
        let worst = faults
            .iter()
            .map(|fault| fault.severity.unwrap_or(check.severity))
            .max();
        assert_eq!(worst, Some(*severity), "{id}: {faults:?}");
    }
    let broken: BTreeSet<&str> = BROKEN.iter().map(|(id, ..)| *id).collect();
    let all: BTreeSet<&str> = checks().map(|check| check.id).collect();
    assert_eq!(broken, all);
}

#[test]
fn what_cannot_be_read_is_no_finding() {
    let host = HostFacts {
        controllers: host().controllers,
        ..HostFacts::default()
    };
    for check in checks().filter(|check| matches!(check.judge, Judge::Host(_))) {
        let verdict = verdict(check, &host, &vm());
        assert!(
            !matches!(verdict, Verdict::Found(_)),
            "{}: {verdict:?}",
            check.id
        );
    }
}

#[test]
fn the_iommu_is_mended_where_it_is_off() {
    let fix = |vendor, command_line: &str| {
        let host = HostFacts {
            vendor,
            command_line: command_line.to_owned(),
            n_iommu_groups: Some(0),
            ..host()
        };
        let check = checks().find(|check| check.id == "iommu").unwrap();
        match verdict(check, &host, &vm()) {
            Verdict::Found(faults) => faults[0].fix.clone().unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    };
    assert!(fix(Vendor::Intel, "quiet").contains("add intel_iommu=on"));
    assert!(!fix(Vendor::Intel, "intel_iommu=on").contains("intel_iommu"));
    assert!(fix(Vendor::Amd, "quiet").contains("amd-vi"));
    assert!(fix(Vendor::Amd, "amd_iommu=off").contains("remove"));
}

/// A command for all policies would take from a VM what its table has set.
#[test]
fn a_slow_policy_is_mended_where_it_is_and_nowhere_else() {
    let slow = |cpus: &str| PolicyFacts {
        cpus: cpus.parse().unwrap(),
        ..policy("acpi-cpufreq", "powersave")
    };
    let fast = PolicyFacts {
        cpus: "3".parse().unwrap(),
        ..policy("acpi-cpufreq", "performance")
    };
    let host = HostFacts {
        policies: vec![slow("0"), slow("1-2"), fast, slow("4-5")],
        ..host()
    };
    let check = checks().find(|check| check.id == "governor").unwrap();
    let Verdict::Found(faults) = verdict(check, &host, &vm()) else {
        panic!("nothing found");
    };
    let found = faults
        .iter()
        .map(|fault| (fault.found.as_str(), fault.fix.as_deref().unwrap()));
    let found: Vec<_> = found.collect();
    assert_eq!(
        found,
        [
            (
                "cpus 4-5 have governor powersave",
                "governor = \"performance\" below [power] in the table that names them"
            ),
            (
                "cpus 0-2 have governor powersave",
                "echo schedutil | tee /sys/devices/system/cpu/cpu{0,1}/cpufreq/scaling_governor"
            ),
        ]
    );
}

/// Words of a check are read after its name and a colon.
#[test]
fn checks_are_said_as_everything_else_is() {
    let mut ids = BTreeSet::new();
    for check in checks() {
        let Check {
            id,
            required,
            why,
            fix,
            ..
        } = check;
        assert!(ids.insert(*id), "{id} comes twice");
        assert!(
            id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{id}"
        );
        assert!(!required.ends_with('.') && !fix.ends_with('.'), "{id}");
        assert!(why.ends_with('.'), "{id}");
        let is_sentence = |text: &str| text.starts_with(|c: char| c.is_uppercase());
        assert!(!is_sentence(required) && !is_sentence(fix), "{id}");
    }
}
