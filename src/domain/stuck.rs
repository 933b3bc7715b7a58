//! Interrupts that the kernel lets nobody move, told once for each device.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::cpuset::CpuSet;
use super::words;

/// Interrupts of one device that stay on owned CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// Name of the device, as its driver begins the names of its interrupts.
    pub device: String,
    /// How many there are.
    pub count: usize,
    /// Owned CPUs that they are delivered to.
    pub cpus: CpuSet,
    /// Whether the kernel has chosen their CPUs (managed interrupts, such as those of NVMe queues).
    pub managed: bool,
}

/// Interrupt that nobody can move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed<'i> {
    /// Names of what handles it.
    pub actions: &'i str,
    /// Owned CPUs that it is delivered to.
    pub cpus: CpuSet,
    /// Whether the kernel has chosen its CPUs.
    pub managed: bool,
}

impl Stuck {
    /// Returns what is to be told of interrupts; one that is on no owned CPU disturbs nobody.
    pub fn by_device<'i>(irqs: impl IntoIterator<Item = Fixed<'i>>) -> Vec<Self> {
        let mut devices: BTreeMap<&str, Vec<Fixed<'_>>> = BTreeMap::new();
        // One without a handler never occurs.
        let occurs = |irq: &Fixed<'_>| !irq.cpus.is_empty() && !irq.actions.is_empty();
        for irq in irqs.into_iter().filter(occurs) {
            devices.entry(device_of(irq.actions)).or_default().push(irq);
        }
        let stuck = devices.into_iter().map(|(device, irqs)| Stuck {
            device: device.to_owned(),
            count: irqs.len(),
            cpus: irqs.iter().flat_map(|irq| irq.cpus.iter()).collect(),
            managed: irqs.iter().any(|irq| irq.managed),
        });
        stuck.collect()
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stuck {
            device,
            count,
            cpus,
            managed,
        } = self;
        let n = words::count(*count, "interrupt");
        let owned = cpus.in_words();
        write!(f, "{device}: {n} cannot be moved off {owned}")?;
        // Best effort of the kernel: it keeps a queue off only if other CPUs are in its mask.
        match managed {
            true => write!(
                f,
                "; at the next boot isolcpus=managed_irq,{cpus} can help where a queue is shared \
                 with other cpus"
            ),
            false => Ok(()),
        }
    }
}

/// Returns the device in the names of an interrupt's handlers: drivers number the queues of a
/// device behind its name, as in `nvme0q3`, `virtio1-req.0`, `eth0-TxRx-2` or `mlx5_comp1@pci:...`.
fn device_of(actions: &str) -> &str {
    let name = actions.split([' ', '-', '@', '.']).next().unwrap_or("");
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem.strip_suffix('q') {
        Some(device) if stem != name && !device.is_empty() => device,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_belong_to_their_device() {
        for (actions, device) in [
            ("nvme0q13", "nvme0"),
            ("virtio1-req.0", "virtio1"),
            ("eth0-TxRx-0", "eth0"),
            ("mlx5_comp3@pci:0000:41:00.0", "mlx5_comp3"),
            ("ahci[0000:00:1f", "ahci[0000:00:1f"),
            ("i8042", "i8042"),
            ("q7", "q7"),
            ("", ""),
        ] {
            assert_eq!(device_of(actions), device);
        }
    }

    #[test]
    fn a_device_is_told_once() {
        let on = |list: &str| list.parse::<CpuSet>().unwrap();
        let irqs = [
            ("nvme0q3", on("2"), true),
            ("nvme0q4", on("3"), true),
            ("nvme0q5", on(""), true),
            ("timer", on("4"), false),
        ];
        let irqs = irqs.map(|(actions, cpus, managed)| Fixed {
            actions,
            cpus,
            managed,
        });
        let lines: Vec<String> = Stuck::by_device(irqs)
            .iter()
            .map(Stuck::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "nvme0: 2 interrupts cannot be moved off cpus 2-3; at the next boot \
                 isolcpus=managed_irq,2-3 can help where a queue is shared with other cpus",
                "timer: 1 interrupt cannot be moved off cpu 4",
            ]
        );
    }
}
