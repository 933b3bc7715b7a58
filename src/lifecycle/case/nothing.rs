//! What there is under a guest id on this node: a VM, or why there is none.

use crate::config::vm_conf::{VmConf, parse_vm_conf};
use crate::domain::advice::Advised;
use crate::domain::guest::Guest;
use crate::domain::nothing::Nothing;
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::table::stray_tables;
use crate::host::{Host, pve};

/// What there is under a guest id.
#[derive(Debug, Clone)]
pub enum There {
    /// A VM of this node.
    Vm(VmText),
    /// A template of this node, which is never started but for a backup.
    Template(Vmid),
    /// No VM of this node.
    Nothing(Nothing),
}

/// The config of a VM.
#[derive(Debug, Clone)]
pub struct VmText {
    /// As it is written.
    pub text: String,
    /// What it says.
    pub conf: VmConf,
}

/// Checks that this node has such a VM, or a template: of any other guest nothing can be told.
///
/// # Errors
/// It has not, or the config cannot be read.
pub fn check_there(host: &Host, vmid: Vmid) -> anyhow::Result<()> {
    match look_up(&*host.files, vmid, "")? {
        There::Nothing(why) => Err(Advised::new(why.to_string(), why.help()).into()),
        There::Vm(_) | There::Template(_) => Ok(()),
    }
}

/// Finds out what there is under a guest id; `migrated_from` as in [`pve::vm_config`].
///
/// # Errors
/// The config is there but cannot be read.
pub fn look_up(files: &dyn Files, vmid: Vmid, migrated_from: &str) -> anyhow::Result<There> {
    let Some(config) = pve::vm_config(files, vmid, migrated_from)? else {
        let why = match pve::is_container(files, vmid) {
            true => Nothing::Container(vmid),
            false => absent(files, vmid),
        };
        return Ok(There::Nothing(why));
    };
    let conf = parse_vm_conf(&config.text);
    Ok(match conf.guest().template {
        true => There::Template(vmid),
        false => There::Vm(VmText {
            text: config.text,
            conf,
        }),
    })
}

/// Returns the guest that a start of a VM would make, if it can be told.
pub fn next_guest(files: &dyn Files, vmid: Vmid, migrated_from: &str) -> Option<Guest> {
    let vm = look_up(files, vmid, migrated_from).ok()?.vm().ok()?;
    Some(vm.conf.guest_of_next_start())
}

impl There {
    /// Returns the VM that can be started.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn vm(self) -> Result<VmText, Nothing> {
        match self {
            There::Vm(vm) => Ok(vm),
            There::Template(vmid) => Err(Nothing::Template(vmid)),
            There::Nothing(why) => Err(why),
        }
    }
}

/// Says where a VM is that this node does not have.
fn absent(files: &dyn Files, vmid: Vmid) -> Nothing {
    match pve::node_of_vm(files, vmid) {
        Some(node) => Nothing::Elsewhere { vmid, node },
        None => Nothing::NoVm(vmid),
    }
}

/// Says that a VM has no table, or which file was meant to be it.
pub fn no_table(files: &dyn Files, vmid: Vmid) -> Nothing {
    let strays = stray_tables(files);
    match strays.into_iter().find(|stray| stray.meant == vmid) {
        Some(stray) => Nothing::Misnamed {
            vmid,
            expected: stray.expected(),
            found: stray.path,
        },
        None => Nothing::NoTable(vmid),
    }
}
