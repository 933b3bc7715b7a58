//! A VM with a table, and what can be wrong with the texts that say so.

use crate::config::error::ConfigError;
use crate::config::table::{parse_host_settings, parse_table};
use crate::domain::advice::Advised;
use crate::domain::guest::Guest;
use crate::domain::nothing::Nothing;
use crate::domain::table::{HostSettings, Table};
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::domain::yields::YieldFault;
use crate::host::Host;
use crate::host::pve::{self, TextFile};
use crate::host::table::read_host_table;
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::denied::Denied;

/// A VM with a table, as it is configured.
#[derive(Debug, Clone)]
pub struct Case {
    /// Which VM.
    pub vmid: Vmid,
    /// What PVE would start, with the vCPUs that it runs with if those are more.
    pub guest: Guest,
    /// vCPUs that it runs with, where its config names fewer by now.
    pub surplus_vcpus: Option<u32>,
    /// What the operator wishes.
    pub table: Table,
    /// Where the table is.
    pub table_path: String,
    /// Settings of the host.
    pub settings: HostSettings,
}

impl Case {
    /// Returns what is to be known of a guest that runs with more vCPUs than its config names.
    pub fn on_vcpus(&self) -> Option<String> {
        let n = self.surplus_vcpus?;
        let text = "its config names fewer, which takes effect when it is stopped and started";
        Some(format!(
            "the vm runs with {}: {text}",
            count(n as usize, "vcpu")
        ))
    }
}

/// What there is under a guest id.
#[derive(Debug, Clone)]
pub enum Found {
    /// A VM with a table.
    Case(Box<Case>),
    /// Nothing to do, and why.
    Nothing(Nothing),
}

/// Why the texts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A table or the settings of the host say something impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What a table says of VMs that make room is wrong.
    #[error("{path}: yield.stop: {fault}")]
    Yield {
        /// Where the table is.
        path: String,
        /// What is wrong.
        fault: YieldFault,
    },
    /// A file cannot be read or must not be trusted.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<CaseError> for Denied {
    fn from(error: CaseError) -> Self {
        Denied::Failed(match error {
            CaseError::Other(error) => error,
            wrong => Advised::new(wrong.to_string(), wrong.help()).into(),
        })
    }
}

impl CaseError {
    /// Returns what the operator can do about it.
    pub fn help(&self) -> String {
        match self {
            CaseError::Config(error) => error.help.clone(),
            CaseError::Yield { fault, .. } => fault.help(),
            CaseError::Other(error) => help_for(error),
        }
    }
}

/// Returns what a table says on this node.
pub fn understand(
    host: &Host,
    file: &TextFile,
    settings: &HostSettings,
) -> Result<Table, CaseError> {
    let node = pve::node_name(&*host.files)?;
    let table = parse_table(&file.path, &file.text, &node, &settings.defaults)?;
    Ok(table)
}

/// Reads the settings of the host; without a file, those of an empty one.
pub fn read_settings(host: &Host) -> Result<HostSettings, CaseError> {
    match read_host_table(&*host.files)? {
        Some(file) => Ok(parse_host_settings(&file.path, &file.text)?),
        None => Ok(HostSettings::default()),
    }
}
