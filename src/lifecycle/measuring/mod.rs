//! Measuring what is taken from a guest, while it runs.

mod names;
pub mod proof;
pub mod run;
pub mod saved;
mod spinning;
pub mod subject;
