//! Who takes time from a guest, as records have it: numbers of threads, addresses of functions.

use crate::domain::trace::event::Context;

/// Who has taken time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A thread: its number and name.
    Task(i32, String),
    /// A worker, by the function that it called for somebody.
    Work(u64),
    /// An interrupt that called nothing.
    Interrupt(Context),
    /// A function within an interrupt.
    Function(Context, u64),
    /// An NMI, by what handled it.
    Nmi(u64),
    /// The way out of the guest and back, for a reason that no record shows.
    Exit,
}
