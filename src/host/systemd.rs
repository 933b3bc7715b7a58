//! The service manager, over D-Bus.

use std::fmt::Debug;

/// What the program asks of systemd. Every call has a deadline of its own; a bus that hangs
/// costs that deadline and not the start of a VM.
pub trait Systemd: Debug {
    /// Makes systemd read its unit files again (`Manager.Reload`) and waits until it has.
    fn reload(&self) -> anyhow::Result<()>;
    /// Queues the start of a unit (`Manager.StartUnit`, mode `replace`) without waiting for it.
    fn start(&self, unit: &str) -> anyhow::Result<()>;
    /// Queues the stop of a unit (`Manager.StopUnit`, mode `replace`) without waiting for it.
    fn stop(&self, unit: &str) -> anyhow::Result<()>;
    /// Returns the controllers that a loaded scope delegates (`Scope.DelegateControllers`), or
    /// `None` when there is no such unit.
    fn delegated(&self, scope: &str) -> anyhow::Result<Option<Vec<String>>>;
}
