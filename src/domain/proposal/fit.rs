//! The commands, `qm set` most of all, that make a guest fit its CPUs.
//!
//! PVE never gives `-smp` a number of threads, so SMT in the guest needs `args:`. QEMU merges all
//! `-smp` options property by property; the last value of each wins (seen with QEMU 10.0).

use std::collections::BTreeMap;

use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::guest::{Guest, GuestNode};
use crate::domain::placement::{Choice, Packing, Remark, Request, place};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;

/// Most sockets that stand for L3 domains: operating systems for desktops use few.
const MOST_SOCKETS: usize = 4;

/// A command for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The command, for a shell.
    pub line: String,
    /// What it is good for.
    pub why: String,
}

/// What the CPUs have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// One cache and one node.
    All,
    /// Several, with other numbers of vCPUs in each.
    Uneven,
}

/// Shape of the guest's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// vCPUs that can exist.
    pub n_vcpus: u32,
    /// vCPUs that exist from the start.
    pub at_start: u32,
    /// Sockets: one for each NUMA node or L3 domain, where they are filled evenly.
    pub sockets: u32,
    /// SMT siblings per guest core.
    pub threads: u32,
    /// Whether the host's CPUs are AMD's, whose guests are told of SMT by `topoext`.
    pub is_amd: bool,
    /// Why there is one socket, where there is one.
    pub shared: Shared,
}

/// Returns the shape that fits the CPUs of `choice`.
pub fn fit(guest: &Guest, choice: &Choice, topology: &Topology, is_amd: bool) -> Fit {
    let smt = |cpu| topology.siblings(cpu).intersection(&choice.cpus).len() + 1;
    let mut widths = choice.cpus.iter().map(smt);
    let width = widths.next().unwrap_or(1);
    let is_even = widths.all(|other| other == width);
    // PVE plugs in every vCPU as thread 0 of its core.
    let can_have_smt = choice.packing == Packing::Siblings && is_even && !guest.cpu_hotplug;
    let threads = if can_have_smt { number(width) } else { 1 };
    let wanted = guest.max_vcpus.max(guest.n_vcpus);
    let n_vcpus = wanted.next_multiple_of(threads);
    let at_start = match guest.n_vcpus < guest.max_vcpus {
        true => guest.n_vcpus,
        false => n_vcpus,
    };
    let mut fit = Fit {
        n_vcpus,
        at_start,
        sockets: 1,
        threads,
        is_amd,
        shared: Shared::Uneven,
    };
    let groups = [
        fit.groups(choice, topology, |cpu| {
            topology.node_of(cpu).map(|node| node.id)
        }),
        fit.groups(choice, topology, |cpu| {
            topology.l3_index_of(cpu).map(number)
        }),
    ];
    let [nodes, caches] = &groups;
    let sizes = match nodes.len() {
        0 | 1 => Some(caches).filter(|caches| (2..=MOST_SOCKETS).contains(&caches.len())),
        _ => Some(nodes),
    };
    let sockets = sizes.filter(|sizes| fills_sockets(sizes, n_vcpus, threads));
    fit.sockets = sockets.map_or(1, |sizes| number(sizes.len()));
    if nodes.len() < 2 && caches.len() < 2 {
        fit.shared = Shared::All;
    }
    fit
}

