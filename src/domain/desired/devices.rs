//! What a reset of devices needs while it is under way.

use super::Desired;
use crate::domain::claim::Claims;
use crate::domain::knob::Knob;
use crate::domain::pci::VFIO;
use crate::domain::pci::anew::Reset;
use crate::domain::target::{Place, Target, Value};

/// Wishes for what resets need.
///
/// The kernel resets a function by the first method that is allowed; once the reset is done, or its
/// run has died, all are allowed again. As long as a function is away no driver takes what appears,
/// and until PVE has bound one that has come back no driver but that for VMs may.
pub(super) fn resets(claims: &Claims, desired: &mut Desired) {
    let resets = claims.values().flat_map(|claim| {
        let resets = claim.resets.iter();
        resets.map(move |(address, text)| (claim, address, text))
    });
    for (claim, address, text) in resets {
        let knob = |knob| Target::Knob(knob, Place::Function(address.clone()));
        let mut wish = |target: Target, text: &str| {
            desired.insert(target, Value::Text(text.to_owned()).into());
        };
        match Reset::parse(text) {
            Reset::By(method) => wish(knob(Knob::ResetMethod), &method),
            Reset::Away(_) => {
                wish(Target::Knob(Knob::DriversAutoprobe, Place::Host), "0");
                wish(knob(Knob::DriverOverride), VFIO);
            }
            Reset::Back if claim.qemu().is_none() => wish(knob(Knob::DriverOverride), VFIO),
            Reset::Back => {}
        }
    }
}
