//! The doctor: what is required of a host and of its VMs, what was found, and what fixes it.
//!
//! A check is a row. The doctor's answers, `--explain` and docs/check.md are made of it, so that no
//! two of them can differ. The rules only judge: what they judge was read before ([`HostFacts`],
//! [`VmFacts`]).

mod boot;
mod disks;
mod elsewhere;
mod firmware;
mod guests;
mod host_facts;
mod install;
mod kernel;
mod memory;
mod network;
mod passthrough;
mod power;
mod rule;
mod services;
mod start_order;
mod starts;
mod todo;
mod vm_facts;

pub use self::host_facts::{
    AtBoot, GuestOfHost, HostFacts, IdleState, InitramfsFacts, KsmFacts, MemoryFacts, Mtus,
    NextBoot, PolicyFacts, QemuServer, Vendor,
};
pub use self::rule::{Check, Fault, Judge, Severity, Verdict};
pub use self::todo::{Todo, todo};
pub use self::vm_facts::{Owning, Representor, Virtual, VmFacts};

/// Returns every check, in the order of reports: those of the host first.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    let of_host = [
        kernel::CHECKS,
        boot::CHECKS,
        install::CHECKS,
        services::CHECKS,
        memory::CHECKS,
        power::CHECKS,
        passthrough::CHECKS,
        start_order::CHECKS,
    ];
    let of_vm = [
        starts::CHECKS,
        elsewhere::CHECKS,
        guests::CHECKS,
        firmware::CHECKS,
        network::CHECKS,
        disks::CHECKS,
    ];
    of_host.into_iter().chain(of_vm).flatten()
}
