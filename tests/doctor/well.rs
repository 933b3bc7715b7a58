//! A host and a VM that are as they are to be: no check finds anything.

use std::collections::BTreeSet;

use pin_hook::config::vm_conf::parse_vm_conf;
use pin_hook::domain::backend::Backend;
use pin_hook::domain::check::{
    AtBoot, GuestOfHost, HostFacts, IdleState, InitramfsFacts, KsmFacts, MemoryFacts, NextBoot,
    Owning, PolicyFacts, QemuServer, Representor, Vendor, Virtual, VmFacts,
};
use pin_hook::domain::gate::Choice;
use pin_hook::domain::memory::Pool;
use pin_hook::domain::startup::Startup;
use pin_hook::domain::topology::{CpuSets, Node, Parts, Topology};
use pin_hook::domain::vm::Vmid;

/// A VM as the manual would have it.
pub const CONF: &str = "name: vr\nagent: 1\nballoon: 0\nbios: ovmf\ncores: 4\ncpu: host\nefidisk0: \
                    rbd:vm-100-disk-1,pre-enrolled-keys=1\nhookscript: local:snippets/pin-hook\nhostpci0: \
                    mapping=gpu,pcie=1,x-vga=1\nhugepages: 2\nmachine: q35\nmemory: 8192\nnet0: \
                    virtio=BC:24:11:00:00:01,bridge=vmbr0,queues=4\nonboot: 1\nostype: win11\nscsi0: \
                    rbd:vm-100-disk-0,iothread=1\nscsi1: san:vm-100-disk-0.qcow2,iothread=1\nscsihw: virtio-scsi-single\ntpmstate0: rbd:vm-100-disk-2\n";

pub fn topology(sets: CpuSets, has_memory: bool) -> Topology {
    let nodes = vec![Node {
        id: 0,
        cpus: sets.online.clone(),
        has_memory,
        ..Node::default()
    }];
    Topology::new(Parts {
        sets,
        nodes,
        ..Parts::default()
    })
}

pub fn sets(online: &str) -> CpuSets {
    CpuSets {
        present: "0-7".parse().unwrap(),
        online: online.parse().unwrap(),
        ..CpuSets::default()
    }
}

pub fn vmid() -> Vmid {
    "100".parse().unwrap()
}

pub fn vm() -> VmFacts {
    VmFacts {
        vmid: vmid(),
        guest: parse_vm_conf(CONF).guest(),
        owning: Owning::InForce,
        hidden_table: None,
        table: Some("/etc/pve/pin-hook/100.toml".to_owned()),
        table_fault: None,
        refusal: None,
        refused_for: None,
        warnings: Vec::new(),
        doubts: Vec::new(),
        better: None,
        guest_smt: None,
        hook_fault: None,
        devices: Vec::new(),
        device_faults: Vec::new(),
        is_ha: true,
        ha_nodes: vec!["pve2".to_owned()],
        is_replicated: false,
        lacks_elsewhere: Vec::new(),
        snapshots: Vec::new(),
        controllers: Vec::new(),
        virtuals: Vec::new(),
        asks_without_idle: None,
    }
}

pub fn function(bond: Option<&str>) -> Virtual {
    Virtual {
        address: "0000:03:10.0".to_owned(),
        physical: "0000:03:00.0".to_owned(),
        bond: bond.map(str::to_owned),
        port: Some("enp3s0f0".to_owned()),
        bridge: Some("vmbr0".to_owned()),
        is_switched: false,
        representor: None,
    }
}

/// A virtual function in switchdev mode, whose representor is in a bridge or not.
pub fn represented(is_used: bool) -> Virtual {
    let representor = Representor {
        name: "vf0".to_owned(),
        is_used,
        bridge: Some("vmbr0".to_owned()).filter(|_| is_used),
        is_down: false,
    };
    Virtual {
        representor: Some(representor),
        ..function(None)
    }
}

