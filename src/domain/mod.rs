//! What follows from what: values and pure functions, without files, clocks or processes.

pub mod advice;
pub mod claim;
pub mod container;
pub mod cpuset;
pub mod debt;
pub mod desired;
pub mod diff;
pub mod enabling;
pub mod facts;
pub mod gate;
pub mod guest;
pub mod knob;
pub mod merge;
pub mod placement;
pub mod proposal;
pub mod refusal;
pub mod scrub;
pub mod state;
pub mod storage;
pub mod stuck;
pub mod table;
pub mod target;
pub mod thread;
pub mod topology;
pub mod vm;
pub mod words;
