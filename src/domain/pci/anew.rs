//! Removing a function and finding it again by a rescan of its bus, for devices that work only once.
//!
//! What comes back is new to the kernel: drivers of the host must not get at it, and what was set
//! of it has to be set again.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Function;
use super::reset::{self, NoReset};
use crate::domain::gate::KernelRelease;

/// First kernel on which a function that appears gets no driver while `drivers_autoprobe` is off.
///
/// Mainline commit ea34511aaf75 ("driver core: Check drivers_autoprobe for all added devices"),
/// 6.19-rc1; measured on 6.12, which does not, and on 7.3. Whether a distribution has it earlier is
/// unknown and counts as "no".
const LEAVES_ALONE: KernelRelease = KernelRelease {
    major: 6,
    minor: 19,
    patch: 0,
};

/// Tells whether a function that comes back gets no driver on this kernel, as the commit above has it.
pub fn is_left_alone(release: KernelRelease) -> bool {
    release >= LEAVES_ALONE
}

/// How far the reset of a function has come, as the claim says it; the journal has it as a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Reset {
    /// It is being reset by this method of the kernel.
    By(String),
    /// It is being removed and found again; what it was like before.
    Away(Before),
    /// It has come back and waits for PVE to bind it.
    Back,
}

/// Name of the way in tables, plans and claims.
const REMOVE_RESCAN: &str = "remove-rescan";
const BACK: &str = "back";

impl From<String> for Reset {
    fn from(text: String) -> Self {
        let mut words = text.split(' ');
        match words.next() {
            Some(REMOVE_RESCAN) => {
                let pairs = words.filter_map(|word| word.split_once('='));
                let pairs = pairs.map(|(name, value)| (name.to_owned(), value.replace(',', " ")));
                Reset::Away(Before(pairs.collect()))
            }
            Some(BACK) => Reset::Back,
            _ => Reset::By(text),
        }
    }
}

impl From<Reset> for String {
    fn from(reset: Reset) -> Self {
        reset.to_string()
    }
}

impl Reset {
    /// Returns the name of the way.
    pub fn name(&self) -> &str {
        match self {
            Reset::By(method) => method,
            Reset::Away(_) | Reset::Back => REMOVE_RESCAN,
        }
    }
}

/// Returns the functions among these that are removed and found again, as they were before.
pub fn away<'r>(
    resets: impl IntoIterator<Item = (&'r String, &'r Reset)>,
) -> BTreeMap<String, Before> {
    let away = resets.into_iter();
    let away = away.filter_map(|(address, reset)| match reset {
        Reset::Away(before) => Some((address.clone(), before.clone())),
        _ => None,
    });
    away.collect()
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reset::By(method) => f.write_str(method),
            Reset::Back => f.write_str(BACK),
            Reset::Away(before) => {
                f.write_str(REMOVE_RESCAN)?;
                let mut pairs = before.0.iter();
                pairs.try_for_each(|(name, value)| write!(f, " {name}={}", value.replace(' ', ",")))
            }
        }
    }
}

/// What a function was like before it was removed: texts by the names of its files, and by `driver`
/// the one that it was bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before(BTreeMap<String, String>);

/// Files of a function that can be set, and their text right after it has appeared where the kernel
/// always begins with the same (`Documentation/ABI/testing/sysfs-bus-pci`).
pub const ATTRIBUTES: [(&str, &str); 6] = [
    ("d3cold_allowed", "1"),
    ("enable", "0"),
    ("msi_bus", "1"),
    ("power/control", ""),
    ("reset_method", ""),
    ("sriov_drivers_autoprobe", "1"),
];

const DRIVER: &str = "driver";
const MODALIAS: &str = "modalias";

impl Before {
    /// Returns what `read` finds of a function, without what it will have again by itself.
    pub fn of(function: &Function, read: impl Fn(&str) -> Option<String>) -> Self {
        let found = ATTRIBUTES.iter().filter_map(|(name, first)| {
            let text = read(name)?;
            // The kernel refuses to enable one that has a driver, which does that itself.
            let is_drivers = *name == "enable" && function.driver.is_some();
            let is_said = text != *first && !text.is_empty() && !is_drivers;
            is_said.then_some(((*name).to_owned(), text))
        });
        let mut before: BTreeMap<String, String> = found.collect();
        let driver = function.driver.clone().map(|name| (DRIVER, name));
        let more = driver
            .into_iter()
            .chain(read(MODALIAS).map(|text| (MODALIAS, text)));
        before.extend(more.map(|(name, text)| (name.to_owned(), text)));
        Before(before)
    }

    /// Returns the texts that its files had, by their names.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let known = |name: &str| ATTRIBUTES.iter().any(|(known, _)| *known == name);
        let pairs = self.0.iter().filter(move |(name, _)| known(name));
        pairs.map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Tells whether a driver had it.
    pub fn was_bound(&self) -> bool {
        self.0.contains_key(DRIVER)
    }

    /// Returns what drivers recognise it by.
    pub fn modalias(&self) -> Option<&str> {
        self.0.get(MODALIAS).map(String::as_str)
    }
}

/// Checks that a function may be removed: nothing goes with it, and it can come back.
///
/// # Errors
/// It must not be.
pub fn check(function: &Function) -> Result<(), NoReset> {
    if function.is_bridge() {
        return Err(NoReset::Bridge);
    }
    if let Some(physical) = &function.physical {
        return Err(NoReset::Virtual(physical.clone()));
    }
    reset::check(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_says_how_far_a_reset_is() {
        let read = |name: &str| match name {
            "power/control" => Some("auto".to_owned()),
            "d3cold_allowed" => Some("1".to_owned()),
            "reset_method" => Some("pm bus".to_owned()),
            "modalias" => Some("pci:v0000144D".to_owned()),
            _ => None,
        };
        let function = Function {
            driver: Some("vfio-pci".to_owned()),
            ..Function::default()
        };
        let away = Reset::Away(Before::of(&function, read));
        let text = "remove-rescan driver=vfio-pci modalias=pci:v0000144D power/control=auto \
                    reset_method=pm,bus";
        assert_eq!(away.to_string(), text);
        for reset in [away, Reset::Back, Reset::By("flr".to_owned())] {
            assert_eq!(Reset::from(reset.to_string()), reset);
        }
        let Reset::Away(before) = Reset::from(text.to_owned()) else {
            panic!("{text}");
        };
        assert!(before.was_bound());
        let attributes: Vec<_> = before.attributes().collect();
        assert_eq!(
            attributes,
            [("power/control", "auto"), ("reset_method", "pm bus")]
        );
    }

    #[test]
    fn what_would_take_others_along_or_not_come_back_is_not_removed() {
        let bridge = Function {
            class: 0x06_04_00,
            ..Function::default()
        };
        assert_eq!(check(&bridge), Err(NoReset::Bridge));
        let mut function = Function::default();
        assert_eq!(check(&function), Ok(()));
        function.virtuals.insert(0, "0000:01:10.0".to_owned());
        assert_eq!(check(&function), Err(NoReset::Virtuals(1)));
        function.physical = Some("0000:01:00.0".to_owned());
        assert!(matches!(check(&function), Err(NoReset::Virtual(_))));
    }

    #[test]
    fn the_gate_is_at_6_19() {
        for (text, expected) in [
            ("6.12.107", false),
            ("6.18.9-1-pve", false),
            ("6.19.0", true),
            ("7.3.4", true),
        ] {
            assert_eq!(is_left_alone(text.parse().unwrap()), expected, "{text}");
        }
    }
}
