//! Interrupts: `/proc/irq` and `/proc/interrupts` (`kernel/irq/proc.c`).

use std::collections::BTreeMap;
use std::io;

use pin_hook::domain::cpuset::{CpuId, CpuSet};

use super::{Kernel, Sim, State, errno, hex_mask, parse_cpulist, parse_hex_mask};

/// One interrupt.
#[derive(Debug, Clone)]
pub struct Irq {
    pub affinity: CpuSet,
    /// The CPU it is delivered to; x86 picks one.
    pub effective: CpuSet,
    pub actions: Vec<String>,
    pub kind: Kind,
    pub node: i32,
    counts: BTreeMap<u32, u64>,
    /// Set while a moved interrupt has not fired yet: until then the old CPU is effective.
    pending: bool,
}

/// Who decides where an interrupt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whoever writes the mask.
    Free,
    /// The kernel (managed interrupts, as those of NVMe queues): writes are refused.
    Managed,
    /// Nobody: the interrupt has to stay where it is, as the timer's.
    Fixed,
}

/// All interrupts, by number.
#[derive(Debug, Clone, Default)]
pub struct Irqs {
    by_number: BTreeMap<u32, Irq>,
    pub default_affinity: CpuSet,
    /// Moves wait for the next interrupt, as without interrupt remapping.
    pub lazy: bool,
}

const FILES: [&str; 7] = [
    "affinity_hint",
    "effective_affinity",
    "effective_affinity_list",
    "node",
    "smp_affinity",
    "smp_affinity_list",
    "spurious",
];

pub fn is_irq_path(path: &str) -> bool {
    path == "/proc/irq" || path.starts_with("/proc/irq/") || path == "/proc/interrupts"
}

/// Splits `/proc/irq/<number>[/file]`.
fn split(path: &str) -> Option<(u32, &str)> {
    let rest = path.strip_prefix("/proc/irq/")?;
    let (number, file) = rest.split_once('/').unwrap_or((rest, ""));
    Some((number.parse().ok()?, file))
}

