//! Binding functions to vfio-pci before PVE does it, and giving them back to the driver they had.
//!
//! PVE tells vfio-pci the model (`new_id`), and from then on that takes every function of that model
//! which has no driver; `driver_override` means one function.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Function, VFIO};
use crate::domain::state::State;
use crate::domain::table::AfterStop;
use crate::domain::target::{Target, Value};

/// Why a function is not bound for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoBinding {
    /// The VM has no such entry.
    NoEntry,
    /// The entry leaves it with the driver that it has.
    Kept,
    /// It would go back to the host with the disks of the VM.
    Storage,
    /// It has virtual functions, which go with its driver.
    Virtuals(usize),
    /// It carries mediated devices.
    Mediated(usize),
    /// Another run works on devices.
    Busy,
    /// The kernel does not let only vfio-pci have it.
    Unready,
    /// A driver does not let go of it.
    Late(String),
    /// The driver for VMs is not there.
    NoDriver(String),
    /// The kernel refused.
    Failed(String),
}

impl fmt::Display for NoBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoBinding::NoEntry => f.write_str("the vm has no such device"),
            NoBinding::Kept => f.write_str("it stays with its driver (mdev, or driver=keep)"),
            NoBinding::Storage => f.write_str(
                "it is a disk controller, and once it is back the host's lvm, md or zfs would \
                 take the disks of the vm",
            ),
            NoBinding::Virtuals(n) => {
                write!(
                    f,
                    "it has virtual functions ({n}), which go with its driver"
                )
            }
            NoBinding::Mediated(n) => write!(f, "it has mediated devices ({n})"),
            NoBinding::Busy => f.write_str("another pin-hook process is working on devices"),
            NoBinding::Unready => f.write_str("its driver_override cannot be set"),
            NoBinding::Late(why) | NoBinding::NoDriver(why) | NoBinding::Failed(why) => {
                f.write_str(why)
            }
        }
    }
}

impl NoBinding {
    /// Returns what the operator can do about it.
    pub fn help(&self, key: &str, address: &str) -> String {
        match self {
            NoBinding::NoEntry => {
                format!("remove {key} from pci.bind, or add it to the vm (qm set)")
            }
            NoBinding::Kept => format!("remove {key} from pci.bind"),
            NoBinding::Storage => format!("write {key} = \"stay\" in pci.bind"),
            NoBinding::Virtuals(_) => format!(
                "if nothing uses them, remove them (echo 0 > \
                 /sys/bus/pci/devices/{address}/sriov_numvfs), or remove {key} from pci.bind"
            ),
            NoBinding::Mediated(_) => format!(
                "remove them (echo 1 > /sys/bus/mdev/devices/<uuid>/remove), or remove {key} from \
                 pci.bind"
            ),
            NoBinding::Busy => "start the vm again in a few seconds".to_owned(),
            NoBinding::Late(_) => format!(
                "stop whatever uses the device (fuser -v /dev/dri/* /dev/nvidia* names who has a \
                 display card open), then start the vm; without {key} in pci.bind pve would wait \
                 for the same thing"
            ),
            NoBinding::NoDriver(_) => {
                "modprobe -v vfio-pci shows why; pve needs it as well".to_owned()
            }
            NoBinding::Unready | NoBinding::Failed(_) => format!(
                "check dmesg and what uses the device, or remove pci.bind from the table: pve \
                 binds {address} by itself"
            ),
        }
    }
}

/// Checks that a function may be bound, and go back after the stop if that is wished for.
///
/// # Errors
/// It must not.
pub fn check(function: &Function, after: AfterStop) -> Result<(), NoBinding> {
    if after == AfterStop::Return && function.is_storage() {
        return Err(NoBinding::Storage);
    }
    // What has vfio-pci already is only remembered.
    if function.is_idle() {
        return Ok(());
    }
    if !function.mdevs.is_empty() {
        return Err(NoBinding::Mediated(function.mdevs.len()));
    }
    match function.virtuals.len() {
        0 => Ok(()),
        n => Err(NoBinding::Virtuals(n)),
    }
}

/// Delay before a device returns to its driver after its last VM has ended, so that the VM keeps it over a reboot.
pub const GRACE: Duration = Duration::from_secs(10);

/// Function that goes back to the driver that it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lent {
    /// Where it is.
    pub address: String,
    /// The driver; empty if it had none.
    pub driver: String,
}

