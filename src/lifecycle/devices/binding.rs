//! Binding the devices of a VM to vfio-pci before PVE does it, and giving them back to the driver
//! that they had, where the table asks for that.
//!
//! The claim says what is bound, and for each function the journal remembers the driver that it had.
//! Drivers come and go by children in units of their own, under the lock of the devices; the host
//! lock is not held meanwhile. Settling writes none of it: it forgets what has gone back.

mod back;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

pub use self::back::tell_lent;
use super::resetting::{PAUSE, RESERVE, is_kept};
use crate::domain::pci::binding::{Lent, NoBinding, check, target};
use crate::domain::pci::{Bus, VFIO};
use crate::domain::refusal::Refusal;
use crate::domain::table::{AfterStop, Table};
use crate::domain::vm::Vmid;
use crate::host::pci::{self, DEVICES};
use crate::host::slow::{self, Ended, Write};
use crate::host::systemd::Job;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::at_work;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::run::Run;

const DRIVERS: &str = "/sys/bus/pci/drivers";
/// How long loading a module may take.
const MODPROBE_WAIT: Duration = Duration::from_secs(3);
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
            (AfterStop::Return, None) => ", and without a driver after the stop".to_owned(),
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
                "{key} ({address}) stays with vfio-pci after the stop, because it has that already: \
                 bind it to its driver of the host once, before the vm is started"
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

pub(in crate::lifecycle) fn no_binding(key: &str, address: &str, why: NoBinding) -> Refusal {
    Refusal::NoBinding {
        key: key.to_owned(),
        address: address.to_owned(),
        why,
    }
}

fn failure(error: &io::Error) -> NoBinding {
    match error.kind() {
        io::ErrorKind::TimedOut => NoBinding::Late(error.to_string()),
        _ => NoBinding::Failed(error.to_string()),
    }
}

impl Run<'_> {
    /// Binds the functions of a VM that is being started; the lock of the devices is held, and the
    /// claim says what is bound.
    pub(in crate::lifecycle) fn bind(
        &self,
        vmid: Vmid,
        bindings: &Bindings,
        account: &mut Account,
    ) -> Result<(), Refusal> {
        let state = read_state(&*self.host.files).unwrap_or_default();
        for (address, binding) in bindings {
            let refused = |why| no_binding(&binding.key, address, why);
            // Without that nobody would know what it had.
            if !state.held.contains_key(&target(address)) {
                return Err(refused(NoBinding::Busy));
            }
            if let Some(text) = binding.in_vain(address) {
                account.warn(format!("vm {vmid}: {text}"));
            }
            if pci::driver(&*self.host.files, address).as_deref() == Some(VFIO) {
                continue;
            }
            self.load_vfio().map_err(refused)?;
            if !is_kept(self.host, address) {
                return Err(refused(NoBinding::Unready));
            }
            let wait = self.host.left().saturating_sub(RESERVE);
            self.give_driver(address, VFIO, wait)
                .map_err(|error| refused(failure(&error)))?;
            let (key, words) = (&binding.key, binding.in_words());
            account.info(format!(
                "vm {vmid}: {key} ({address}) bound to {VFIO}{words}"
            ));
        }
        Ok(())
    }

    /// Returns the refusal of a start whose functions a child of an earlier run is at work on.
    pub(in crate::lifecycle) fn unready(&self, bindings: &Bindings) -> Option<Refusal> {
        let mut bindings = bindings.iter();
        let (address, binding) = bindings.find(|(one, _)| at_work::is_function(self.host, one))?;
        let late = slow::late(&at_work::of_function(address)).to_string();
        Some(no_binding(&binding.key, address, NoBinding::Late(late)))
    }

    /// Has a unit load the driver for VMs, which PVE would do as well.
    fn load_vfio(&self) -> Result<(), NoBinding> {
        let is_there = || self.host.files.exists(&format!("{DRIVERS}/{VFIO}"));
        if is_there() {
            return Ok(());
        }
        let wait = MODPROBE_WAIT.min(self.host.left());
        let job = Job {
            unit: "pin-hook-modprobe.service".to_owned(),
            description: "pin-hook: load the driver that devices of vms need".to_owned(),
            path: "/sbin/modprobe".to_owned(),
            arguments: vec![VFIO.to_owned()],
            limit: Some(wait),
            spares: false,
        };
        let clock = &self.host.clock;
        let failed = |error: anyhow::Error| NoBinding::NoDriver(format!("{}: {error:#}", job.unit));
        self.host.systemd.run(&job).map_err(failed)?;
        let until = clock.since_boot() + wait;
        while !is_there() && clock.since_boot() < until {
            clock.wait_for_end(&[], PAUSE);
        }
        match is_there() {
            true => Ok(()),
            false => Err(NoBinding::NoDriver(format!(
                "modprobe {VFIO} has not loaded it"
            ))),
        }
    }

    /// Has a child take a function from the driver that it has, and give it to another one; `""` to
    /// none.
    fn give_driver(&self, address: &str, driver: &str, wait: Duration) -> io::Result<()> {
        let text = || address.to_owned();
        let unbind = Write {
            path: format!("{DEVICES}/{address}/driver/unbind"),
            text: text(),
        };
        let bind = Write {
            path: format!("{DRIVERS}/{driver}/bind"),
            text: text(),
        };
        let had = pci::driver(&*self.host.files, address);
        let unbinds = had.map(|_| unbind).into_iter();
        let binds = (!driver.is_empty()).then_some(bind).into_iter();
        let writes: Vec<Write> = unbinds.chain(binds).collect();
        if writes.is_empty() {
            return Ok(());
        }
        let name = at_work::of_function(address);
        match slow::run(self.host, &name, &writes, wait)? {
            Ended::Done(answers) => answers.into_iter().collect(),
            Ended::Late => Err(slow::late(&name)),
        }
    }
}
