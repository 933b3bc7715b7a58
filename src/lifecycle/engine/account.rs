//! The account of a run: what the task log, the journal and the caller are told.

use std::collections::BTreeSet;

use super::advice::help_for;
use super::denied::Denied;
use super::report::Report;
use crate::domain::alert::{Alert, Kind};
use crate::domain::diff as drift;
use crate::domain::vm::Vmid;

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What was done or will be.
    Info,
    /// Something is not as wished, and the VM runs nevertheless.
    Warning,
    /// What was asked for was not done.
    Error,
    /// What can be done about the error before.
    Help,
}

/// A line of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How it is meant.
    pub level: Level,
    /// The text, without prefix and final dot.
    pub text: String,
}

/// What the caller is told by the exit status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done (0).
    #[default]
    Done,
    /// Refused, or failed and taken back: nothing has changed (1).
    Refused,
    /// The command line or a table is wrong (2).
    Usage,
    /// Taken back incompletely; the journal is kept for the next attempt (3).
    Incomplete,
    /// The doctor has warnings, and found nothing worse (4).
    Warned,
}

/// What is told about a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The lines, in order.
    pub lines: Vec<Line>,
    /// What the exit status says.
    pub exit: Exit,
    /// Backend of the VM that the run was about.
    pub backend: Option<String>,
    /// Whether the run was left to reconcile, because another one kept the host lock.
    pub is_put_off: bool,
    /// What an admin may want to be notified of.
    pub alerts: Vec<Alert>,
}

impl Account {
    /// Adds a line.
    pub fn say(&mut self, level: Level, text: impl Into<String>) {
        self.lines.push(Line {
            level,
            text: text.into(),
        });
    }

    /// Adds a line about what was done.
    pub fn info(&mut self, text: impl Into<String>) {
        self.say(Level::Info, text);
    }

    /// Adds a warning; what is tried again in the same run is told once.
    pub fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        let is_told = |line: &Line| line.level == Level::Warning && line.text == text;
        if !self.lines.iter().any(is_told) {
            self.say(Level::Warning, text);
        }
    }

    /// Adds warnings.
    pub fn warn_all<T: ToString>(&mut self, texts: impl IntoIterator<Item = T>) {
        texts
            .into_iter()
            .for_each(|text| self.warn(text.to_string()));
    }

    /// Adds what was told of something else that was done meanwhile, and what came of that.
    pub fn absorb(&mut self, other: Account) {
        self.lines.extend(other.lines);
        self.alerts.extend(other.alerts);
        self.exit = self.exit.max(other.exit);
    }

    /// Adds what a piece of work met besides what it was for.
    pub fn tell(&mut self, report: &Report) {
        self.warn_all(&report.warnings);
        self.tell_drift(report);
        let new = report.problems.iter().filter(|problem| !problem.is_known);
        self.warn_all(new);
        self.warn_all(&report.stuck);
        if report.n_unchangeable > 0 {
            let n = report.n_unchangeable;
            self.warn(format!(
                "{n} kernel threads cannot be moved, left where they are"
            ));
        }
        if report.n_moving > 0 {
            let n = report.n_moving;
            self.info(format!(
                "interrupts that will only move when they next occur: {n}"
            ));
        }
    }

    /// Adds values of somebody else that were met, and once for each of those who are known to write
    /// them what keeps them from it.
    fn tell_drift(&mut self, report: &Report) {
        let mut remedies = BTreeSet::new();
        for drift in &report.drift {
            let drift::Drift {
                target,
                live,
                ours,
                answer,
            } = drift;
            let suspects = target.writers().iter();
            let suspects = suspects.filter(|name| report.suspects.contains(*name));
            let suspects: Vec<&str> = suspects.copied().collect();
            let is_given_up = *answer == drift::Answer::GiveUp;
            let keeps_off = keep_off(&suspects);
            let answer = match is_given_up {
                true => left_to(&suspects),
                false => done_about(*answer).to_owned(),
            };
            let name = report.names.get(target).cloned();
            let name = name.unwrap_or_else(|| target.to_string());
            let text = format!("{name} is \"{live}\", but pin-hook had set \"{ours}\": {answer}");
            if is_given_up {
                self.alerts
                    .push(left_alone(target.vmid(), &name, &text, &keeps_off));
                remedies.extend(keeps_off);
            }
            self.warn(text);
        }
        let remedies = remedies.into_iter();
        remedies.for_each(|remedy| self.say(Level::Help, remedy));
    }

    /// Adds an error and what can be done about it; the run counts as `exit`.
    pub fn fail(&mut self, exit: Exit, error: impl Into<String>, help: impl Into<String>) {
        self.say(Level::Error, error);
        self.say(Level::Help, help);
        self.exit = self.exit.max(exit);
    }

    /// Adds that a VM does not run, where it has to.
    pub fn does_not_run(&mut self, vmid: Vmid) {
        let text = format!("vm {vmid} is not running on this node");
        let help = format!(
            "start it (qm start {vmid}): an enabled vm gets its cpus then, any other vm by \
             pin-hook apply {vmid} once it runs"
        );
        self.fail(Exit::Refused, text, help);
    }

    /// Adds why something was not done for a VM, and what can be done about it.
    pub fn deny(&mut self, vmid: Vmid, why: &Denied) {
        let help = why.help(vmid);
        self.fail(Exit::Refused, format!("vm {vmid}: {why}"), help);
    }

    /// Adds an error that only the operator can do something about; `whose` goes before it, or is
    /// empty.
    pub fn fail_by(&mut self, whose: &str, error: &anyhow::Error) {
        self.fail(Exit::Refused, format!("{whose}{error:#}"), help_for(error));
    }
}

