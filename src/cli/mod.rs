//! The command line: what is asked, and how it is answered.
//!
//! PVE calls with `<vmid> <phase>`, people with `<phase> <vmid>` or a command.

mod args;
mod check;
mod columns;
mod init;
mod json;
mod list;
mod output;
mod plan;
mod status;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use clap::error::ErrorKind;

use crate::domain::vm::TaskId;
use crate::host::clock::KernelClock;
use crate::host::deadline::Deadline;
use crate::host::files::RootFiles;
use crate::host::qmp::QmpSockets;
use crate::host::sched::{CapturedSched, KernelSched, Sched};
use crate::host::systemd::Bus;
use crate::host::{Host, privilege, task};
use crate::lifecycle::account::{Account, Exit};
use crate::lifecycle::boot;
use crate::lifecycle::look::Hidden;
use crate::lifecycle::phase::{Caller, PATIENT_TIME, PHASE_TIME, Run};
use args::{Args, Call, Command};
use output::Output;

/// Does what the arguments ask for and returns the exit status.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let started = Instant::now();
    let args = match Args::try_parse_from(args::in_order_of_commands(arguments)) {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let output = Output::new(args.color, args.verbose);
    let command = args.command;
    let host = host_at(args.root.as_deref(), command.is_phase());
    if args.root.is_some() && command.changes_the_host() {
        let text = "a captured host (--root) can be looked at, not changed";
        return output.fail(
            Exit::Usage,
            text,
            Some("leave --root out, or use a command that only looks"),
        );
    }
    if command.changes_the_host() {
        if let Err(missing) = privilege::require() {
            return output.fail(Exit::Refused, &missing.to_string(), Some(&missing.remedy()));
        }
        if let Err(error) = privilege::drop_others() {
            return output.fail(Exit::Refused, &format!("{error:#}"), None);
        }
    }
    answer(&host, &command, &output, started)
}

fn answer(host: &Host, command: &Command, output: &Output, started: Instant) -> ExitCode {
    let run = Run {
        host,
        caller: caller(host),
        deadline: Deadline::after(if command.is_phase() {
            PHASE_TIME
        } else {
            PATIENT_TIME
        }),
    };
    let shown = |shown: anyhow::Result<Exit>, json: bool| match shown {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            let help = error.downcast_ref().map(|hidden: &Hidden| hidden.help());
            match json {
                true => json::fail(&error, help, output),
                false => output.fail(Exit::Refused, &format!("{error:#}"), help),
            }
        }
    };
    let told = |account: Account, call: Call| output.tell(&account, &call, started);
    match command {
        Command::Phase { phase, vmid } => told(run.phase(*phase, *vmid), Call::of(phase, *vmid)),
        Command::UnknownPhase { phase, vmid } => {
            let mut account = Account::default();
            account.info(format!(
                "vm {vmid}: the phase \"{phase}\" is not known, nothing to do"
            ));
            told(account, Call::of(phase, *vmid))
        }
        Command::Apply { vmid } => told(run.apply(*vmid), Call::of("apply", *vmid)),
        Command::Release { vmid, .. } => told(run.release(*vmid), Call::about("release", *vmid)),
        Command::Reconcile => told(run.reconcile(), Call::about("reconcile", None)),
        Command::Boot => told(boot::boot(host), Call::about("boot", None)),
        Command::Plan { vmid, json } => shown(plan::show(&run, *vmid, *json, output), *json),
        Command::Status { vmid, json } => shown(status::show(host, *vmid, *json, output), *json),
        Command::Init {
            vmid,
            write,
            force,
            json,
        } => {
            let wish = init::Wish {
                write: *write,
                force: *force,
                json: *json,
            };
            shown(init::show(host, *vmid, wish, output), *json)
        }
        Command::Check { table, json } => shown(check::table(host, table, *json, output), *json),
        Command::List { json } => shown(list::show(host, *json, output), *json),
    }
}

fn host_at(root: Option<&std::path::Path>, is_phase: bool) -> Host {
    let files = RootFiles::new(root.unwrap_or_else(|| "/".as_ref()));
    let sched: Box<dyn Sched> = match root {
        Some(_) => Box::new(CapturedSched(files.clone())),
        None => Box::new(KernelSched),
    };
    Host {
        files: Box::new(files),
        sched,
        systemd: Box::new(if is_phase {
            Bus::default()
        } else {
            Bus::patient()
        }),
        qmp: Box::new(QmpSockets::default()),
        clock: Box::new(KernelClock),
    }
}

/// Returns who calls; what cannot be read is a caller that is gone, in no cgroup.
fn caller(host: &Host) -> Caller {
    let nobody = TaskId { tid: 0, start: 0 };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    Caller {
        process: task::parent(&*host.files).unwrap_or(nobody),
        group: task::cgroup_of(&*host.files, own, own).unwrap_or_default(),
        migrated_from: std::env::var("PVE_MIGRATED_FROM").unwrap_or_default(),
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    let is_asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    // Nothing can be done about a closed standard output.
    let _: io::Result<()> = error.print();
    ExitCode::from(if is_asked { 0 } else { Exit::Usage.code() })
}
