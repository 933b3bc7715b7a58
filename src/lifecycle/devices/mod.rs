//! Passed-through devices on their way between the host and a VM.

pub(in crate::lifecycle) mod binding;
pub(in crate::lifecycle) mod resetting;
pub(in crate::lifecycle) mod waiting;
