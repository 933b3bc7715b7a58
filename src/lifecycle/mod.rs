//! When what is done: claims, the journal, settling, and the phases of a VM's life.

pub mod account;
pub mod boot;
mod claiming;
pub mod command;
pub mod fate;
pub mod init;
pub mod journal;
pub mod lint;
pub mod list;
pub mod look;
pub mod observe;
pub mod phase;
pub mod plan;
pub mod reconcile;
pub mod recover;
pub mod report;
pub mod resolve;
pub mod room;
pub mod settle;
pub mod status;
pub mod units;
mod verdict;
pub mod work;