impl fmt::Display for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lent { address, driver } = self;
        match driver.as_str() {
            "" => write!(
                f,
                "{address} will be unbound once no vm uses it (it had no driver before)"
            ),
            _ => write!(f, "{address} returns to driver {driver} once no vm uses it"),
        }
    }
}

/// Returns the target that remembers the driver of a function.
pub fn target(address: &str) -> Target {
    Target::Driver(address.to_owned())
}

/// Returns the function whose driver a target remembers.
pub fn function_of(target: &Target) -> Option<&str> {
    match target {
        Target::Driver(address) => Some(address),
        _ => None,
    }
}

/// Returns the functions that go back some time.
pub fn lent(state: &State) -> Vec<Lent> {
    let held = state.held.iter().filter_map(|(target, held)| {
        let address = function_of(target)?.to_owned();
        match &held.baseline {
            Value::Text(driver) if driver != VFIO => Some(Lent {
                address,
                driver: driver.clone(),
            }),
            _ => None,
        }
    });
    held.collect()
}

/// Returns those that nobody needs: they are bound for no claim, and nobody has them.
pub fn unneeded(state: &State, in_use: &BTreeSet<String>) -> Vec<Lent> {
    let mut lent = lent(state);
    lent.retain(|Lent { address, .. }| {
        // As long as only vfio-pci may have it, its driver cannot.
        let is_kept = state.held.contains_key(&Target::driver_override(address));
        let mut claims = state.claims.values();
        let is_bound = claims.any(|claim| claim.binds(address));
        !is_bound && !is_kept && !in_use.contains(address)
    });
    lent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::{Held, Record};

    fn function(class: u32, driver: &str) -> Function {
        Function {
            class,
            driver: (!driver.is_empty()).then(|| driver.to_owned()),
            ..Function::default()
        }
    }

    #[test]
    fn controllers_of_disks_do_not_go_back() {
        for (class, driver, after, expected) in [
            (
                0x01_07_00,
                "mpt3sas",
                AfterStop::Return,
                Err(NoBinding::Storage),
            ),
            (0x01_08_02, "", AfterStop::Return, Err(NoBinding::Storage)),
            (
                0x0c_04_00,
                "qla2xxx",
                AfterStop::Return,
                Err(NoBinding::Storage),
            ),
            (0x0c_03_30, "xhci_hcd", AfterStop::Return, Ok(())),
            (0x01_07_00, "mpt3sas", AfterStop::Stay, Ok(())),
            (0x03_00_00, "nouveau", AfterStop::Return, Ok(())),
        ] {
            let found = check(&function(class, driver), after);
            assert_eq!(found, expected, "{class:x} {driver} {after:?}");
        }
    }

    #[test]
    fn what_others_hang_on_keeps_its_driver() {
        let mut parent = function(0x02_00_00, "igb");
        parent.virtuals.insert(0, "0000:01:10.0".to_owned());
        assert_eq!(check(&parent, AfterStop::Stay), Err(NoBinding::Virtuals(1)));
        parent.mdevs.push("uuid".to_owned());
        assert_eq!(check(&parent, AfterStop::Stay), Err(NoBinding::Mediated(1)));
        parent.driver = Some(VFIO.to_owned());
        assert_eq!(check(&parent, AfterStop::Stay), Ok(()));
    }

    #[test]
    fn a_function_goes_back_when_nobody_has_it() {
        let held = |driver: &str| {
            let text = |text: &str| Value::Text(text.to_owned());
            Held::new(text(driver), text(VFIO))
        };
        let (gpu, card, idle) = ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0");
        let mut state = State::default();
        state.apply(Record::Intend(vec![
            (target(gpu), held("nouveau")),
            (target(card), held("")),
            (target(idle), held(VFIO)),
        ]));
        let addresses = |in_use: &[&str]| {
            let in_use = in_use.iter().map(|one| (*one).to_owned()).collect();
            let found = unneeded(&state, &in_use).into_iter();
            found
                .map(|one| (one.address, one.driver))
                .collect::<Vec<_>>()
        };
        let pair = |address: &str, driver: &str| (address.to_owned(), driver.to_owned());
        assert_eq!(addresses(&[]), [pair(gpu, "nouveau"), pair(card, "")]);
        assert_eq!(addresses(&[gpu]), [pair(card, "")]);
    }
}
