//! What is taken from a guest, and by whom: records of the kernel's tracer, added up.

pub mod absence;
pub mod account;
pub mod card;
pub mod culprit;
pub mod draw;
mod frame;
pub mod gaps;
pub mod kind;
pub mod measurement;
pub mod proof;
pub mod remedy;
pub mod spinning;
pub mod tally;
pub mod who;
