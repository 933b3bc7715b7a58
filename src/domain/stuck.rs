//! Interrupts that the kernel lets nobody move, told once for each device.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::cpuset::CpuSet;

/// Interrupts of one device that stay on owned CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// Name of the device, as its driver begins the names of its interrupts.
    pub device: String,
    /// How many there are.
    pub count: usize,
    /// Owned CPUs that they are delivered to.
    pub cpus: CpuSet,
}

impl Stuck {
    /// Returns what is to be told of interrupts, given the names of what handles each and the
    /// owned CPUs that it is delivered to; one that is on none of them disturbs nobody.
    pub fn by_device<'i>(irqs: impl IntoIterator<Item = (&'i str, CpuSet)>) -> Vec<Self> {
        let mut devices: BTreeMap<&str, Vec<CpuSet>> = BTreeMap::new();
        let on_owned = irqs.into_iter().filter(|(_, cpus)| !cpus.is_empty());
        for (actions, cpus) in on_owned {
            devices.entry(device_of(actions)).or_default().push(cpus);
        }
        let stuck = devices.into_iter().map(|(device, sets)| Stuck {
            device: device.to_owned(),
            count: sets.len(),
            cpus: sets.iter().flat_map(CpuSet::iter).collect(),
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
        } = self;
        let (noun, verb) = match count {
            1 => ("interrupt", "stays"),
            _ => ("interrupts", "stay"),
        };
        write!(
            f,
            "{device}: {count} {noun} that the kernel manages {verb} on {}; the kernel parameter \
             isolcpus=managed_irq,{cpus} keeps them off",
            cpus.in_words()
        )
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
            ("nvme0q3", on("2")),
            ("nvme0q4", on("3")),
            ("nvme0q5", on("")),
            ("timer", on("4")),
        ];
        let lines: Vec<String> = Stuck::by_device(irqs)
            .iter()
            .map(Stuck::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "nvme0: 2 interrupts that the kernel manages stay on cpus 2-3; the kernel \
                 parameter isolcpus=managed_irq,2-3 keeps them off",
                "timer: 1 interrupt that the kernel manages stays on cpu 4; the kernel parameter \
                 isolcpus=managed_irq,4 keeps them off",
            ]
        );
    }
}
