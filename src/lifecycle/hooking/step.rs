//! The single steps of enabling and disabling a VM, which are shown before they are done.

use std::time::Duration;

use super::snippet;
use crate::domain::enabling::EnableRefusal;
use crate::domain::storage::Snippet;
use crate::domain::target::{Target, Value};
use crate::domain::vm::Vmid;
use crate::host::programs::{How, Printed, Program, Programs};
use crate::host::record;
use crate::host::target::{read, write};
use crate::host::trouble::cannot;
use crate::host::{Host, pve};

/// How long it may take: it waits 10 s for the VM's lock, and a busy node is slow to start it.
const QM_WAIT: Duration = Duration::from_secs(40);
/// The unit that prepares the node at boot; it is the only one that is enabled.
const BOOT_UNIT: &str = "pin-hook-boot.service";
/// What enabling it makes.
const BOOT_LINK: &str = "/etc/systemd/system/multi-user.target.wants/pin-hook-boot.service";

/// One thing that is done for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Save its config.
    Save(Vmid, String),
    /// Record the hookscript that it had.
    Record(Vmid, Snippet),
    /// Write the snippet to a path.
    Put(String),
    /// Set its hookscript, or with `None` delete it.
    Hook(Vmid, Option<Snippet>),
    /// Have systemd leave the cpuset controller of its scope to us, or not any more.
    Delegate(Vmid, bool),
    /// Have the node prepared at every boot.
    Boot,
    /// Forget what is remembered about it.
    Forget(Vmid),
}

impl Step {
    /// Tells whether it only prepares what a start or a boot would do as well.
    pub fn only_prepares(&self) -> bool {
        matches!(self, Step::Delegate(..) | Step::Boot)
    }

    /// Says what was done, or would be.
    pub fn describe(&self, is_dry: bool) -> String {
        let (verb, done, rest) = match self {
            Step::Save(vmid, _) => {
                let path = record::saved_path(*vmid);
                (
                    "save",
                    "saved",
                    format!("the config of vm {vmid} as {path}"),
                )
            }
            Step::Record(vmid, hook) => {
                let path = record::former_path(*vmid);
                let rest = format!("{hook} in {path}: it is called in every phase too");
                ("record", "recorded", rest)
            }
            Step::Put(path) => ("write", "wrote", format!("the snippet {path}")),
            Step::Hook(vmid, hook) => ("run", "ran", command(*vmid, hook.as_ref())),
            Step::Delegate(vmid, true) => {
                let path = Target::Delegation(*vmid).path();
                ("write", "wrote", format!("the drop-in {path}"))
            }
            Step::Delegate(vmid, false) => {
                let path = Target::Delegation(*vmid).path();
                ("remove", "removed", format!("the drop-in {path}"))
            }
            Step::Boot => ("enable", "enabled", BOOT_UNIT.to_owned()),
            Step::Forget(vmid) => {
                let rest = format!("what was saved and recorded about vm {vmid}");
                ("remove", "removed", rest)
            }
        };
        match is_dry {
            true => format!("would {verb} {rest}"),
            false => format!("{done} {rest}"),
        }
    }

    /// Returns what it is, for those who wait for it.
    pub fn in_words(&self) -> String {
        match self {
            Step::Hook(vmid, hook) => command(*vmid, hook.as_ref()),
            Step::Delegate(..) | Step::Boot => "systemd to reload its unit files".to_owned(),
            _ => "a file to be written".to_owned(),
        }
    }

    /// Tells whether there is nothing left to do, as far as that can be seen without doing it.
    pub fn is_done(&self, host: &Host) -> bool {
        match self {
            Step::Delegate(vmid, true) => {
                let live = read(host, &Target::Delegation(*vmid));
                live.is_ok_and(|live| live == Value::Present)
            }
            Step::Boot => host.files.link(BOOT_LINK).is_ok(),
            _ => false,
        }
    }

    /// Does it; tells whether there was something to do.
    ///
    /// # Errors
    /// [`EnableRefusal`] when PVE does not do its part, otherwise what the kernel or systemd says.
    pub fn work(&self, host: &Host, programs: &dyn Programs) -> anyhow::Result<bool> {
        let files = &*host.files;
        match self {
            Step::Save(vmid, text) => record::save_config(files, *vmid, text)?,
            Step::Record(vmid, hook) => record::record_former(files, *vmid, hook)?,
            Step::Put(path) => snippet::put(files, path)?,
            Step::Hook(vmid, hook) => set_hook(host, programs, *vmid, hook.as_ref())?,
            Step::Delegate(vmid, is_wished) => delegate(host, *vmid, *is_wished)?,
            Step::Boot => return host.systemd.enable(BOOT_UNIT),
            Step::Forget(vmid) => record::forget(files, *vmid)?,
        }
        Ok(true)
    }
}

fn arguments(vmid: Vmid, hook: Option<&Snippet>) -> Vec<String> {
    let (option, value) = match hook {
        Some(hook) => ("--hookscript", hook.to_string()),
        None => ("--delete", "hookscript".to_owned()),
    };
    let words = ["set".to_owned(), vmid.to_string(), option.to_owned(), value];
    words.to_vec()
}

fn command(vmid: Vmid, hook: Option<&Snippet>) -> String {
    format!("qm {}", arguments(vmid, hook).join(" "))
}

/// Has PVE change the option, which it does at once also for a VM that runs, and looks whether it
/// has.
fn set_hook(
    host: &Host,
    programs: &dyn Programs,
    vmid: Vmid,
    hook: Option<&Snippet>,
) -> anyhow::Result<()> {
    let program = Program {
        path: pve::QM.to_owned(),
        arguments: arguments(vmid, hook),
        wait: QM_WAIT,
        output: Printed::Kept,
    };
    let ended = programs.run(&program)?;
    let said = ended.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let fault = match ended.how {
        How::Exited(0) => None,
        How::Exited(_) if !said.is_empty() => Some(format!("failed: {said}")),
        How::Exited(status) => Some(format!("failed with exit status {status}")),
        How::Killed(signal) => Some(format!("was killed by signal {signal}")),
        How::Late => Some(format!("did not finish within {QM_WAIT:?}")),
    };
    if let Some(fault) = fault {
        let command = command(vmid, hook);
        return Err(EnableRefusal::Pve { command, fault }.into());
    }
    let set = hook_of(host, vmid)?;
    if set == hook.map(Snippet::to_string) {
        return Ok(());
    }
    let command = command(vmid, hook);
    Err(EnableRefusal::NotSet { vmid, command, set }.into())
}

/// Returns the hookscript that the config of a VM names.
///
/// # Errors
/// The config cannot be read.
pub fn hook_of(host: &Host, vmid: Vmid) -> anyhow::Result<Option<String>> {
    Ok(pve::guest_of(&*host.files, vmid, "")?.and_then(|guest| guest.hookscript))
}

fn delegate(host: &Host, vmid: Vmid, is_wished: bool) -> anyhow::Result<()> {
    let target = Target::Delegation(vmid);
    let value = match is_wished {
        true => Value::Present,
        false => Value::Absent,
    };
    let live = read(host, &target)?;
    write(host, &target, &live, &value).map_err(cannot("write", &target.path()))?;
    host.systemd.reload()
}
