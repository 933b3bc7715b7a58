//! What the kernel's tracer records, as it comes out of its buffers: layouts of events, pages and the events
//! that say who takes a CPU from whom. Reading them is somebody else's.

pub mod event;
pub mod format;
pub mod page;