/// A guest that starts at boot, on a storage in the network or with a storage controller.
pub fn at_boot(vmid: &str, storage: &str, controller: Option<&str>) -> AtBoot {
    let networked = Some(storage.to_owned()).filter(|name| !name.is_empty());
    AtBoot {
        vmid: vmid.parse().unwrap(),
        is_container: false,
        startup: Startup::default(),
        networked: networked.into_iter().collect(),
        controller: controller.map(str::to_owned),
    }
}

/// An initramfs that was made at 1000, and booted at 2000.
pub fn initramfs(written: u64) -> Option<InitramfsFacts> {
    Some(InitramfsFacts {
        path: "/boot/initrd.img-7.0.2-1-pve".to_owned(),
        made: 1000,
        booted: 2000,
        files: vec![("/etc/modprobe.d/vfio.conf".to_owned(), written)],
    })
}

pub fn qemu_server(version: &str, is_held_back: bool) -> Option<QemuServer> {
    Some(QemuServer {
        version: version.to_owned(),
        is_held_back,
    })
}

/// A host on which nothing is left out and nothing is found.
pub fn host() -> HostFacts {
    let sets = CpuSets {
        nohz_full: "4-7".parse().unwrap(),
        ..sets("0-7")
    };
    HostFacts {
        choice: Some(choice(Backend::Isolated)),
        controllers: Some(vec!["cpuset".to_owned(), "cpu".to_owned()]),
        has_systemd: Some(true),
        command_line: "root=/dev/sda2 quiet nohz_full=4-7".to_owned(),
        next_boot: Some(next_boot("quiet nohz_full=4-7")),
        vendor: Vendor::Intel,
        topology: topology(sets, true),
        services: BTreeSet::new(),
        ksm: Some(KsmFacts::default()),
        transparent_hugepages: Some("madvise".to_owned()),
        hugepages: vec![(Pool { node: 0, kib: 2048 }, 4096)],
        memory: Some(MemoryFacts {
            total: 32 << 20,
            swap: 8 << 20,
            swap_used: 0,
        }),
        policies: vec![policy("intel_pstate", "powersave")],
        may_boost: Some(true),
        n_iommu_groups: Some(17),
        boot_unit: Some(true),
        masked: Vec::new(),
        gone: Vec::new(),
        strays: Vec::new(),
        settings_fault: None,
        guests: vec![GuestOfHost {
            vmid: vmid(),
            guest: vm().guest,
            runs: true,
            is_started_by_ha: false,
            has_table: true,
            cpus: "4-7".parse().unwrap(),
            stops: Vec::new(),
        }],
        iommu_messages: Some(vec!["DMAR: IOMMU enabled".to_owned()]),
        at_boot: vec![
            at_boot("102", "nas", None),
            at_boot("101", "", Some("0000:02:00.0")),
        ],
        passed: vec![("0000:01:00".to_owned(), vmid())],
        initramfs: initramfs(500),
        qemu_server: qemu_server("9.2.6", false),
        deepest_idle: Some(IdleState {
            name: "C6".to_owned(),
            latency: 133,
        }),
        mtus: [("vmbr0".to_owned(), 1500)].into(),
        storages: [("rbd", true), ("local-zfs", false)]
            .map(|(name, is_shared)| (name.to_owned(), is_shared))
            .into(),
        sets_virtuals: Some(false),
    }
}

pub fn choice(backend: Backend) -> Choice {
    Choice {
        backend,
        reason: "kernel 7.0.2: no known problem".to_owned(),
        warning: None,
    }
}

pub fn next_boot(text: &str) -> NextBoot {
    NextBoot {
        file: "/etc/kernel/cmdline".to_owned(),
        parameters: text.split(' ').map(str::to_owned).collect(),
    }
}

pub fn policy(driver: &str, governor: &str) -> PolicyFacts {
    PolicyFacts {
        cpus: "0-7".parse().unwrap(),
        driver: driver.to_owned(),
        governor: governor.to_owned(),
    }
}
