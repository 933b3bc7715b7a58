//! What is only shown.

mod better;
pub mod complaint;
pub mod doctor;
pub mod gone;
pub mod init;
pub mod lint;
pub mod list;
mod orphans;
pub mod plan;
mod remembered;
pub mod report;
pub mod status;
pub mod topology;
