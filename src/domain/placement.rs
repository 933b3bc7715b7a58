//! Which vCPU gets which CPU, and what is left for the host.
//!
//! Pure: from the table of a VM and the topology of the host to a list of CPUs. The same request
//! on the same host always gets the same placement, because a running VM is compared with it.

mod choose;
pub mod doubts;
mod home;
mod notice;
mod order;
mod place;
mod reasons;
mod remark;
mod request;
mod reserve;
mod small_cache;
#[cfg(test)]
mod tests;

pub use choose::{Choice, NoRoom, Packing, Search, Speeds, choose};
pub use home::{Home, homes};
pub use notice::Notice;
pub use place::{Placement, PlacementError, place, threads_fit};
pub use reasons::{Device, remarks};
pub use remark::{Remark, Topic};
pub use request::{Request, owned_by_table};
pub use reserve::{TooLittleLeft, check_reserve, default_reserve, housekeeping};
