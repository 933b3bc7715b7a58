//! Text that people and PVE write, and what it says: pure, without files or environment.
//!
//! [`table`] reads the operator's TOML strictly: what is not understood is an error with its
//! place. [`vm_conf`] and [`ct_conf`] read PVE's configuration as PVE does: what is not understood is dropped,
//! because another program owns these files.

mod checks;
pub mod ct_conf;
pub mod error;
mod guest;
pub mod keys;
pub mod mapping;
pub mod nearest;
mod passthrough;
mod property;
pub mod section;
pub mod sections;
mod smp;
mod startup;
pub mod table;
mod tree;
pub mod vm_conf;
