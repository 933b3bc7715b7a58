//! What devices need that are reset or bound for a VM.

use super::view::View;
use super::wish::Desired;
use crate::domain::claim::Claims;
use crate::domain::knob::Knob;
use crate::domain::pci::anew::Reset;
use crate::domain::pci::{VFIO, binding};
use crate::domain::target::{Place, Target, Value};

impl View<'_> {
    /// Adds the drivers of functions that are bound for VMs. One that goes back stays with vfio-pci as
    /// long as any VM has it; of one that does not, nothing is remembered once QEMU has it.
    pub(super) fn drivers(&self, claims: &Claims, desired: &mut Desired) {
        let vfio = || Value::Text(VFIO.to_owned()).into();
        for claim in claims.values() {
            for address in claim.bindings.keys() {
                if claim.qemu().is_none() {
                    let place = Place::Function(address.clone());
                    desired.insert(Target::Knob(Knob::DriverOverride, place), vfio());
                }
                if claim.binds(address) {
                    desired.insert(binding::target(address), vfio());
                }
            }
        }
        let in_use = &self.facts.functions_in_use;
        let held = self.held.keys().filter(|target| {
            binding::function_of(target).is_some_and(|address| in_use.contains(address))
        });
        desired.extend(held.map(|target| (target.clone(), vfio())));
    }
}

/// Wishes for what resets need.
///
/// The kernel resets a function by the first method that is allowed; once the reset is done, or its
/// run has died, all are allowed again. As long as a function is away no driver takes what appears,
/// and until PVE has bound one that has come back no driver but that for VMs may.
pub(super) fn resets(claims: &Claims, desired: &mut Desired) {
    let resets = claims.values().flat_map(|claim| {
        let resets = claim.resets.iter();
        resets.map(move |(address, reset)| (claim, address, reset))
    });
    for (claim, address, reset) in resets {
        let knob = |knob| Target::Knob(knob, Place::Function(address.clone()));
        let mut wish = |target: Target, text: &str| {
            desired.insert(target, Value::Text(text.to_owned()).into());
        };
        match reset {
            Reset::By(method) => wish(knob(Knob::ResetMethod), method),
            Reset::Away(_) => {
                wish(Target::Knob(Knob::DriversAutoprobe, Place::Host), "0");
                wish(knob(Knob::DriverOverride), VFIO);
            }
            Reset::Back if claim.qemu().is_none() => wish(knob(Knob::DriverOverride), VFIO),
            Reset::Back => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::claim::{Claim, ClaimState, Wishes};
    use crate::domain::desired::desired;
    use crate::domain::desired::tests::{claims, facts, id, task};
    use crate::domain::table::AfterStop;

    const ADDRESS: &str = "0000:01:00.0";

    /// Returns which driver a function is to have, and which alone may take it.
    fn drivers(claim: Claim) -> [bool; 2] {
        let wishes = desired(&claims([claim]), &BTreeMap::new(), &facts());
        let place = Place::Function(ADDRESS.to_owned());
        let targets = [
            binding::target(ADDRESS),
            Target::Knob(Knob::DriverOverride, place),
        ];
        targets.map(|target| wishes.contains_key(&target))
    }

    fn states() -> [ClaimState; 2] {
        let (starter, qemu) = (task(40), task(50));
        let deadline = std::time::Duration::ZERO;
        [
            ClaimState::Reserved { starter, deadline },
            ClaimState::Running { qemu },
        ]
    }

    /// A host driver would take a device between its reset and QEMU, or never again after the VM has ended.
    #[test]
    fn host_drivers_are_kept_off_a_device_until_qemu_has_it() {
        let [starting, running] = states();
        for (state, is_kept_off) in [(starting, true), (running, false)] {
            let claim = Claim {
                resets: BTreeMap::from([(ADDRESS.to_owned(), Reset::Back)]),
                ..Claim::new(id(100), state, Wishes::none(), None)
            };
            assert_eq!(drivers(claim), [false, is_kept_off]);
        }
    }

    /// A device that is to stay with vfio-pci would be given back, or one that is to return would not.
    #[test]
    fn only_of_a_device_that_returns_the_driver_is_remembered_while_the_vm_runs() {
        let [starting, running] = states();
        for (state, after, expected) in [
            (&starting, AfterStop::Stay, [true, true]),
            (&starting, AfterStop::Return, [true, true]),
            (&running, AfterStop::Stay, [false, false]),
            (&running, AfterStop::Return, [true, false]),
        ] {
            let claim = Claim {
                bindings: BTreeMap::from([(ADDRESS.to_owned(), after)]),
                ..Claim::new(id(100), state.clone(), Wishes::none(), None)
            };
            assert_eq!(drivers(claim), expected, "{state} {after:?}");
        }
    }
}
