//! When PVE starts a guest at boot: its option `startup`.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;

/// What `startup: order=N,up=S,down=S` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Startup {
    /// Place among the guests of the node.
    pub order: Option<u32>,
    /// Seconds until the next guest is started.
    pub up: Option<u32>,
    /// Seconds that the guest may take to shut down.
    pub down: Option<u32>,
}

impl Startup {
    /// Compares places: guests without an order come last (`get_start_stop_list` of `PVE::API2::Nodes`).
    pub fn compare(&self, other: &Startup) -> Ordering {
        let place = |order: Option<u32>| order.map_or(u64::MAX, u64::from);
        place(self.order).cmp(&place(other.order))
    }
}

impl fmt::Display for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("order", self.order), ("up", self.up), ("down", self.down)];
        let parts = parts.iter().filter_map(|(key, value)| {
            let value = (*value)?;
            Some(format!("{key}={value}"))
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}
