//! What follows from what: values and pure functions, without files, clocks or processes.

pub mod cpuset;
pub mod gate;
pub mod placement;
pub mod topology;
pub mod vm;