impl State {
    pub fn irq_list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = match split(path) {
            None if path == "/proc/irq" => {
                let numbers = self.irqs.by_number.keys().map(u32::to_string);
                numbers.chain(["default_smp_affinity".to_owned()]).collect()
            }
            Some((number, "")) => {
                let irq = self
                    .irqs
                    .by_number
                    .get(&number)
                    .ok_or_else(|| errno(libc::ENOENT))?;
                let files = FILES.iter().map(|&name| name.to_owned());
                files.chain(irq.actions.iter().cloned()).collect()
            }
            Some((number, action)) => match self.irqs.by_number.get(&number) {
                Some(irq) if irq.actions.iter().any(|name| name == action) => Vec::new(),
                Some(_) if FILES.contains(&action) => return Err(errno(libc::ENOTDIR)),
                _ => return Err(errno(libc::ENOENT)),
            },
            None => return Err(errno(libc::ENOTDIR)),
        };
        names.sort_unstable();
        Ok(names)
    }

    pub fn irq_dirs(&self) -> impl Iterator<Item = String> + '_ {
        self.irqs
            .by_number
            .keys()
            .map(|number| format!("/proc/irq/{number}"))
    }

    pub fn irq_read(&self, path: &str) -> io::Result<String> {
        let n_possible = self.cpus.n_possible();
        match path {
            "/proc/irq" => return Err(errno(libc::EISDIR)),
            "/proc/interrupts" => return Ok(self.interrupts()),
            "/proc/irq/default_smp_affinity" => {
                return Ok(hex_mask(&self.irqs.default_affinity, n_possible) + "\n");
            }
            _ => {}
        }
        let (number, file) = split(path).ok_or_else(|| errno(libc::ENOENT))?;
        let irq = self
            .irqs
            .by_number
            .get(&number)
            .ok_or_else(|| errno(libc::ENOENT))?;
        let text = match file {
            "smp_affinity_list" => irq.affinity.to_string(),
            "smp_affinity" => hex_mask(&irq.affinity, n_possible),
            "effective_affinity_list" => irq.effective.to_string(),
            "effective_affinity" => hex_mask(&irq.effective, n_possible),
            "affinity_hint" => hex_mask(&CpuSet::new(), n_possible),
            "node" => irq.node.to_string(),
            "spurious" => "count 1\nunhandled 0\nlast_unhandled 0 ms".to_owned(),
            "" => return Err(errno(libc::EISDIR)),
            _ => return Err(errno(libc::ENOENT)),
        };
        Ok(text + "\n")
    }

    /// Returns the permissions of a file: since 6.11 those of an interrupt that nobody may move
    /// cannot be written.
    pub fn irq_mode(&self, path: &str) -> io::Result<u32> {
        self.irq_read(path)?;
        let Some((number, file)) = split(path) else {
            return Ok(if path == "/proc/interrupts" {
                0o444
            } else {
                0o644
            });
        };
        let is_mask = ["smp_affinity_list", "smp_affinity"].contains(&file);
        let is_free = self.irqs.by_number[&number].kind == Kind::Free;
        Ok(match is_mask && (is_free || self.kernel < Kernel(6, 11)) {
            true => 0o644,
            false => 0o444,
        })
    }

    pub fn irq_write(&mut self, path: &str, text: &str) -> io::Result<()> {
        let n_possible = self.cpus.n_possible();
        if path == "/proc/irq/default_smp_affinity" {
            let cpus = parse_hex_mask(text, n_possible)?;
            if cpus.is_disjoint(&self.cpus.online) {
                return Err(errno(libc::EINVAL));
            }
            self.irqs.default_affinity = cpus;
            return Ok(());
        }
        // 6.12 made EPERM of what was EIO before.
        let refusal = if self.kernel >= Kernel::V6_12 {
            libc::EPERM
        } else {
            libc::EIO
        };
        let (number, file) = split(path).ok_or_else(|| errno(libc::ENOENT))?;
        let irq = self
            .irqs
            .by_number
            .get_mut(&number)
            .ok_or_else(|| errno(libc::ENOENT))?;
        if !["smp_affinity_list", "smp_affinity"].contains(&file) {
            return Err(errno(libc::EIO));
        }
        if irq.kind != Kind::Free {
            return Err(errno(refusal));
        }
        let cpus = match file {
            "smp_affinity_list" => parse_cpulist(text, n_possible)?,
            _ => parse_hex_mask(text, n_possible)?,
        };
        if cpus.is_disjoint(&self.cpus.online) {
            return Err(errno(libc::EINVAL));
        }
        irq.pending = self.irqs.lazy;
        irq.affinity = cpus;
        irq.settle(&self.cpus.online);
        Ok(())
    }

    fn interrupts(&self) -> String {
        let online: Vec<_> = self.cpus.online.iter().collect();
        let mut text = "     ".to_owned();
        text.extend(
            online
                .iter()
                .map(|cpu| format!("{:>11}", format!("CPU{cpu}"))),
        );
        text.push('\n');
        for (number, irq) in self
            .irqs
            .by_number
            .iter()
            .filter(|(_, irq)| !irq.actions.is_empty())
        {
            text.push_str(&format!("{number:>3}:"));
            for cpu in &online {
                text.push_str(&format!(" {:>10}", irq.counts.get(&cpu.0).unwrap_or(&0)));
            }
            let actions = irq.actions.join(", ");
            text.push_str(&format!(
                "  IR-PCI-MSI-0000:00:02.0   {number}-edge      {actions}\n"
            ));
        }
        text + "NMI:"
            + &"          0".repeat(online.len())
            + "   Non-maskable interrupts\nERR:          0\n"
    }

    /// Moves the interrupts of CPUs that went offline: one that has none left may go anywhere.
    pub fn irqs_after_hotplug(&mut self) {
        for irq in self.irqs.by_number.values_mut() {
            if irq.kind == Kind::Free && irq.affinity.is_disjoint(&self.cpus.online) {
                irq.affinity = self.cpus.online.clone();
            }
            irq.settle(&self.cpus.online);
        }
    }

    /// An interrupt is set up: it takes what is online of `default_smp_affinity`, or all that is online, and of
    /// that the CPUs of its device's node if there are any (-1: none; `irq_setup_affinity()`).
    pub fn add_irq(&mut self, number: u32, action: &str, node: i32) {
        let set = self.irqs.default_affinity.intersection(&self.cpus.online);
        let set = match set.is_empty() {
            true => self.cpus.online.clone(),
            false => set,
        };
        let of_node =
            |cpu: &CpuId| i64::from(self.cpus.seats[cpu.0 as usize].node) == i64::from(node);
        let near: CpuSet = set.iter().filter(of_node).collect();
        let affinity = if near.is_empty() { set } else { near };
        self.insert_irq(number, action, affinity, Kind::Free, node);
    }

    /// An interrupt is born that the kernel keeps on the given CPUs.
    pub fn insert_irq(
        &mut self,
        number: u32,
        action: &str,
        affinity: CpuSet,
        kind: Kind,
        node: i32,
    ) {
        let actions = Vec::from([action.to_owned()]);
        let (effective, counts) = (CpuSet::new(), BTreeMap::new());
        let mut irq = Irq {
            affinity,
            effective,
            actions,
            kind,
            node,
            counts,
            pending: false,
        };
        irq.settle(&self.cpus.online);
        if kind == Kind::Managed {
            // Only a PCI device can ask for one.
            let chip = format!("/sys/kernel/irq/{number}/chip_name");
            self.tree.put(&chip, "PCI-MSIX-0000:01:00.0\n", 0o444);
        }
        self.irqs.by_number.insert(number, irq);
    }

    /// A driver frees an interrupt and asks for it again.
    pub fn rebirth_irq(&mut self, number: u32) {
        let old = self.irqs.by_number.remove(&number).expect("the interrupt");
        match old.kind {
            Kind::Free => self.add_irq(number, &old.actions[0], old.node),
            kind => self.insert_irq(number, &old.actions[0], old.affinity, kind, old.node),
        }
    }
}

