//! Drivers of PCI functions: which modules match a function, and which of them can get at it.
//!
//! Reads what `depmod` has written (`/lib/modules`), `/sys/module` and the settings of `modprobe`.

use std::collections::BTreeSet;
use std::io;

use super::files::Files;
use super::surroundings::release;
use crate::domain::pci::modules::{kept_away, matching};
use crate::domain::pci::rival::Rival;

const COMMAND_LINE: &str = "/proc/cmdline";
/// Where `modprobe` looks for its settings (modprobe.d(5)).
const SETTINGS: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// Returns a module whose driver would take a function that appears: one that is registered, or that
/// udev loads when the kernel tells it of the function, which it does before it looks for a driver.
///
/// # Errors
/// The modules of the running kernel cannot be read.
pub fn rival(files: &dyn Files, modalias: &str) -> io::Result<Option<Rival>> {
    let modules = of_function(files, modalias)?;
    let is_registered = |module: &String| {
        let drivers = files.list(&format!("/sys/module/{module}/drivers"));
        drivers.is_ok_and(|names| names.iter().any(|name| name.starts_with("pci:")))
    };
    let registered = modules.loadable.iter().chain(&modules.built_in);
    if let Some(module) = registered.into_iter().find(|module| is_registered(module)) {
        let (module, is_registered) = (module.clone(), true);
        return Ok(Some(Rival {
            module,
            is_registered,
        }));
    }
    let away = blacklist(files);
    let loadable = modules.loadable.into_iter();
    let mut loadable = loadable.filter(|module| !away.contains(module));
    Ok(loadable.next().map(|module| Rival {
        module,
        is_registered: false,
    }))
}

struct Modules {
    loadable: BTreeSet<String>,
    built_in: BTreeSet<String>,
}

/// Returns where the modules of the running kernel are.
pub(super) fn modules_dir(files: &dyn Files) -> io::Result<String> {
    Ok(format!("/lib/modules/{}", release(files)?))
}

fn of_function(files: &dyn Files, modalias: &str) -> io::Result<Modules> {
    let dir = modules_dir(files)?;
    let aliases = files.read(&format!("{dir}/modules.alias"))?;
    let aliases = aliases.lines().filter_map(|line| {
        let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
        Some((pattern, module))
    });
    // What the kernel was built with is told by pairs that end with a zero byte each.
    let built_in = files.read(&format!("{dir}/modules.builtin.modinfo"))?;
    let built_in = built_in.split('\0').filter_map(|pair| {
        let (name, pattern) = pair.split_once('=')?;
        Some((pattern, name.strip_suffix(".alias")?))
    });
    Ok(Modules {
        loadable: matching(modalias, aliases),
        built_in: matching(modalias, built_in),
    })
}

fn blacklist(files: &dyn Files) -> BTreeSet<String> {
    let dirs = SETTINGS.iter().flat_map(|dir| {
        let names = files.list(dir).unwrap_or_default().into_iter();
        let names = names.filter(|name| name.ends_with(".conf"));
        names.map(move |name| format!("{dir}/{name}"))
    });
    let texts: Vec<String> = dirs.filter_map(|path| files.read(&path).ok()).collect();
    let command_line = files.read(COMMAND_LINE).unwrap_or_default();
    kept_away(texts.iter().map(String::as_str), &command_line)
}
