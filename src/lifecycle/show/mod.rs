//! What is only shown.

pub mod complaint;
pub mod doctor;
pub mod init;
pub mod lint;
pub mod list;
pub mod plan;
pub mod status;
mod value;
