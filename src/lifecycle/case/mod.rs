//! What there is under a VM id, and what it is to own on this host.

pub mod assess;
pub mod config;
pub mod ground;
pub mod known;
pub mod neighbours;
pub mod notes;
pub(in crate::lifecycle) mod nothing;
pub mod outdated;
pub mod overlaps;
pub mod resolve;
pub mod room;
pub mod texts;
pub mod yields;