/// Tells whether each group has as many vCPUs, whole cores of them, one after the other as in sockets.
fn fills_sockets(groups: &BTreeMap<u32, Vec<u32>>, n_vcpus: u32, threads: u32) -> bool {
    let per_socket = n_vcpus / number(groups.len());
    let is_socket = |vcpus: &Vec<u32>| {
        let first = vcpus.first().copied().unwrap_or(0);
        let follow = (first..).zip(vcpus).all(|(n, vcpu)| n == *vcpu);
        number(vcpus.len()) == per_socket && first.is_multiple_of(per_socket) && follow
    };
    per_socket > 0 && per_socket.is_multiple_of(threads) && groups.values().all(is_socket)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Fit {
    /// Returns the vCPUs by what `key` says of their CPU.
    fn groups(
        &self,
        choice: &Choice,
        topology: &Topology,
        key: impl Fn(CpuId) -> Option<u32>,
    ) -> BTreeMap<u32, Vec<u32>> {
        let n_vcpus = self.n_vcpus as usize;
        let request = Request {
            cpus: choice.cpus.clone(),
            also: choice.idle.clone(),
            n_vcpus: self.at_start as usize,
            max_vcpus: n_vcpus,
            guest_smt: self.threads as usize,
            ..Request::default()
        };
        let placed = place(&request, topology).map(|placement| placement.vcpus);
        let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (vcpu, cpu) in placed.unwrap_or_default().into_iter().enumerate() {
            if let Some(key) = key(cpu) {
                groups.entry(key).or_default().push(number(vcpu));
            }
        }
        groups
    }

    /// Returns what the guest will not know; `choice` is what the shape was made for.
    pub fn remark(&self, choice: &Choice, topology: &Topology) -> Option<Remark> {
        let has_sibling = |cpu| !topology.siblings(cpu).is_disjoint(&choice.cpus);
        let shares = choice.cpus.iter().any(has_sibling);
        let text = "the guest cannot know which of its vcpus share a core, because smt needs cores \
                    of one kind and no cpu hotplug";
        (shares && self.threads == 1).then(|| Remark::warning(text.to_owned()))
    }

    /// Returns what has to be set for a VM, each with its reason; none when it fits.
    pub fn commands(
        &self,
        vmid: Vmid,
        guest: &Guest,
        choice: &Choice,
        topology: &Topology,
    ) -> Vec<Command> {
        let command = |(what, why): (String, String)| Command {
            line: format!("qm set {vmid} {what}"),
            why,
        };
        let all = [
            self.cores(guest),
            self.args(guest),
            self.cpu_type(guest),
            self.nodes(guest, choice, topology),
            affinity(guest),
            cpu_limit(guest),
        ];
        let set = all.into_iter().flatten().map(command);
        set.chain(hook(vmid, guest)).collect()
    }

    /// Returns what tells the guest which of its vCPUs share a core; nothing where it cannot be told.
    pub fn tells_smt(&self, vmid: Vmid, guest: &Guest) -> Vec<String> {
        if self.threads < 2 {
            return Vec::new();
        }
        let all = [self.cores(guest), self.args(guest), self.cpu_type(guest)];
        let set = all.into_iter().flatten();
        set.map(|(what, _)| format!("qm set {vmid} {what}"))
            .collect()
    }

    fn cores(&self, guest: &Guest) -> Option<(String, String)> {
        let Fit {
            n_vcpus, sockets, ..
        } = *self;
        let cores = n_vcpus / sockets;
        if (guest.sockets, guest.cores) == (sockets, cores) {
            return None;
        }
        let mut why = match sockets {
            1 if self.shared == Shared::All => {
                "one socket, because all share one cache and node".to_owned()
            }
            1 => "one socket, because the cpus form no even groups by cache or node".to_owned(),
            n => format!("{n} sockets, because what shares a cache or a node is one socket"),
        };
        if n_vcpus > guest.max_vcpus {
            why = format!(
                "{n_vcpus} vcpus instead of {}: cores are owned whole",
                guest.max_vcpus
            );
        }
        Some((format!("--sockets {sockets} --cores {cores}"), why))
    }

    /// Returns the line for `args`: `-smp` with SMT, or without where the CPUs have none.
    fn args(&self, guest: &Guest) -> Option<(String, String)> {
        let fits = guest.smt == self.threads
            && (self.threads == 1
                || guest.max_vcpus == self.n_vcpus && guest.sockets == self.sockets)
            && (self.threads == 1 || !self.lacks_topoext(guest));
        if fits {
            return None;
        }
        let mut args = without_smp(guest.args.as_deref().unwrap_or(""));
        let mut why = "no smt in the guest, because its vcpus have no smt siblings".to_owned();
        if self.threads > 1 {
            args.push(self.smp());
            why = format!("the guest knows which {} vcpus share a core", self.threads);
        }
        if self.threads > 1 && self.lacks_topoext(guest) {
            let model = self.model(guest);
            args.push(format!("-global {model}-x86_64-cpu.topoext=on"));
            why += "; AMD guests need topoext for that";
        }
        Some(match args.is_empty() {
            true => ("--delete args".to_owned(), why),
            false => (format!("--args {}", quoted(&args.join(" "))), why),
        })
    }

    fn smp(&self) -> String {
        let Fit {
            n_vcpus,
            at_start,
            sockets,
            threads,
            ..
        } = *self;
        let cores = n_vcpus / sockets / threads;
        format!(
            "-smp {at_start},sockets={sockets},cores={cores},threads={threads},maxcpus={n_vcpus}"
        )
    }

    /// Returns the CPU model that can be given `topoext`: the types `host` and `max` leave it out
    /// unless asked, AMD's own have it, a custom one is in the hands of who made it.
    fn model(&self, guest: &Guest) -> &'static str {
        match guest.cpu_type.as_deref() {
            Some("max") => "max",
            _ => "host",
        }
    }

    fn lacks_topoext(&self, guest: &Guest) -> bool {
        self.is_amd && lacks_topoext(guest)
    }

    fn cpu_type(&self, guest: &Guest) -> Option<(String, String)> {
        let is_known = matches!(guest.cpu_type.as_deref(), Some("host" | "max"));
        let needed = self.threads > 1 && self.lacks_topoext(guest) && !is_known;
        needed.then(|| {
            let why = "only this type can expose smt on AMD".to_owned();
            ("--cpu host".to_owned(), why)
        })
    }

    /// Returns the line that gives the guest the host's NUMA nodes and their memory.
    fn nodes(
        &self,
        guest: &Guest,
        choice: &Choice,
        topology: &Topology,
    ) -> Option<(String, String)> {
        let with_memory = |id: u32| {
            let mut nodes = topology.nodes().iter();
            nodes.any(|node| node.id == id && node.has_memory)
        };
        if topology
            .nodes()
            .iter()
            .filter(|node| node.has_memory)
            .count()
            < 2
        {
            return None;
        }
        let vcpus = self.groups(choice, topology, |cpu| {
            topology.node_of(cpu).map(|node| node.id)
        });
        // PVE has at most eight numaN.
        if vcpus.is_empty() || vcpus.len() > 8 || !vcpus.keys().all(|id| with_memory(*id)) {
            return None;
        }
        let nodes = guest_nodes(vcpus, guest.memory_mib, self.n_vcpus);
        if !nodes.iter().all(|node| has_room(node, topology)) {
            return None;
        }
        let is_bound = |node: &GuestNode| !node.host_nodes.is_empty();
        let same = |(one, two): (&GuestNode, &GuestNode)| {
            one.vcpus == two.vcpus && one.host_nodes == two.host_nodes
        };
        let fits = guest.nodes.len() == nodes.len()
            && guest.nodes.iter().all(is_bound)
            && guest.nodes.iter().zip(&nodes).all(same);
        if fits {
            return None;
        }
        let numbered = nodes.iter().enumerate();
        let options = numbered.map(|(n, node)| format!(" --numa{n} {}", option(node)));
        let options: String = options.collect();
        let more: Vec<String> = (nodes.len()..guest.nodes.len())
            .filter(|_| guest.nodes.iter().any(is_bound))
            .map(|n| format!("numa{n}"))
            .collect();
        let delete = match more.is_empty() {
            true => String::new(),
            false => format!(" --delete {}", more.join(",")),
        };
        let why = "the guest's memory comes from the nodes of its cpus".to_owned();
        Some((format!("--numa 1{options}{delete}"), why))
    }
}

