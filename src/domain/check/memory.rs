//! Memory of the host: what merges, splits or moves pages under a VM, and whether there is enough.

use super::host_facts::{GuestOfHost, HostFacts};
use super::rule::Severity::{Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use crate::domain::topology::Node;
use crate::domain::words::count;

/// KiB in a GiB.
const GIB: u64 = 1 << 20;
/// Swap in use that is worth a word: what was not touched for days ends up there too.
const MUCH_SWAP: u64 = GIB;
/// vCPUs on a CPU that guests share without anybody noticing, as rules of thumb go.
const SHARED_BY: usize = 4;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "ksm",
        required: "equal pages of vms are not being merged",
        why: "KSM reads the memory of every VM all the time, and a write to a merged page makes the guest wait \
              for a copy. Memory of a VM with a passed-through device is never merged.",
        fix: "qm set <vmid> --allow-ksm 0 for each vm that must not wait, or ksm = \"stop\" below [host] in \
               its table",
        severity: Notice,
        judge: Judge::Host(|host| match host.ksm {
            Some(ksm) if ksm.runs => {
                Fault::new(format!("{} pages are merged", ksm.n_sharing)).into()
            }
            Some(_) => Verdict::passed("ksm does not merge"),
            None => Verdict::skipped("the kernel has no ksm"),
        }),
    },
    Check {
        id: "transparent-hugepages",
        required: "the kernel may use transparent hugepages",
        why: "Without them, and without hugepages of its own, a guest pays for every 4 KiB page.",
        fix: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        severity: Notice,
        judge: Judge::Host(|host| match host.transparent_hugepages.as_deref() {
            Some("never") => Fault::new("the kernel never uses them").into(),
            Some(choice) => Verdict::passed(choice),
            None => Verdict::skipped("the kernel has no transparent hugepages"),
        }),
    },
    Check {
        id: "hugepages",
        required: "reserved hugepages are for vms that use them",
        why: "Memory that is reserved as hugepages is of no use to anything else.",
        fix: "qm set <vmid> --numa 1 --hugepages 1024 (or 2, the size in MiB) for the vm that they are meant for, or \
               remove hugepages= from the kernel's command line",
        severity: Notice,
        judge: Judge::Host(hugepages),
    },
    Check {
        id: "numa-memory",
        required: "every numa node with cpus has memory",
        why: "Memory is far for every CPU of a node without any: one that was meant to have memory has a \
              missing or broken module.",
        fix: "put memory into the channels of that node, or use cpus of other nodes for vms",
        severity: Notice,
        judge: Judge::Host(bare_nodes),
    },
    Check {
        id: "swap",
        required: "little swap is in use",
        why: "A guest whose memory was swapped out waits for the disk.",
        fix: "give vms less memory, or sysctl -w vm.swappiness=10",
        severity: Notice,
        judge: Judge::Host(|host| match host.memory {
            None => Verdict::skipped("/proc/meminfo cannot be read"),
            Some(memory) if memory.swap == 0 => Verdict::passed("no swap is in use"),
            Some(memory) if memory.swap_used > MUCH_SWAP => {
                Fault::new(format!("{} GiB of swap are in use", memory.swap_used / GIB)).into()
            }
            Some(memory) => Verdict::passed(format!("{} MiB are in use", memory.swap_used / 1024)),
        }),
    },
    Check {
        id: "memory-overcommit",
        required: "the host has the memory of all vms that run or start at boot",
        why: "When it has not, the kernel swaps, and in the end kills a VM.",
        fix: "give vms less memory (qm set <vmid> --memory ...), or start fewer at boot",
        severity: Warning,
        judge: Judge::Host(memory),
    },
    Check {
        id: "cpu-overcommit",
        required: "other vms are not crowded onto the cpus that tables leave",
        why: "What tables take is gone for everybody else: other VMs wait for each other then.",
        fix: "give vms fewer vcpus (qm set <vmid> --cores ...), or tables fewer cpus",
        severity: Notice,
        judge: Judge::Host(shared_cpus),
    },
];

fn hugepages(host: &HostFacts) -> Verdict {
    let reserved = host.hugepages.iter().filter(|(_, all)| *all > 0);
    let kib: u64 = reserved.map(|(pool, all)| u64::from(pool.kib) * all).sum();
    if kib == 0 {
        return Verdict::passed("no hugepages are reserved");
    }
    let text = format!("{} MiB are reserved", kib / 1024);
    match host.guests.iter().any(|one| one.guest.hugepages.is_some()) {
        true => Verdict::passed(text),
        false => Fault::new(format!("{text}, and no vm has hugepages: set")).into(),
    }
}

fn bare_nodes(host: &HostFacts) -> Verdict {
    let nodes = host.topology.nodes().iter();
    // A level 3 cache that the firmware shows as a node has the memory of its package.
    let is_bare = |node: &&Node| !node.cpus.is_empty() && host.topology.memory_of(node).is_none();
    let bare = nodes.filter(is_bare);
    let faults = bare.map(|node| Fault::new(format!("node {} has no memory", node.id)));
    Verdict::of(faults.collect(), "every node with cpus has memory")
}

fn memory(host: &HostFacts) -> Verdict {
    let Some(memory) = host.memory else {
        return Verdict::skipped("/proc/meminfo cannot be read");
    };
    let counted = host.guests.iter().filter(|one| one.counts());
    let mib: u64 = counted.map(|one| u64::from(one.guest.memory_mib)).sum();
    let has = memory.total / 1024;
    let text = format!("vms have {mib} MiB, the host {has} MiB");
    match mib > has {
        true => Fault::new(text).into(),
        false => Verdict::passed(text),
    }
}

fn shared_cpus(host: &HostFacts) -> Verdict {
    let counted = || host.guests.iter().filter(|one| one.counts());
    let owned = counted().flat_map(|one| one.cpus.iter()).collect();
    let left = host.topology.online().difference(&owned).len();
    let others = counted().filter(|one: &&GuestOfHost| !one.has_table);
    let n_vcpus: usize = others.map(|one| one.guest.n_vcpus as usize).sum();
    let (vcpus, cpus) = (count(n_vcpus, "vcpu"), count(left, "cpu"));
    match n_vcpus > SHARED_BY * left {
        true => Fault::new(format!("{vcpus} share {cpus}")).into(),
        false => Verdict::passed(format!("{vcpus}, {cpus}")),
    }
}
