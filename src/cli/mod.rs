//! The command line: what is asked, and how it is answered.
//!
//! PVE calls with `<vmid> <phase>`, people with `<phase> <vmid>` or a command.

mod args;
mod capture;
mod columns;
mod doctor;
mod init;
mod json;
mod lint;
mod list;
mod measure;
mod metrics;
mod opening;
mod output;
mod page;
mod plan;
mod report;
mod status;
mod tables;
mod tips;
mod topology;
mod waits;
mod watch;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::error::ErrorKind;

use crate::domain::vm::{TaskId, Vmid};
use crate::host::files::RootFiles;
use crate::host::programs::{Children, NoPrograms, Programs, close_inherited};
use crate::host::seen::Seen;
use crate::host::{Host, errand, priority, privilege, task};
use crate::lifecycle::engine::account::{Account, Exit, Level};
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::run::{Caller, PATIENT_TIME, PHASE_TIME, Run};
use crate::lifecycle::hooking::boot::boot;
use crate::lifecycle::hooking::chain;
use crate::lifecycle::hooking::enable::Hooking;
use crate::lifecycle::hooking::snippet::announce;
use crate::lifecycle::show::doctor::pressing;
use crate::lifecycle::show::plan::Outcome;
use args::{Call, Command};
use opening::Root;
use output::Output;

/// Returns the grammar of the command line, for the completions of shells.
pub fn grammar() -> clap::Command {
    args::grammar()
}

/// Does what the arguments ask for and returns the exit status.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let started = Instant::now();
    let args = match args::parse(arguments) {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let output = Output::new(args.color, args.verbose);
    let command = args.command;
    if command.executes_programs() {
        close_inherited(&RootFiles::new("/"));
    }
    let root = match Root::open(args.root.as_deref(), &command) {
        Ok(root) => root,
        Err(error) => return output.fail(Exit::Usage, &format!("{error:#}"), &help_for(&error)),
    };
    let (host, seen) = root.host(&command);
    if args.root.is_some() && command.changes_the_host() {
        let text = "a captured host (--root) can only be looked at";
        return output.fail(
            Exit::Usage,
            text,
            "leave out --root, or use a command that changes nothing",
        );
    }
    if command.changes_the_host()
        && let Err(missing) = privilege::require()
    {
        return output.fail(Exit::Refused, &missing.to_string(), &missing.remedy());
    }
    // Before privileges are dropped, which other programs need.
    let programs = match programs(&command, args.root.is_some()) {
        Ok(programs) => programs,
        Err(error) => return output.fail_by(&error),
    };
    if command.changes_the_host()
        && !command.keeps_privileges()
        && let Err(error) = privilege::drop_others()
    {
        return output.fail_by(&error);
    }
    if command.is_waited_for() {
        priority::raise();
    }
    let desk = Desk {
        host: &host,
        seen: seen.as_ref(),
        programs: &*programs,
        output: &output,
        started,
    };
    let status = desk.answer(&command);
    match command.only_shows() {
        true => output.answered(status),
        false => status,
    }
}

/// Returns how other programs are executed, with the privileges that this process has now; those
/// of a captured host are not executed on this one.
fn programs(command: &Command, is_captured: bool) -> anyhow::Result<Box<dyn Programs>> {
    Ok(match command.executes_programs() && !is_captured {
        true => Box::new(Children::new()?),
        false => Box::new(NoPrograms),
    })
}

/// Where a command is worked on.
struct Desk<'a> {
    host: &'a Host,
    /// The host's files, where what is shown goes to others.
    seen: Option<&'a Seen>,
    programs: &'a dyn Programs,
    output: &'a Output,
    started: Instant,
}