/// Returns what is done about somebody else's value, in words.
fn done_about(answer: drift::Answer) -> &'static str {
    match answer {
        drift::Answer::Reassert => "set again",
        drift::Answer::GiveUp => "set again three times, now left alone",
        drift::Answer::Leave => "left as it is",
    }
}

/// Returns that a value was left to whoever writes it.
fn left_alone(vmid: Option<Vmid>, name: &str, text: &str, remedies: &BTreeSet<&str>) -> Alert {
    let remedies: Vec<&str> = remedies.iter().copied().collect();
    Alert {
        kind: Kind::State,
        vmid,
        is_error: false,
        key: format!("left alone: {name}"),
        title: format!("another program keeps changing {name}"),
        text: text.to_owned(),
        help: remedies.join("\n"),
    }
}

/// Returns to whom a value was left: the services that run and are known to write it.
pub fn left_to(writers: &[&str]) -> String {
    let left = done_about(drift::Answer::GiveUp);
    match writers {
        [] => left.to_owned(),
        [one] => format!("{left} ({one} is running)"),
        _ => format!("{left} ({} are running)", writers.join(" and ")),
    }
}

/// Returns what keeps these services from writing what pin-hook writes as well.
pub fn keep_off(writers: &[&str]) -> BTreeSet<&'static str> {
    match writers {
        [] => BTreeSet::from([remedy("")]),
        _ => writers.iter().map(|service| remedy(service)).collect(),
    }
}

fn remedy(service: &str) -> &'static str {
    match service {
        "irqbalance" => {
            "ban the vm's cpus in /etc/default/irqbalance (IRQBALANCE_BANNED_CPULIST=), or stop it"
        }
        "tuned" => "choose a tuned profile that leaves it alone, or stop tuned",
        "ksmtuned" => "stop ksmtuned, or leave host.ksm out of the table",
        _ => {
            "stop whatever writes it; pin-hook sets it again in 10 minutes, or at once with \
             pin-hook apply"
        }
    }
}

impl Exit {
    /// Returns the exit status.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::Incomplete => 3,
            Exit::Warned => 4,
        }
    }
}
