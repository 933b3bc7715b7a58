//! How a function is reset before a VM gets it, and when it must not be.

use std::fmt;

use serde::Serialize;

use super::rival::Rival;
use super::{Function, bus_of};

/// Methods of the kernel that are a function level reset: they reach one function and nothing else
/// (`pci_reset_fn_methods` in `drivers/pci/pci.c`).
const FLR: [&str; 2] = ["flr", "af_flr"];

/// Why a function is not reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoReset {
    /// The host works with it.
    Bound(String),
    /// It has virtual functions, which would be reset as well.
    Virtuals(usize),
    /// It carries mediated devices.
    Mediated(usize),
    /// It knows no function level reset; what it knows.
    NoFlr(Vec<String>),
    /// It knows none, and must not be removed either.
    Neither(Vec<String>, Box<NoReset>),
    /// It is a virtual function: only its physical one makes it.
    Virtual(String),
    /// It is a bridge.
    Bridge,
    /// A driver of the host would take it when it comes back.
    Rival(Rival),
    /// Which drivers would take it cannot be told.
    Unknown(String),
    /// It was removed and is not there again: its model.
    NotBack(String),
    /// Another device than was looked at is at the address: model then and now.
    Changed(String, String),
    /// It is not there any more.
    Gone,
    /// Another run resets devices.
    Busy,
    /// The kernel does not let the reset be as it has to be.
    Unready(String),
    /// The kernel refused.
    Failed(String),
}

impl fmt::Display for NoReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoReset::Bound(driver) => write!(f, "host driver {driver} uses it"),
            NoReset::Virtuals(n) => write!(f, "it has virtual functions ({n})"),
            NoReset::Mediated(n) => write!(f, "it has mediated devices ({n})"),
            NoReset::NoFlr(methods) if methods.is_empty() => {
                f.write_str("it supports no way to be reset")
            }
            NoReset::NoFlr(methods) => {
                write!(
                    f,
                    "it supports no function level reset, only {}",
                    methods.join(", ")
                )
            }
            NoReset::Neither(methods, why) => {
                write!(f, "{}, and {why}", NoReset::NoFlr(methods.clone()))
            }
            NoReset::Virtual(physical) => {
                write!(
                    f,
                    "it is a virtual function, which only {physical} can create"
                )
            }
            NoReset::Bridge => f.write_str("it is a bridge, and what is behind it would go too"),
            NoReset::Rival(rival) => rival.fmt(f),
            NoReset::Unknown(why) => {
                write!(f, "cannot tell which drivers would grab it then: {why}")
            }
            NoReset::NotBack(model) => {
                write!(f, "it ({model}) was removed and has not reappeared in time")
            }
            NoReset::Changed(expected, actual) => {
                write!(f, "it was {expected} a moment ago and is {actual} now")
            }
            NoReset::Gone => f.write_str("it is no longer there"),
            NoReset::Busy => f.write_str("another pin-hook process is working on devices"),
            NoReset::Unready(why) => f.write_str(why),
            NoReset::Failed(why) => write!(f, "the reset failed: {why}"),
        }
    }
}

