//! Text that people and PVE write, and what it says: pure, without files or environment.
//!
//! [`vm_conf`] reads PVE's configuration as PVE does: what is not understood is dropped,
//! because another program owns that file.

mod guest;
mod property;
mod smp;
pub mod vm_conf;
