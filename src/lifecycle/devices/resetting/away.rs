//! Removing functions and finding them again: which writes that takes, and what has become of them.
//!
//! A child writes all of it, one function after the other, and so goes on when whoever started it
//! dies. Meanwhile no driver takes what appears (`drivers_autoprobe`), and afterwards only the one for
//! VMs may (`driver_override`): neither a driver of the host nor what is built on it sees the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::pci::anew::{self, Before, Reset};
use crate::domain::pci::reset::NoReset;
use crate::domain::pci::{Function, VFIO, bus_of};
use crate::domain::vm::Vmid;
use crate::host::errand::{Errand, Write};
use crate::host::pci::{self, DEVICES};
use crate::host::{Host, drivers, surroundings};
use crate::lifecycle::devices::waiting::{PAUSE, time_left};
use crate::lifecycle::engine::at_work;

/// Whether drivers take what appears.
const AUTOPROBE: &str = "/sys/bus/pci/drivers_autoprobe";
/// There as long as udev has events to handle (udevadm(8), settle).
const UDEV_QUEUE: &str = "/run/udev/queue";
/// How long udev may take to load drivers for what has come back.
const UDEV_WAIT: Duration = Duration::from_secs(3);
/// Functions that are away, or were, as they were before.
pub(super) type Away = BTreeMap<String, Before>;

/// Returns how a function is reset by being removed and found again.
///
/// # Errors
/// It must not be, or a driver of the host would take it.
pub(super) fn away(host: &Host, address: &str, function: &Function) -> Result<Reset, NoReset> {
    anew::check(function)?;
    let before = pci::before(&*host.files, address, function);
    check_rivals(host, &before)?;
    Ok(Reset::Away(before))
}

/// Checks that nobody of the host takes a function when it comes back.
///
/// # Errors
/// A driver would, or that cannot be told.
pub(super) fn check_rivals(host: &Host, before: &Before) -> Result<(), NoReset> {
    let unknown = |why: String| NoReset::Unknown(why);
    let files = &*host.files;
    let release = surroundings::kernel_release(files);
    if anew::is_left_alone(release.map_err(|error| unknown(format!("{error:#}")))?) {
        return Ok(());
    }
    let modalias = before.modalias();
    let modalias = modalias.ok_or_else(|| unknown("it has no modalias".to_owned()))?;
    match drivers::rival(files, modalias) {
        Ok(None) => Ok(()),
        Ok(Some(rival)) => Err(NoReset::Rival(rival)),
        Err(error) => Err(unknown(format!("/lib/modules: {error}"))),
    }
}

/// Returns the errand that resets functions, and finds those again that are away meanwhile.
pub(super) fn errand<'r>(
    vmid: Vmid,
    resets: impl Iterator<Item = (&'r String, &'r Reset)>,
    away: &Away,
) -> Errand {
    let firsts = resets.map(|(address, reset)| first_write(address, reset));
    at_work::of_reset(vmid, firsts.chain(return_writes(away)).collect())
}

/// Returns the write that resets a function, or begins to.
fn first_write(address: &str, reset: &Reset) -> Write {
    let name = match reset {
        Reset::By(_) => "reset",
        Reset::Away(_) | Reset::Back => "remove",
    };
    of_function(address, name, "1")
}

/// Returns the writes that find functions again and make them what they were.
///
/// A driver has to have one before its power management can be as it was: binding to vfio-pci sets `power/control`
/// to `auto` (`vfio_pci_core_register_device()`).
pub(super) fn return_writes(away: &Away) -> Vec<Write> {
    let buses: BTreeSet<&str> = away.keys().map(|address| bus_of(address)).collect();
    let rescan = |bus| Write::new(format!("/sys/class/pci_bus/{bus}/rescan"), "1");
    let rescans = buses.into_iter().map(rescan);
    let overrides = away
        .keys()
        .map(|address| of_function(address, "driver_override", VFIO));
    let bound = away.iter().filter(|(_, before)| before.was_bound());
    let bind = format!("/sys/bus/pci/drivers/{VFIO}/bind");
    let binds = bound.map(|(address, _)| Write::new(bind.as_str(), address.as_str()));
    let attributes = away.iter().flat_map(|(address, before)| {
        let attributes = before.attributes();
        attributes.map(move |(name, text)| of_function(address, name, text))
    });
    rescans
        .chain(overrides)
        .chain(binds)
        .chain(attributes)
        .collect()
}

fn of_function(address: &str, name: &str, text: &str) -> Write {
    Write::new(format!("{DEVICES}/{address}/{name}"), text)
}

/// Returns those of the functions that are not there.
pub(super) fn missing(host: &Host, away: &Away) -> Away {
    let is_missing = |address: &String| !host.files.exists(&format!("{DEVICES}/{address}/vendor"));
    let missing = away.iter().filter(|(address, _)| is_missing(address));
    let missing = missing.map(|(address, before)| (address.clone(), before.clone()));
    missing.collect()
}

/// Tells whether no driver takes what appears.
pub(super) fn is_probing_off(host: &Host) -> bool {
    host.files
        .read(AUTOPROBE)
        .is_ok_and(|text| text.trim() == "0")
}

/// Waits until udev has loaded what it loads for functions that have appeared: a driver that comes
/// while none is probed for does not take them later either.
pub(super) fn await_udev(host: &Host) {
    let wait = UDEV_WAIT.min(time_left(host));
    host.wait_until(wait, PAUSE, || !host.files.exists(UDEV_QUEUE));
}
