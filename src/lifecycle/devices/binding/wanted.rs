//! Which functions the table of a VM wants bound to vfio-pci, and what becomes of each after the stop.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::pci::binding::{Lent, NoBinding, check};
use crate::domain::pci::{Bus, VFIO};
use crate::domain::refusal::Refusal;
use crate::domain::table::{AfterStop, Table};
use crate::lifecycle::engine::inventory::Devices;

/// How one function is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Key in the VM's configuration.
    pub key: String,
    /// What becomes of it after the stop.
    pub after: AfterStop,
    /// Driver that it had before it was first bound for a VM.
    pub driver: Option<String>,
}

impl Binding {
    /// Returns what is going to happen to the function, in words.
    pub fn in_words(&self) -> String {
        let from = match self.driver.as_deref() {
            Some(VFIO) | None => String::new(),
            Some(driver) => format!(", taken from {driver}"),
        };
        let then = match (self.after, &self.driver) {
            (AfterStop::Stay, _) => String::new(),
            (AfterStop::Return, Some(driver)) => format!(", and back to {driver} after the stop"),
            (AfterStop::Return, None) => ", without a driver after the stop".to_owned(),
        };
        format!("{from}{then}")
    }

    /// Returns how the host is kept from it for good, where the function does not go back.
    pub fn at_boot(&self, address: &str, model: &str) -> Option<String> {
        let driver = self.driver.as_deref().filter(|driver| *driver != VFIO)?;
        let key = &self.key;
        (self.after == AfterStop::Stay).then(|| {
            format!(
                "{key} ({address}): if the host never needs it, have vfio-pci take it before {driver} \
                 at boot (options vfio-pci ids={model} and softdep {driver} pre: vfio-pci in \
                 /etc/modprobe.d, then update-initramfs -u)"
            )
        })
    }

    /// Returns why the function does not go back although that is wished for.
    pub fn in_vain(&self, address: &str) -> Option<String> {
        let is_in_vain = self.after == AfterStop::Return && self.driver.as_deref() == Some(VFIO);
        let key = &self.key;
        is_in_vain.then(|| {
            format!(
                "{key} ({address}) stays with vfio-pci after the stop, because it is bound to \
                 that already: bind it to its host driver once, before the vm is started"
            )
        })
    }
}

/// Functions that are to be bound, by address.
pub type Bindings = BTreeMap<String, Binding>;

/// Returns the functions that the table of a VM wants bound: those of its entries, and then whatever
/// shares an IOMMU group with one, as PVE would bind that too. `lent` are those that go back already.
///
/// # Errors
/// One of them must not be bound, or the table names an entry that is not there or stays as it is.
pub fn wanted(table: &Table, devices: &Devices, lent: &[Lent]) -> Result<Bindings, Refusal> {
    let wishes = &table.pci.bind;
    let is_there = |key: &&String| *key == "*" || devices.asked.iter().any(|one| one.key == **key);
    if let Some(key) = wishes.keys().find(|key| !is_there(key)) {
        return Err(no_binding(key, "", NoBinding::NoEntry));
    }
    let mut named = Vec::new();
    for (asked, functions) in devices.chosen() {
        let own = wishes.get(&asked.key);
        let stays = asked.mdev.is_some() || asked.keeps_driver;
        match own.or(wishes.get("*")) {
            Some(_) if stays && own.is_some() => {
                return Err(no_binding(&asked.key, "", NoBinding::Kept));
            }
            Some(after) if !stays => named.push((&asked.key, *after, functions)),
            _ => {}
        }
    }
    let mut bindings = Bindings::new();
    let own = named.iter().map(|(.., functions)| functions.to_vec());
    let own: Vec<Vec<String>> = own.collect();
    let groups = named
        .iter()
        .map(|(.., functions)| with_group(functions, &devices.bus));
    for all in [own, groups.collect()] {
        for ((key, after, _), functions) in named.iter().zip(all) {
            for address in functions {
                add(&mut bindings, key, *after, address, devices, lent)?;
            }
        }
    }
    Ok(bindings)
}

/// Adds a function, unless another entry has it already.
fn add(
    bindings: &mut Bindings,
    key: &str,
    after: AfterStop,
    address: String,
    devices: &Devices,
    lent: &[Lent],
) -> Result<(), Refusal> {
    let Some(function) = devices.bus.get(&address) else {
        return Ok(());
    };
    if bindings.contains_key(&address) {
        return Ok(());
    }
    check(function, after).map_err(|why| no_binding(key, &address, why))?;
    let driver = match lent.iter().find(|one| one.address == address) {
        Some(Lent { driver, .. }) => Some(driver.clone()).filter(|driver| !driver.is_empty()),
        None => function.driver.clone(),
    };
    let key = key.to_owned();
    bindings.insert(address, Binding { key, after, driver });
    Ok(())
}

fn with_group(functions: &[String], bus: &Bus) -> Vec<String> {
    let groups = functions
        .iter()
        .filter_map(|address| bus.get(address)?.group);
    let groups: BTreeSet<u32> = groups.collect();
    let is_of_group = |group: Option<u32>| group.is_some_and(|group| groups.contains(&group));
    let of_groups = bus.iter().filter(|(address, function)| {
        functions.contains(address) || is_of_group(function.group) && !function.is_bridge()
    });
    of_groups.map(|(address, _)| address.clone()).collect()
}

/// Returns the refusal of a function that cannot be bound.
pub fn no_binding(key: &str, address: &str, why: NoBinding) -> Refusal {
    Refusal::NoBinding {
        key: key.to_owned(),
        address: address.to_owned(),
        why,
    }
}
