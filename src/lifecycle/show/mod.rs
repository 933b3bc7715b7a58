//! What is only shown.

mod better;
pub mod complaint;
pub mod doctor;
pub mod gone;
pub mod init;
mod known;
pub mod lint;
pub mod list;
mod orphans;
pub mod plan;
pub mod report;
pub mod status;
pub mod topology;
mod value;
