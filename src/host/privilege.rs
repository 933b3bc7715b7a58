//! The process's capabilities (man 7 capabilities).
//!
//! Capabilities belong to a thread and are inherited by the threads that it starts, so the main
//! thread settles them before it starts any. The one exception is the thread that executes other
//! programs ([`super::programs`]): it is started before, because they are to have what PVE gives
//! them.

use anyhow::Context;
use caps::{CapSet, Capability, CapsHashSet};

/// What root needs beside being root: the files of `/proc`, `/sys` and the cgroups belong to root
/// and need no capability, but affinity and scheduling class of other users' tasks do, and so
/// does moving a task with more capabilities than the own ones to another cgroup with a cpuset. A
/// remote partition needs `CAP_SYS_ADMIN`: without it the kernel takes the write and reports
/// "isolated invalid (Enable partition not permitted)" (measured on 6.12).
const OF_ROOT: &[Capability] = &[Capability::CAP_SYS_NICE, Capability::CAP_SYS_ADMIN];
/// What everybody else needs: to write root's files in addition.
const OF_OTHERS: &[Capability] = &[
    Capability::CAP_SYS_NICE,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_DAC_OVERRIDE,
];

/// A capability that is needed and not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lack())]
pub struct MissingCapability {
    /// The capability.
    pub capability: Capability,
    /// Whether the process runs as root.
    pub is_root: bool,
}

impl MissingCapability {
    /// Names what is missing; who is not root lacks just that.
    fn lack(&self) -> String {
        match self.is_root {
            true => format!("missing capability {}: {}", self.capability, self.purpose()),
            false => "only root can do this".to_owned(),
        }
    }

    /// Says what cannot be done without the capability.
    fn purpose(&self) -> &'static str {
        match self.capability {
            Capability::CAP_SYS_ADMIN => "cannot make a cpuset partition",
            Capability::CAP_SYS_NICE => "cannot set the affinity of other users' tasks",
            _ => "cannot write the kernel's files, which belong to root",
        }
    }

    /// Says what to do about it.
    pub fn remedy(&self) -> String {
        if self.is_root {
            let Self { capability, .. } = self;
            format!(
                "allow {capability} in whatever starts pin-hook (systemd: \
                 CapabilityBoundingSet=)"
            )
        } else {
            "run it as root".to_owned()
        }
    }
}

/// Checks that this thread may change the host.
///
/// # Errors
/// The first capability that is missing.
pub fn require() -> Result<(), MissingCapability> {
    let is_root = is_root();
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    first_missing(&effective, is_root)
}

/// Tells whether this process runs as root, with or without its capabilities.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Drops every capability that is not needed from all sets of this thread.
///
/// Called by the main thread before any input is parsed; a thread that is to keep more is started
/// before.
///
/// # Errors
/// The kernel's; it always lets a thread drop what it has.
pub fn drop_others() -> anyhow::Result<()> {
    let needed = needed(is_root());
    narrow(needed).context("cannot drop capabilities")
}

fn needed(is_root: bool) -> &'static [Capability] {
    if is_root { OF_ROOT } else { OF_OTHERS }
}

fn first_missing(effective: &CapsHashSet, is_root: bool) -> Result<(), MissingCapability> {
    let mut needed = needed(is_root).iter().copied();
    match needed.find(|capability| !effective.contains(capability)) {
        Some(capability) => Err(MissingCapability {
            capability,
            is_root,
        }),
        None => Ok(()),
    }
}

fn narrow(needed: &[Capability]) -> Result<(), caps::errors::CapsError> {
    // The bounding set first: changing it takes CAP_SETPCAP, which is dropped below.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)? {
            if !needed.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    // Effective before permitted, because it may never hold more.
    for set in [CapSet::Effective, CapSet::Permitted] {
        let mut kept = caps::read(None, set)?;
        kept.retain(|capability| needed.contains(capability));
        caps::set(None, set, &kept)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_capability_and_the_remedy_are_named() {
        let none = CapsHashSet::new();
        let root = first_missing(&none, true).unwrap_err();
        assert_eq!(
            root.to_string(),
            "missing capability CAP_SYS_NICE: cannot set the affinity of other users' tasks"
        );
        assert!(root.remedy().contains("CapabilityBoundingSet="));
        let nice = CapsHashSet::from([Capability::CAP_SYS_NICE]);
        let admin = first_missing(&nice, true).unwrap_err();
        assert_eq!(admin.capability, Capability::CAP_SYS_ADMIN);
        let both = CapsHashSet::from([Capability::CAP_SYS_NICE, Capability::CAP_SYS_ADMIN]);
        assert_eq!(first_missing(&both, true), Ok(()));
        let user = first_missing(&both, false).unwrap_err();
        assert_eq!(user.capability, Capability::CAP_DAC_OVERRIDE);
        assert!(user.remedy().starts_with("run it as root"));
    }

    #[test]
    fn nothing_but_the_needed_is_left_and_workers_inherit_that() {
        // In a thread of its own: the test's other threads keep what they have.
        std::thread::spawn(|| {
            drop_others().unwrap();
            drop_others().unwrap();
            let inherited = std::thread::spawn(|| caps::read(None, CapSet::Permitted).unwrap());
            let needed = needed(is_root());
            assert!(inherited.join().unwrap().iter().all(|c| needed.contains(c)));
            for set in [CapSet::Effective, CapSet::Permitted] {
                let left = caps::read(None, set).unwrap();
                assert!(left.iter().all(|c| needed.contains(c)), "{set:?}: {left:?}");
            }
            for set in [CapSet::Inheritable, CapSet::Ambient] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
        })
        .join()
        .unwrap();
    }
}
