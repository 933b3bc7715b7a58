//! `capture`: an archive of the files that everything is shown from.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::args::Archive;
use super::opening::write_of_caller;
use super::output::Output;
use super::report::parts::in_short;
use crate::domain::advice::Advised;
use crate::domain::words::{count, size};
use crate::host::seen::Seen;
use crate::host::tar;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::show::list::list;

/// Writes what the commands that show would read.
///
/// # Errors
/// There is such a file already, or it cannot be written.
pub fn write(
    run: &Run<'_>,
    seen: Option<&Seen>,
    asked: &Archive,
    output: &Output,
) -> anyhow::Result<Exit> {
    let default = || PathBuf::from(default_name(run.host.clock.since_epoch()));
    let file = asked.file.clone().unwrap_or_else(default);
    let is_printed = file.as_os_str() == "-";
    let name = file.display();
    if is_printed && std::io::stdout().is_terminal() {
        bail!(Advised::new(
            "a tar archive is not written to a terminal",
            "give a file, or a pipe"
        ));
    }
    if !is_printed && file.symlink_metadata().is_ok() {
        bail!(Advised::new(
            format!("{name} exists"),
            format!("rm {name}, or give another name")
        ));
    }
    // What fails here fails on the captured host as well.
    run.report();
    let _ = list(run.host);
    let nodes = seen.map(Seen::nodes).unwrap_or_default();
    let archive = tar::pack(&nodes);
    if is_printed {
        // Half of it would be of no use.
        let mut out = std::io::stdout();
        let written = out.write_all(archive.as_bytes()).and_then(|()| out.flush());
        written.context("failed to write the archive")?;
        return Ok(Exit::Done);
    }
    write_of_caller(&file, &archive, 0o600)?;
    let kib = u64::try_from(archive.len() >> 10).unwrap_or_default();
    let n = count(nodes.len(), "file");
    output.say(Level::Info, &format!("{name}: {n}, {}", size(kib)));
    let hidden = seen.map(Seen::hidden).unwrap_or_default();
    if !hidden.is_empty() {
        let text = format!("what only root can read is missing: {}", in_short(&hidden));
        output.say(Level::Warning, &text);
    }
    output.say(
        Level::Info,
        &format!("pin-hook --root {name} report shows what is in it"),
    );
    Ok(Exit::Done)
}

/// Returns the name of a capture of this day.
fn default_name(since_epoch: Duration) -> String {
    let (year, month, day) = date(since_epoch.as_secs() / 86_400);
    format!("pin-hook-capture-{year}-{month:02}-{day:02}.tar")
}

/// Returns the date of a day that is counted from the first of 1970.
fn date(mut days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    lengths[1] += u64::from(is_leap(year));
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (11_016, (2000, 2, 29)),
            (20_786, (2026, 11, 29)),
        ] {
            assert_eq!(date(days), expected);
        }
    }
}
