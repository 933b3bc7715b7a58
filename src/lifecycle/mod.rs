//! When what is done: claims, the journal, settling, and the phases of a VM's life.

pub mod case;
pub mod devices;
pub mod engine;
pub mod hooking;
pub mod measuring;
pub mod show;
pub mod start;