/// Tells whether a guest on AMD's CPUs takes each thread of `-smp` for a core: QEMU leaves `topoext` out of
/// every type but AMD's own, also where it enables all that the host has (`no_autoenable_flags` in
/// `target/i386/cpu.c`).
pub fn lacks_topoext(guest: &Guest) -> bool {
    let kind = guest.cpu_type.as_deref().unwrap_or("kvm64");
    let has = kind.starts_with("EPYC") || kind.starts_with("custom-");
    let args = guest.args.as_deref().unwrap_or("");
    !has && !args.contains("topoext")
}

/// Tells whether the memory of a guest node is less than its node of the host has.
fn has_room(node: &GuestNode, topology: &Topology) -> bool {
    let host = node.host_nodes.iter().filter_map(|id| topology.node(*id));
    let mut known = host.filter_map(|host| host.memory_kib);
    known.all(|kib| u64::from(node.memory_mib) * 1024 <= kib)
}

/// Returns guest nodes with memory in proportion to their vCPUs.
fn guest_nodes(vcpus: BTreeMap<u32, Vec<u32>>, memory_mib: u32, n_vcpus: u32) -> Vec<GuestNode> {
    let mut nodes: Vec<GuestNode> = vcpus
        .into_iter()
        .map(|(id, vcpus)| GuestNode {
            key: None,
            memory_mib: share(memory_mib, number(vcpus.len()), n_vcpus),
            vcpus,
            host_nodes: vec![id],
            policy: Some("preferred".to_owned()),
        })
        .collect();
    let given: u32 = nodes.iter().map(|node| node.memory_mib).sum();
    if let Some(first) = nodes.first_mut() {
        first.memory_mib += memory_mib.saturating_sub(given);
    }
    nodes
}

