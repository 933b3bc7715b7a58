//! Threads of a VM and what each of them is for.

use serde::{Deserialize, Serialize};

use super::cpuset::CpuSet;
use super::vm::TaskId;

/// Thread of a QEMU process as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Which thread it is.
    pub id: TaskId,
    /// Its name, cut at 15 characters by the kernel.
    pub comm: String,
    /// Path of its cgroup below the root of the hierarchy.
    pub group: String,
    /// CPUs that it may run on now (effective).
    pub affinity: CpuSet,
    /// Whether the kernel refuses to move or pin it (`PF_NO_SETAFFINITY`).
    pub bound: bool,
    /// Id of the iothread object that it serves, as QMP tells.
    pub iothread: Option<String>,
}

/// What a thread of a VM is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the guest's CPU of this index.
    Vcpu(usize),
    /// Serves the iothread object of this id.
    Iothread(String),
    /// Moves packets of a network device in the kernel.
    Vhost,
    /// Anything else: the main loop, its workers, the VM's `kvm-*` kernel threads.
    Emulator,
}

impl Thread {
    /// Returns what the thread is for.
    ///
    /// QEMU names vCPU threads `CPU <n>/KVM` (`CPU <n>/TCG` under emulation), the kernel names
    /// vhost workers `vhost-<pid>`; iothreads are known by QMP only.
    pub fn role(&self) -> Role {
        if let Some(n) = vcpu_of_comm(&self.comm) {
            return Role::Vcpu(n as usize);
        }
        match &self.iothread {
            Some(id) => Role::Iothread(id.clone()),
            None if self.comm.starts_with("vhost-") => Role::Vhost,
            None => Role::Emulator,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Role::Vcpu(n) => write!(f, "vcpu {n}"),
            Role::Iothread(id) => write!(f, "iothread {id}"),
            Role::Vhost => f.write_str("vhost"),
            Role::Emulator => f.write_str("emulator"),
        }
    }
}

/// Names of scheduling classes by their number in the kernel (`include/uapi/linux/sched.h`).
const CLASSES: [(u32, &str); 5] = [
    (0, "other"),
    (1, "fifo"),
    (2, "rr"),
    (3, "batch"),
    (5, "idle"),
];

/// Returns a scheduling class in words, as a table has it; one without a name is its number.
pub fn class_of_policy(policy: u32, priority: u32) -> String {
    let named = CLASSES.iter().find(|(number, _)| *number == policy);
    let name = named.map_or_else(|| policy.to_string(), |(_, name)| (*name).to_owned());
    match priority {
        0 => name,
        _ => format!("{name}:{priority}"),
    }
}

/// Returns the number and the priority of a scheduling class, the inverse of [`class_of_policy`].
pub fn policy_of_class(text: &str) -> Option<(u32, u32)> {
    let (name, priority) = text.split_once(':').unwrap_or((text, "0"));
    let named = CLASSES.iter().find(|(_, class)| *class == name);
    let policy = named.map_or_else(|| name.parse().ok(), |(number, _)| Some(*number));
    Some((policy?, priority.parse().ok()?))
}

/// Returns the index of the vCPU that a thread of this name runs (`qemu_thread_get_name` with
/// `debug-threads=on`, which PVE sets).
pub fn vcpu_of_comm(comm: &str) -> Option<u32> {
    let (number, accelerator) = comm.strip_prefix("CPU ")?.split_once('/')?;
    matches!(accelerator, "KVM" | "TCG")
        .then(|| number.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_the_kernel() {
        for (policy, priority, text) in [(0, 0, "other"), (1, 9, "fifo:9"), (6, 0, "6")] {
            assert_eq!(class_of_policy(policy, priority), text);
            assert_eq!(policy_of_class(text), Some((policy, priority)));
        }
        assert_eq!(policy_of_class("speedy"), None);
    }

    #[test]
    fn only_qemus_own_names_are_vcpus() {
        assert_eq!(vcpu_of_comm("CPU 0/KVM"), Some(0));
        assert_eq!(vcpu_of_comm("CPU 127/TCG"), Some(127));
        for comm in [
            "CPU 0/KV",
            "CPU x/KVM",
            "cpu 0/KVM",
            "CPU /KVM",
            "CPU 0/KVM2",
            "kvm",
        ] {
            assert_eq!(vcpu_of_comm(comm), None, "{comm}");
        }
    }
}
