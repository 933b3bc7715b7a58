//! Measurements that are kept under a name, to be compared.

use std::io;

use anyhow::{Context, bail};

use crate::domain::advice::Advised;
use crate::domain::measure::card::MOST;
use crate::domain::measure::measurement::Measurement;
use crate::domain::vm::Vmid;
use crate::host::dirs::make_dirs;
use crate::host::files::Files;
use crate::host::trouble::cannot;

const DIR: &str = "/var/lib/pin-hook/measured";

/// Name that a measurement is kept under: letters, digits, `-`, `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match !text.is_empty() && text.len() <= 64 && text.chars().all(is_plain) {
            true => Ok(Name(text.to_owned())),
            false => Err("a name has letters, digits, - and _, 64 at most".to_owned()),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    fn path(&self) -> String {
        format!("{DIR}/{self}.json")
    }
}

/// Keeps a measurement; one of the same name is replaced.
///
/// # Errors
/// The file cannot be written.
pub fn save(files: &dyn Files, name: &Name, measurement: &Measurement) -> anyhow::Result<()> {
    let path = name.path();
    make_dirs(files, DIR, 0o755).map_err(cannot("make", DIR))?;
    let text = serde_json::to_string(measurement)?;
    files
        .replace(&path, &text, 0o644)
        .map_err(cannot("write", &path))
}

/// All measurements that were kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// By their names, the oldest first.
    pub measurements: Vec<(String, Measurement)>,
    /// Names of those that cannot be read.
    pub unreadable: Vec<String>,
}

impl Kept {
    /// Returns all measurements that were kept.
    pub fn read(files: &dyn Files) -> Self {
        let mut kept = Kept::default();
        for name in names(files) {
            match load(files, &name) {
                Ok(measurement) => kept.measurements.push((name.to_string(), measurement)),
                Err(_) => kept.unreadable.push(name.to_string()),
            }
        }
        kept.measurements.sort_by_key(|(_, one)| one.at);
        kept
    }

    /// Returns the last few measurements of a VM, the oldest of them first.
    pub fn of_vm(&self, vmid: Vmid) -> Vec<(String, Measurement)> {
        let all = self.measurements.iter();
        let of_vm = all.filter(|(_, one)| one.vmid == Some(vmid));
        let mut last: Vec<_> = of_vm.rev().take(MOST).cloned().collect();
        last.reverse();
        last
    }
}

/// Returns a measurement that was kept.
///
/// # Errors
/// There is none of this name, or it cannot be understood.
pub fn load(files: &dyn Files, name: &Name) -> anyhow::Result<Measurement> {
    let path = name.path();
    let text = match files.read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(Advised::new(
                format!("there is no measurement \"{name}\""),
                help(files)
            ));
        }
        text => text.map_err(cannot("read", &path))?,
    };
    serde_json::from_str(&text).with_context(|| {
        let help = format!("measure again with --save {name}");
        Advised::new(
            format!("{path} was written by another version of pin-hook"),
            help,
        )
    })
}

fn help(files: &dyn Files) -> String {
    let names = names(files);
    let names: Vec<&str> = names.iter().map(|name| name.0.as_str()).collect();
    match names.is_empty() {
        true => "pin-hook measure <vmid> --save NAME keeps one".to_owned(),
        false => format!("those that are kept: {}", names.join(", ")),
    }
}

fn names(files: &dyn Files) -> Vec<Name> {
    let names = files.list(DIR).unwrap_or_default();
    let names = names.iter().filter_map(|name| name.strip_suffix(".json"));
    names.filter_map(|name| name.parse().ok()).collect()
}
