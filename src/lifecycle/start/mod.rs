//! The phases, and what an operator asks for by hand.

pub(in crate::lifecycle) mod claiming;
pub mod command;
pub(in crate::lifecycle) mod making_room;
pub mod memory;
mod notify;
pub mod phase;
pub(in crate::lifecycle) mod preparing;
pub mod reconcile;
pub(in crate::lifecycle) mod standby;
pub(in crate::lifecycle) mod verdict;
