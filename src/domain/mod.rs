//! What follows from what: values and pure functions, without files, clocks or processes.

pub mod cpuset;
pub mod guest;
pub mod table;
pub mod vm;