fn share(all: u32, part: u32, of: u32) -> u32 {
    let share = u64::from(all) * u64::from(part) / u64::from(of.max(1));
    u32::try_from(share).unwrap_or(all)
}

/// Returns the value of `numaN`; lists of vCPUs are joined by semicolons there.
fn option(node: &GuestNode) -> String {
    let vcpus: CpuSet = node.vcpus.iter().copied().map(CpuId).collect();
    let vcpus = vcpus.to_string().replace(',', ";");
    let host: CpuSet = node.host_nodes.iter().copied().map(CpuId).collect();
    let memory = node.memory_mib;
    let value = format!("cpus={vcpus},hostnodes={host},memory={memory},policy=preferred");
    match value.contains(';') {
        true => quoted(&value),
        false => value,
    }
}

fn affinity(guest: &Guest) -> Option<(String, String)> {
    let cpus = guest.affinity.as_ref()?;
    let why = format!("an affinity of the whole vm ({cpus}) is not needed with a table");
    Some(("--delete affinity".to_owned(), why))
}

fn cpu_limit(guest: &Guest) -> Option<(String, String)> {
    let limit = guest.cpu_limit?;
    let why = format!("cpulimit {limit} would throttle the vm even on cpus of its own");
    Some(("--delete cpulimit".to_owned(), why))
}

fn hook(vmid: Vmid, guest: &Guest) -> Option<Command> {
    if guest.is_hooked() {
        return None;
    }
    let why = match &guest.hookscript {
        None => "pve calls pin-hook when the vm starts and stops".to_owned(),
        Some(volume) => format!("pve calls pin-hook, and that calls {volume}"),
    };
    let line = format!("pin-hook enable {vmid}");
    Some(Command { line, why })
}

/// Returns the words of `args` without `-smp`; text with quotes is left as it is, because a later
/// `-smp` wins anyway.
fn without_smp(args: &str) -> Vec<String> {
    if args.contains(['\'', '"', '\\']) {
        return vec![args.to_owned()];
    }
    let mut words = args.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "-smp" | "--smp" => drop(words.next()),
            _ => kept.push(word.to_owned()),
        }
    }
    kept
}

/// Quotes a text for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
