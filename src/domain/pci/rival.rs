//! Drivers of the host that would take a function when it comes back.

use std::fmt;

/// Module of the host whose driver would take a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub module: String,
    /// Whether its driver is there already; otherwise udev would load it.
    pub is_registered: bool,
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rival { module, .. } = self;
        match self.is_registered {
            true => write!(
                f,
                "{module} on the host, which is loaded, would grab it when it reappears"
            )?,
            false => write!(
                f,
                "{module} on the host would be loaded and grab it when it reappears"
            )?,
        }
        f.write_str(", and nothing prevents that before linux 6.19")
    }
}

impl Rival {
    /// Returns what the operator can do about it.
    pub fn help(&self) -> String {
        let Rival { module, .. } = self;
        let unload = match self.is_registered {
            true => format!("unload it (modprobe -r {module}) and "),
            false => String::new(),
        };
        format!(
            "{unload}keep it from being loaded (\"blacklist {module}\" in a file in \
             /etc/modprobe.d), boot linux 6.19 or later, or remove pci.reset from the table"
        )
    }
}
