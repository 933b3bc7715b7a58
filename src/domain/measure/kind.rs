//! Kinds of things that take time from a guest.

use serde::{Deserialize, Serialize};

/// What kind of thing takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A program.
    Program,
    /// A kernel thread.
    KernelThread,
    /// Work that a kernel thread does for somebody.
    Work,
    /// An interrupt of a device.
    Interrupt,
    /// The kernel's own clock interrupt.
    Tick,
    /// A timer of the kernel.
    Timer,
    /// A function that another CPU wanted to be called here.
    Call,
    /// Another interrupt between CPUs, or of the CPU itself.
    Vector,
    /// What an interrupt left for later.
    Softirq,
    /// An interrupt that cannot be masked.
    Nmi,
    /// The way out of the guest and back.
    Exit,
}

impl Kind {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Program => "program",
            Kind::KernelThread => "kernel thread",
            Kind::Work => "kernel work",
            Kind::Interrupt => "interrupt",
            Kind::Tick => "tick",
            Kind::Timer => "timer",
            Kind::Call => "call",
            Kind::Vector => "cpu interrupt",
            Kind::Softirq => "softirq",
            Kind::Nmi => "nmi",
            Kind::Exit => "exit",
        }
    }
}
