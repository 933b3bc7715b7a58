//! The form of everything that `--json` prints; docs/json.md describes it.

use std::process::ExitCode;

use serde::Serialize;

use super::output::Output;
use crate::lifecycle::engine::account::Exit;
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::show::complaint::Complaint;

/// Version of the schema. It grows when a field goes away or changes its meaning; fields may be
/// added at any time.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct Failure {
    error: Complaint,
}

/// Prints a value with the version of the schema.
pub fn print(body: &impl Serialize, output: &Output) -> anyhow::Result<()> {
    let version = VERSION;
    output.json(&Versioned { version, body })
}

/// Prints a value as JSON where that is asked for, else as `text` does.
pub fn or_text<T: Serialize>(
    body: &T,
    as_json: bool,
    output: &Output,
    text: impl FnOnce(&T, &Output),
) -> anyhow::Result<()> {
    match as_json {
        true => print(body, output)?,
        false => text(body, output),
    }
    Ok(())
}

/// Prints an error that left nothing else to show, and returns the exit status.
pub fn fail(error: &anyhow::Error, output: &Output) -> ExitCode {
    let complaint = Complaint::new(format!("{error:#}"), help_for(error));
    match print(&Failure { error: complaint }, output) {
        Ok(()) => ExitCode::from(Exit::Refused.code()),
        Err(_) => output.fail_by(error),
    }
}