impl Desk<'_> {
    /// Says what a start would be refused for as things are: enabling does not depend on it.
    fn tell_refusal(&self, vmid: Vmid, account: &mut Account) {
        let plan = self.run().plan(vmid).ok();
        let refused = plan.filter(|plan| {
            let is_refused = matches!(plan.outcome, Outcome::Refused | Outcome::Fails);
            is_refused && account.exit == Exit::Done
        });
        if let Some(error) = refused.and_then(|plan| plan.error) {
            account.warn(format!("a start would be refused now: {}", error.message));
            let help = error.help.into_iter();
            help.for_each(|help| account.say(Level::Help, help));
        }
    }

    /// Says what the doctor would, in a line each: enabling does not depend on that either.
    fn tell_findings(&self, vmid: Vmid, account: &mut Account) {
        if account.exit != Exit::Done {
            return;
        }
        let rows = pressing(self.host, vmid);
        for row in &rows {
            account.warn(format!("{}: {}", row.id, row.found));
        }
        if !rows.is_empty() {
            let help = format!("pin-hook check {vmid} says what to do about it");
            account.say(Level::Help, help);
        }
    }

    fn answer(&self, command: &Command) -> ExitCode {
        let Desk { host, output, .. } = *self;
        let told = |account: Account, call: Call| output.tell(&account, &call, self.started);
        match command {
            Command::Phase { phase, vmid } => self.phase(&phase.to_string(), *vmid),
            Command::UnknownPhase { phase, vmid } => self.phase(phase, *vmid),
            Command::Apply { vmid } => {
                told(self.run().apply(*vmid), Call::of("apply", Some(*vmid)))
            }
            Command::Release { vmid, .. } => {
                told(self.run().release(*vmid), Call::of("release", *vmid))
            }
            Command::Enable { vmid, dry_run } => {
                let mut account = self.hooking(*vmid, *dry_run).enable();
                self.tell_refusal(*vmid, &mut account);
                self.tell_findings(*vmid, &mut account);
                told(account, Call::of("enable", Some(*vmid)))
            }
            Command::Disable { vmid, dry_run } => {
                let account = self.hooking(*vmid, *dry_run).disable(caller(host));
                told(account, Call::of("disable", Some(*vmid)))
            }
            Command::Reconcile => told(self.run().reconcile(), Call::of("reconcile", None)),
            Command::Write { name, words } => errand::serve(&*host.files, name, words)
                .map_or_else(|error| output.fail_by(&error), |()| ExitCode::SUCCESS),
            Command::Boot => told(boot(host), Call::of("boot", None)),
            Command::Announce => told(announce(host), Call::of("announce", None)),
            Command::Plan { vmid, json } => {
                self.shown(plan::show(&self.run(), *vmid, *json, output), *json)
            }
            Command::Status(asked) => self.shown(status::show(host, asked, output), asked.json),
            Command::Init(asked) => self.shown(init::show(host, asked, output), asked.json),
            Command::Check(asked) => self.shown(doctor::answer(host, asked, output), asked.json),
            Command::Topology(asked) => self.shown(topology::show(host, asked, output), asked.json),
            Command::Measure(asked) => self.shown(measure::show(host, asked, output), asked.json),
            Command::Report(asked) => {
                self.shown(report::show(&self.run(), self.seen, asked, output), false)
            }
            Command::Capture(asked) => {
                self.shown(capture::write(&self.run(), self.seen, asked, output), false)
            }
            Command::List { ids: true, .. } => self.shown(list::show_ids(host, output), false),
            Command::List { json, .. } => self.shown(list::show(host, *json, output), *json),
        }
    }

    /// Does what a phase is for, and calls the hookscript that the VM had before.
    fn phase(&self, phase: &str, vmid: Vmid) -> ExitCode {
        let hook = chain::Hook {
            files: &*self.host.files,
            programs: self.programs,
            vmid,
        };
        let ours = || match phase.parse() {
            Ok(known) => self.run_within(PHASE_TIME).phase(known, vmid),
            Err(_) => {
                let mut account = Account::default();
                let like = tips::phase_like(phase);
                let like = like.map(|name| format!(" (did you mean {name}?)"));
                account.info(format!(
                    "vm {vmid}: unknown phase \"{phase}\", nothing to do{}",
                    like.unwrap_or_default()
                ));
                account
            }
        };
        let tell = |account: &Account| {
            if account.lines.is_empty() {
                return;
            }
            self.output
                .tell(account, &Call::of(phase, Some(vmid)), self.started);
        };
        ExitCode::from(chain::around(&hook, phase, ours, tell))
    }

    fn run(&self) -> Run<'_> {
        self.run_within(PATIENT_TIME)
    }

    fn run_within(&self, time: Duration) -> Run<'_> {
        Run::begin(self.host, caller(self.host), time)
    }

    fn hooking(&self, vmid: Vmid, is_dry: bool) -> Hooking<'_> {
        Hooking {
            host: self.host,
            programs: self.programs,
            vmid,
            is_dry,
        }
    }

    fn shown(&self, shown: anyhow::Result<Exit>, json: bool) -> ExitCode {
        match shown {
            Ok(exit) => ExitCode::from(exit.code()),
            Err(error) if json => json::fail(&error, self.output),
            Err(error) => self.output.fail_by(&error),
        }
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