impl Irq {
    /// Picks the CPU: the old one when it still may be used, else the lowest (x86 takes the one
    /// with the most free vectors). A managed interrupt without a CPU is shut down, which shows as
    /// the first CPU that is online (`vector_assign_managed_shutdown()`).
    fn settle(&mut self, online: &CpuSet) {
        let mut usable = self.affinity.intersection(online);
        if self.kind == Kind::Managed && usable.is_empty() {
            usable = online.first().map(CpuSet::of).unwrap_or_default();
        }
        let stays = !self.effective.is_empty() && self.effective.is_subset(&usable);
        if !self.pending && !stays {
            self.effective = usable.first().map(CpuSet::of).unwrap_or_default();
        }
    }
}

impl Irqs {
    pub fn iter(&self) -> impl Iterator<Item = (&u32, &Irq)> {
        self.by_number.iter()
    }
}

impl Sim {
    /// An interrupt is born on what is online of `default_smp_affinity`.
    pub fn add_irq(&self, number: u32, action: &str) {
        self.state().add_irq(number, action, -1);
    }

    /// An interrupt is allocated and no driver has asked for it yet: it shows the whole default, whatever is
    /// online (`desc_smp_init()`).
    pub fn allocate_irq(&self, number: u32) {
        let mut state = self.state();
        let default = state.irqs.default_affinity.clone();
        state.insert_irq(number, "", default, Kind::Free, -1);
        let irq = state.irqs.by_number.get_mut(&number);
        irq.expect("the interrupt").actions.clear();
    }

    /// A managed interrupt is born on the CPUs that the kernel chose.
    pub fn add_managed_irq(&self, number: u32, action: &str, cpus: &CpuSet) {
        self.state()
            .insert_irq(number, action, cpus.clone(), Kind::Managed, -1);
    }

    /// A driver frees an interrupt.
    pub fn remove_irq(&self, number: u32) {
        self.state().irqs.by_number.remove(&number);
    }

    /// An interrupt fires: a pending move takes place, the count of its CPU grows.
    pub fn fire_irq(&self, number: u32) {
        let mut state = self.state();
        let online = state.cpus.online.clone();
        let irq = state
            .irqs
            .by_number
            .get_mut(&number)
            .expect("the interrupt");
        irq.pending = false;
        irq.settle(&online);
        if let Some(cpu) = irq.effective.first() {
            *irq.counts.entry(cpu.0).or_default() += 1;
        }
    }

    /// Makes moves of interrupts wait for the next one, as without interrupt remapping.
    pub fn lazy_irqs(&self) {
        self.state().irqs.lazy = true;
    }
}
