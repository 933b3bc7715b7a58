//! What a reset of devices needs while it is under way.

use super::Desired;
use crate::domain::claim::Claims;
use crate::domain::knob::Knob;
use crate::domain::target::{Place, Target, Value};

/// Wishes for the methods by which functions are going to be reset. The kernel resets by the first
/// that is allowed; once the reset is done, or its run has died, all are allowed again.
pub(super) fn reset_methods(claims: &Claims, desired: &mut Desired) {
    for (address, method) in claims.values().flat_map(|claim| &claim.resets) {
        let target = Target::Knob(Knob::ResetMethod, Place::Function(address.clone()));
        desired.insert(target, Value::Text(method.clone()).into());
    }
}