impl NoReset {
    /// Returns what the operator can do about it.
    pub fn help(&self, address: &str) -> String {
        match self {
            NoReset::Bound(_) => format!(
                "name it in pci.bind, have vfio-pci bind it at boot (options vfio-pci ids=... in \
                 /etc/modprobe.d, then update-initramfs -u), unbind it (echo {address} > \
                 /sys/bus/pci/devices/{address}/driver/unbind), or remove pci.reset from the table: \
                 pve binds and resets by itself"
            ),
            NoReset::Virtuals(_) => format!(
                "if nothing uses them, remove them (echo 0 > \
                 /sys/bus/pci/devices/{address}/sriov_numvfs), or remove pci.reset from the table"
            ),
            NoReset::Mediated(_) => "remove them (echo 1 > /sys/bus/mdev/devices/<uuid>/remove), \
                                     or remove pci.reset from the table"
                .to_owned(),
            NoReset::NoFlr(methods) if methods.is_empty() => {
                "pci.reset = \"remove-rescan\" is for such devices; without it the host may have to \
                 be restarted between two starts"
                    .to_owned()
            }
            NoReset::NoFlr(_) => {
                "remove pci.reset from the table: pve resets by what the device supports".to_owned()
            }
            NoReset::Neither(_, why) => why.help(address),
            NoReset::Virtual(_) => {
                "pci.reset = \"flr\" resets one, or remove pci.reset from the table".to_owned()
            }
            NoReset::Bridge => {
                "remove it from hostpci, or pci.reset from the table".to_owned()
            }
            NoReset::Rival(rival) => rival.help(),
            NoReset::Unknown(_) => {
                "install the modules of the running kernel, or remove pci.reset from the table"
                    .to_owned()
            }
            NoReset::NotBack(_) => format!(
                "the units try once more; after that, try echo 1 > /sys/class/pci_bus/{}/rescan; \
                 if that fails, power the host off and on",
                bus_of(address)
            ),
            NoReset::Changed(..) => {
                "lspci -Dnn shows where the device is now: correct the entry, then start the vm"
                    .to_owned()
            }
            NoReset::Busy => "start the vm again in a few seconds".to_owned(),
            NoReset::Unready(_) => "remove pci.reset from the table: pve resets by \
                                    itself".to_owned(),
            NoReset::Gone => {
                "lspci -Dnn shows what is there; try echo 1 > /sys/bus/pci/rescan; if that fails, \
                 power the host off and on"
                    .to_owned()
            }
            NoReset::Failed(_) => "remove pci.reset from the table, or check dmesg; if nothing \
                                   else helps, power the host off and on"
                .to_owned(),
        }
    }
}

impl Serialize for NoReset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Checks that nobody works with a function or something of it.
///
/// # Errors
/// Somebody does.
pub fn check(function: &Function) -> Result<(), NoReset> {
    if !function.mdevs.is_empty() {
        return Err(NoReset::Mediated(function.mdevs.len()));
    }
    if !function.virtuals.is_empty() {
        return Err(NoReset::Virtuals(function.virtuals.len()));
    }
    match function.driver.as_ref().filter(|_| !function.is_idle()) {
        Some(driver) => Err(NoReset::Bound(driver.clone())),
        None => Ok(()),
    }
}

/// Returns the method of a function level reset of a function.
///
/// # Errors
/// It must not be reset, or cannot be like that.
pub fn flr(function: &Function) -> Result<&'static str, NoReset> {
    check(function)?;
    let knows = |method: &&&str| function.reset_methods.iter().any(|known| known == **method);
    let method = FLR.iter().find(knows).copied();
    method.ok_or_else(|| NoReset::NoFlr(function.reset_methods.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(driver: &str, methods: &[&str]) -> Function {
        Function {
            driver: (!driver.is_empty()).then(|| driver.to_owned()),
            reset_methods: methods.iter().map(|&method| method.to_owned()).collect(),
            ..Function::default()
        }
    }

    #[test]
    fn only_what_the_host_does_not_work_with_is_reset() {
        let known = ["device_specific", "flr", "bus"];
        assert_eq!(flr(&function("", &known)), Ok("flr"));
        assert_eq!(flr(&function("vfio-pci", &known)), Ok("flr"));
        assert_eq!(flr(&function("vfio-pci", &["af_flr"])), Ok("af_flr"));
        let bound = flr(&function("nvme", &known)).unwrap_err();
        assert_eq!(bound, NoReset::Bound("nvme".to_owned()));
        let none = flr(&function("", &["pm", "bus"])).unwrap_err();
        assert!(none.to_string().contains("only pm, bus"), "{none}");
    }

    #[test]
    fn what_carries_others_is_not_reset() {
        let mut parent = function("", &["flr"]);
        parent.virtuals.insert(0, "0000:01:10.0".to_owned());
        assert_eq!(flr(&parent), Err(NoReset::Virtuals(1)));
        parent.mdevs.push("uuid".to_owned());
        assert_eq!(flr(&parent), Err(NoReset::Mediated(1)));
    }
}
