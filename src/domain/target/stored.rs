//! How targets are written down in the journal, which every later version reads.
//!
//! Drivers and pools of hugepages were rows of the knob table once, and are written as such for ever: a
//! journal says the same before and after an upgrade, and after a downgrade as well.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Target;
use crate::domain::memory::Pool;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FormerRow {
    Knob(FormerKnob, FormerPlace),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FormerKnob {
    Driver,
    Hugepages,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FormerPlace {
    Function(String),
    Pool(Pool),
}

impl FormerRow {
    fn of(target: &Target) -> Option<Self> {
        let (knob, place) = match target {
            Target::Driver(address) => (FormerKnob::Driver, FormerPlace::Function(address.clone())),
            Target::Hugepages(pool) => (FormerKnob::Hugepages, FormerPlace::Pool(*pool)),
            _ => return None,
        };
        Some(FormerRow::Knob(knob, place))
    }

    fn target(self) -> Option<Target> {
        match self {
            FormerRow::Knob(FormerKnob::Driver, FormerPlace::Function(address)) => {
                Some(Target::Driver(address))
            }
            FormerRow::Knob(FormerKnob::Hugepages, FormerPlace::Pool(pool)) => {
                Some(Target::Hugepages(pool))
            }
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Former(FormerRow),
    Plain(#[serde(deserialize_with = "Target::deserialize")] Target),
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match FormerRow::of(self) {
            Some(former) => former.serialize(serializer),
            None => Target::serialize(self, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Stored::deserialize(deserializer)? {
            Stored::Plain(target) => Ok(target),
            Stored::Former(former) => {
                let target = former.target();
                target.ok_or_else(|| D::Error::custom("a driver or a pool in another's place"))
            }
        }
    }
}
