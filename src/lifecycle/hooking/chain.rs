//! The hookscript that a VM had before it was enabled: it is called in every phase as PVE would,
//! with the same arguments and environment.
//!
//! At a start it comes before pin-hook's part: when it refuses, nothing has been reserved yet, and
//! what it starts or pins is there when pin-hook isolates. At a stop it comes after, in reverse
//! order: the host is back as it was when it runs.

use std::io;
use std::time::Duration;

use nix::libc::{ENOENT, ENOEXEC};

use super::snippet;
use crate::domain::enabling::EnableRefusal;
use crate::domain::vm::Vmid;
use crate::host::cluster;
use crate::host::files::Files;
use crate::host::programs::{How, Printed, Program, Programs};
use crate::host::record;
use crate::lifecycle::engine::account::{Account, Exit};
use crate::lifecycle::engine::advice::known_help;
use crate::lifecycle::start::phase::Phase;

/// How long it may take. PVE would wait for ever; a hook that takes longer is stuck, and it holds
/// the VM's lock.
const HOOK_WAIT: Duration = Duration::from_secs(10 * 60);

/// Calls the former hookscript around `ours`, and returns the exit status: that of the first of
/// them that failed.
///
/// `phase` is what PVE says, known or not; `tell` is told what came of each part as soon as it is
/// known, because the hook writes to the task log itself.
pub fn around(
    hook: &Hook<'_>,
    phase: &str,
    ours: impl FnOnce() -> Account,
    tell: impl Fn(&Account),
) -> u8 {
    let part = |account: Account, status: u8| {
        tell(&account);
        status
    };
    let theirs = || {
        let (account, status) = hook.call(phase);
        part(account, status)
    };
    let ours = || {
        let account = ours();
        let status = account.exit.code();
        part(account, status)
    };
    let first_failure = |first: u8, second: u8| if first == 0 { second } else { first };
    match phase.parse() {
        Ok(Phase::PreStart) => match theirs() {
            0 => ours(),
            refused => refused,
        },
        Ok(Phase::PostStart) => first_failure(theirs(), ours()),
        Ok(Phase::PreStop | Phase::PostStop) | Err(_) => first_failure(ours(), theirs()),
    }
}

/// The hookscript that a VM had before, if it had one.
#[derive(Debug)]
pub struct Hook<'h> {
    /// Where it is recorded.
    pub files: &'h dyn Files,
    /// How it is executed.
    pub programs: &'h dyn Programs,
    /// Which VM.
    pub vmid: Vmid,
}

impl Hook<'_> {
    /// Calls it; returns what there is to be said, and its exit status (0 when there is none).
    fn call(&self, phase: &str) -> (Account, u8) {
        let mut account = Account::default();
        let status = match self.try_call(phase, &mut account) {
            Ok(status) => status,
            Err(error) => {
                account.fail(Exit::Refused, format!("{error:#}"), self.help(&error));
                Exit::Refused.code()
            }
        };
        (account, status)
    }

    /// Returns what can be done about a hookscript that cannot be called.
    fn help(&self, error: &anyhow::Error) -> String {
        let mend = match error.downcast_ref() {
            Some(EnableRefusal::BrokenHook { fault, .. }) => fault.help(),
            _ if is_script_of_nothing(error) => {
                "its first line has to name an existing program (#!)".to_owned()
            }
            _ => known_help(error).unwrap_or_else(|| "fix it".to_owned()),
        };
        format!("{mend}, or {}", self.do_without())
    }

    fn do_without(&self) -> String {
        let record = record::former_path(self.vmid);
        format!("remove {record} to stop using it")
    }

    fn try_call(&self, phase: &str, account: &mut Account) -> anyhow::Result<u8> {
        let vmid = self.vmid;
        let Some(hook) = record::former(self.files, vmid)? else {
            return Ok(0);
        };
        let volume = hook.to_string();
        let storages = cluster::storages(self.files)?;
        let (_, path) = snippet::callable(self.files, &storages, &volume).map_err(|fault| {
            let volume = volume.clone();
            EnableRefusal::BrokenHook {
                vmid,
                volume,
                fault,
            }
        })?;
        let ended = self.programs.run(&Program {
            path,
            arguments: vec![vmid.to_string(), phase.to_owned()],
            wait: HOOK_WAIT,
            output: Printed::Relayed,
        })?;
        let (status, how) = match ended.how {
            How::Exited(0) => return Ok(0),
            How::Exited(status) => (status, format!("ended with exit status {status}")),
            // As a shell tells of it: PVE cannot be told of a signal that another process got.
            How::Killed(signal) => (
                u8::try_from(128 + signal).unwrap_or(u8::MAX),
                format!("was killed by signal {signal}"),
            ),
            How::Late => (
                Exit::Refused.code(),
                format!("was killed: it took more than {HOOK_WAIT:?}"),
            ),
        };
        let help = format!(
            "its own output is above; vm {vmid} had it before pin-hook enable, {}",
            self.do_without()
        );
        let text = format!("vm {vmid}: {volume} {how}");
        account.fail(Exit::Refused, text, help);
        Ok(status)
    }
}

/// Tells whether the kernel found a file to execute, and not what executes it: it says the same of both.
fn is_script_of_nothing(error: &anyhow::Error) -> bool {
    let kernel = error.downcast_ref::<io::Error>();
    let number = kernel.and_then(io::Error::raw_os_error);
    matches!(number, Some(ENOENT | ENOEXEC))
}
