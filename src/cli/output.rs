//! Where lines go: standard output (PVE's task log) and the journal.

use std::cell::{OnceCell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::ColorChoice;
use serde::Serialize;

use super::args::Call;
use crate::domain::words::{harmless, in_one_line, in_words};
use crate::host::log;
use crate::lifecycle::engine::account::{Account, Exit, Level, Line};
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::show::complaint::Complaint;

/// Where lines go.
#[derive(Debug)]
pub struct Output {
    color: anstream::ColorChoice,
    verbose: bool,
    /// What was printed, where it is kept instead.
    kept: Option<RefCell<String>>,
    /// The first error of standard output.
    fault: OnceCell<io::Error>,
}

impl Output {
    /// Returns an output that uses colours when asked to, by default on terminals only.
    pub fn new(color: ColorChoice, verbose: bool) -> Self {
        let color = match color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        Output {
            color,
            verbose,
            kept: None,
            fault: OnceCell::new(),
        }
    }

    /// Returns what `print` prints, with colours where standard output may have them.
    pub fn keep(
        &self,
        print: impl FnOnce(&Output) -> anyhow::Result<()>,
    ) -> anyhow::Result<String> {
        let output = Output {
            color: self.color,
            verbose: self.verbose,
            kept: Some(RefCell::default()),
            fault: OnceCell::new(),
        };
        print(&output)?;
        let text = output.kept.map(RefCell::into_inner).unwrap_or_default();
        let choice = match self.color {
            anstream::ColorChoice::Auto => anstream::AutoStream::choice(&io::stdout()),
            asked => asked,
        };
        Ok(match choice {
            anstream::ColorChoice::Never => anstream::adapter::strip_str(&text).to_string(),
            _ => text,
        })
    }

    /// Prints text, without what a terminal would take for a command. That it cannot be written is no reason to leave
    /// work half done.
    pub fn print(&self, text: &str) {
        self.draw(&harmless(text));
    }

    /// Prints text as it is, for a terminal.
    pub fn draw(&self, text: &str) {
        if let Some(kept) = &self.kept {
            kept.borrow_mut().push_str(text);
            return;
        }
        let mut out = anstream::AutoStream::new(io::stdout(), self.color);
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        if let Err(error) = written {
            self.fault.get_or_init(|| error);
        }
    }

    /// Returns the exit status of a command that is there for its answer: that of a refusal if it could not be
    /// written, which is then said on standard error. A reader that closes a pipe has seen enough.
    pub fn answered(&self, status: ExitCode) -> ExitCode {
        let fault = self.fault.get();
        let Some(fault) = fault.filter(|error| error.kind() != io::ErrorKind::BrokenPipe) else {
            return status;
        };
        let help = "give it a place with room: df shows how full file systems are";
        let text =
            format!("pin-hook: error: cannot write the answer: {fault}\npin-hook: help: {help}\n");
        let _ = io::stderr().write_all(text.as_bytes());
        ExitCode::from(Exit::Refused.code())
    }

    /// Prints a value as JSON.
    pub fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value).context("failed to write JSON")?;
        self.print(&format!("{text}\n"));
        Ok(())
    }

    /// Prints one line as phases do.
    pub fn say(&self, level: Level, text: &str) {
        let text = text.to_owned();
        self.line(&Line { level, text }, "");
    }

    /// Prints lines as phases do.
    pub fn tell_lines(&self, lines: &[Line]) {
        lines.iter().for_each(|line| self.line(line, ""));
    }

    /// Prints what is wrong and what can be done about it; on a terminal with its place in the
    /// text.
    pub fn complain(&self, complaint: &Complaint) {
        match &complaint.snippet {
            Some(snippet) if self.is_terminal() => self.print(&format!("{snippet}\n")),
            _ => {
                self.say(Level::Error, &complaint.message);
                if let Some(help) = &complaint.help {
                    self.say(Level::Help, help);
                }
            }
        }
    }

    /// Tells whether details are asked for.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Tells whether somebody reads along, who can be shown more than a line.
    pub fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Returns how many columns the terminal has; nothing where standard output is none.
    pub fn columns(&self) -> Option<u16> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        // A terminal that was never told its size has 0.
        Some(size.ws_col).filter(|columns| *columns > 0)
    }

    /// Prints the account of a run, sends it to the journal, and returns the exit status.
    pub fn tell(&self, account: &Account, call: &Call, started: Instant) -> ExitCode {
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = account.lines.len().checked_sub(1);
        for (n, line) in account.lines.iter().enumerate() {
            let is_summary = Some(n) == last && line.level == Level::Info && call.vmid.is_some();
            let time = is_summary.then(|| format!(", {}", in_words(started.elapsed())));
            self.line(line, &time.unwrap_or_default());
        }
        let entries = account.lines.iter();
        let entries = entries.map(|line| entry(line, account, call, ms));
        if !log::send(&entries.collect::<Vec<_>>()) && self.verbose {
            self.print("pin-hook: warning: journald does not respond, nothing was logged\n");
        }
        ExitCode::from(account.exit.code())
    }

    /// Prints an error and what can be done about it, and returns the exit status.
    pub fn fail(&self, exit: Exit, error: &str, help: &str) -> ExitCode {
        let mut account = Account::default();
        account.fail(exit, error, help);
        account.lines.iter().for_each(|line| self.line(line, ""));
        ExitCode::from(account.exit.code())
    }

    /// Prints an error with what can be done about it, and returns the exit status.
    pub fn fail_by(&self, error: &anyhow::Error) -> ExitCode {
        self.fail(Exit::Refused, &format!("{error:#}"), &help_for(error))
    }

    fn line(&self, line: &Line, end: &str) {
        let (word, color) = match line.level {
            Level::Info => ("", None),
            Level::Warning => ("warning: ", Some(AnsiColor::Yellow)),
            Level::Error => ("error: ", Some(AnsiColor::Red)),
            Level::Help => ("help: ", Some(AnsiColor::Cyan)),
        };
        let style = color.map_or(Style::new(), |color| color.on_default().bold());
        self.print(&format!(
            "pin-hook: {style}{word}{style:#}{}{end}\n",
            in_one_line(&line.text)
        ));
    }
}

fn entry(line: &Line, account: &Account, call: &Call, ms: u64) -> log::Entry {
    log::Entry {
        priority: match line.level {
            Level::Error => log::Priority::Error,
            Level::Warning => log::Priority::Warning,
            Level::Info | Level::Help => log::Priority::Notice,
        },
        message: in_one_line(&line.text),
        vmid: call.vmid,
        phase: Some(call.what.clone()),
        backend: account.backend.clone(),
        ms: Some(ms),
    }
}
