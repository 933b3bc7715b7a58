//! `check --table`: whether a table can be put in place.

use std::path::Path;

use super::json;
use super::opening::of_caller;
use super::output::Output;
use crate::host::Host;
use crate::host::table::read_candidate;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::show::lint::{Lint, lint, unreadable};

/// Shows what is wrong with a table, wherever it is; fails when something is.
pub fn table(host: &Host, file: &Path, as_json: bool, output: &Output) -> anyhow::Result<Exit> {
    let path = file.to_string_lossy().into_owned();
    // The file is the caller's, also when the host is a captured one.
    let lint = match read_candidate(&of_caller(file), &path) {
        Ok(candidate) => lint(host, &candidate),
        Err(error) => unreadable(&path, &error),
    };
    json::or_text(&lint, as_json, output, print)?;
    Ok(match lint.ok {
        true => Exit::Done,
        false => Exit::Usage,
    })
}

fn print(lint: &Lint, output: &Output) {
    if let Some(error) = &lint.error {
        output.complain(error);
    }
    let warnings = lint.warnings.iter();
    warnings.for_each(|warning| output.say(Level::Warning, &warning.text));
    let left_out = lint.left_out.iter();
    left_out.for_each(|text| output.say(Level::Info, text));
    if lint.ok {
        let cpus = match &lint.cpus {
            Some(cpus) => cpus.in_words(),
            None if lint.is_host => "settings of the host".to_owned(),
            None => "cpus are chosen at the start".to_owned(),
        };
        output.print(&format!("{} can be used: {cpus}\n", lint.file));
    }
}
