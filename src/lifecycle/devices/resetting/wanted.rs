//! Which functions the table of a VM wants reset, and how.

use std::collections::BTreeMap;

use super::away::away;
use crate::domain::pci::Function;
use crate::domain::pci::anew::Reset;
use crate::domain::pci::reset::{NoReset, flr};
use crate::domain::refusal::Refusal;
use crate::domain::table::{PciReset, Table};
use crate::host::Host;
use crate::lifecycle::engine::inventory::Devices;

/// How one function is reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Key in the VM's configuration.
    pub key: String,
    /// The way.
    pub reset: Reset,
    /// Why this one, where the table leaves that open.
    pub reason: Option<String>,
}

impl Way {
    /// Returns the way with its reason.
    pub fn in_words(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}: {reason}", self.reset.name()),
            None => self.reset.name().to_owned(),
        }
    }
}

/// Functions that are to be reset, by address.
pub type Resets = BTreeMap<String, Way>;

/// Returns the functions of a VM that its table wants reset, with the way for each.
///
/// # Errors
/// One of them is needed by others, or must not or cannot be reset.
pub fn wanted(host: &Host, table: &Table, devices: &Devices) -> Result<Resets, Refusal> {
    let wish = table.pci.reset;
    if wish == PciReset::None {
        return Ok(Resets::new());
    }
    let mut resets = Resets::new();
    for (asked, functions) in devices.chosen() {
        // The parent of a mediated device stays with the host, and so does what keeps its driver.
        if asked.mdev.is_some() || asked.keeps_driver {
            continue;
        }
        for address in functions {
            let function = devices.bus.get(address).ok_or(NoReset::Gone);
            let way = function.and_then(|function| way(host, wish, address, function));
            let (reset, reason) = way.map_err(|why| no_reset(&asked.key, address, why))?;
            let key = asked.key.clone();
            resets.insert(address.clone(), Way { key, reset, reason });
        }
    }
    Ok(resets)
}

fn way(
    host: &Host,
    wish: PciReset,
    address: &str,
    function: &Function,
) -> Result<(Reset, Option<String>), NoReset> {
    let by = |method: &str| Reset::By(method.to_owned());
    match (wish, flr(function)) {
        (PciReset::RemoveRescan, _) => Ok((away(host, address, function)?, None)),
        (PciReset::Auto, Ok(method)) => {
            let reason = "it reaches this function and nothing else".to_owned();
            Ok((by(method), Some(reason)))
        }
        (PciReset::Auto, Err(why @ NoReset::NoFlr(_))) => match away(host, address, function) {
            Ok(reset) => Ok((reset, Some(why.to_string()))),
            Err(other) => {
                let methods = function.reset_methods.clone();
                Err(NoReset::Neither(methods, Box::new(other)))
            }
        },
        (_, method) => Ok((by(method?), None)),
    }
}

/// Returns the refusal of a function that cannot be reset.
pub fn no_reset(key: &str, address: &str, why: NoReset) -> Refusal {
    Refusal::NoReset {
        key: key.to_owned(),
        address: address.to_owned(),
        why,
    }
}
