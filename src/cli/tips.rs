//! Tips for a command line that is not understood.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::nearest::nearest;
use crate::domain::vm::Vmid;

const PHASES: [&str; 4] = ["pre-start", "post-start", "pre-stop", "post-stop"];

/// Returns the phase that is spelled nearly like `text`.
pub fn phase_like(text: &str) -> Option<&'static str> {
    nearest(text, PHASES.into_iter())
}

/// Returns the names of the commands that people type.
pub fn commands(grammar: &clap::Command) -> impl Iterator<Item = &str> {
    let commands = grammar.get_subcommands();
    let commands = commands.filter(|one| !one.is_hide_set());
    commands.map(clap::Command::get_name)
}

/// Words that people bring along for what is called otherwise here, or is not here.
const OTHERWISE: [(&str, &str); 8] = [
    (
        "show",
        "pin-hook status shows what vms own, pin-hook list shows every table",
    ),
    (
        "doctor",
        "pin-hook check says what is wrong with the host and its vms, pin-hook status what is not as it \
         should be now",
    ),
    ("validate", "pin-hook check --table FILE checks a table"),
    (
        "start",
        "qm start VMID starts a vm; pin-hook apply VMID is for a running one",
    ),
    (
        "stop",
        "qm stop VMID stops a vm; pin-hook release VMID releases its cpus",
    ),
    (
        "undo",
        "pin-hook release VMID releases its cpus, pin-hook disable VMID does so for good",
    ),
    (
        "install",
        "pin-hook enable VMID makes pve call pin-hook for a vm",
    ),
    (
        "uninstall",
        "pin-hook disable VMID for each vm, then apt purge pin-hook",
    ),
];

/// Gives an unknown command the tip that fits: a command that is spelled nearly like it, or what people
/// mean by it.
pub fn with_tip(
    mut error: clap::Error,
    arguments: &[OsString],
    grammar: &clap::Command,
) -> clap::Error {
    if let Some(tip) = tip_for_argument(&error, arguments, grammar) {
        error.remove(ContextKind::SuggestedArg);
        suggest(&mut error, tip);
        return error;
    }
    if error.kind() == ErrorKind::MissingSubcommand {
        // The library would name hidden ones too.
        let names = ContextValue::Strings(commands(grammar).map(str::to_owned).collect());
        error.insert(ContextKind::ValidSubcommand, names);
    }
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let typed = typed.clone();
    // A phase makes a reservation, say: it is suggested to those who mean one.
    let phases = PHASES.into_iter().filter(|_| typed.contains('-'));
    let names = commands(grammar).chain(phases);
    let meant = OTHERWISE.iter().find(|(word, _)| *word == typed);
    let place = arguments.iter().position(|word| *word == *typed);
    let next = place.and_then(|place| arguments.get(place + 1));
    let next = next.and_then(|word| word.to_str());
    let tip = match (meant, nearest(&typed, names), next) {
        _ if PHASES.contains(&typed.as_str()) => {
            format!("a phase takes a vm id and nothing else: pin-hook {typed} VMID")
        }
        (Some((_, tip)), _, _) => (*tip).to_owned(),
        (None, Some(name), _) => format!("a similar command exists: '{name}'"),
        (None, None, Some(command)) if typed.parse::<Vmid>().is_ok() => {
            format!("the command comes first: pin-hook {command} {typed}")
        }
        (None, None, _) => "pin-hook --help shows the commands".to_owned(),
    };
    error.remove(ContextKind::SuggestedSubcommand);
    suggest(&mut error, tip);
    error
}

fn suggest(error: &mut clap::Error, tip: String) {
    let tip = ContextValue::StyledStrs(vec![tip.into()]);
    error.insert(ContextKind::Suggested, tip);
}

/// Returns the tip for words that a known command does not take.
fn tip_for_argument(
    error: &clap::Error,
    arguments: &[OsString],
    grammar: &clap::Command,
) -> Option<String> {
    let command = arguments.get(1)?.to_str()?;
    commands(grammar).find(|name| *name == command)?;
    let word = arguments.get(2)?.to_str()?;
    match (error.kind(), command, word) {
        (ErrorKind::ValueValidation, "release", "all") => {
            Some("pin-hook release --all releases everything".to_owned())
        }
        (ErrorKind::ValueValidation, "check", file) if !file.starts_with('-') => {
            Some(format!("pin-hook check --table {file} checks a file"))
        }
        // The library would have it taken for a value.
        (ErrorKind::UnknownArgument, command, _) => {
            Some(format!("pin-hook {command} --help shows its arguments"))
        }
        _ => None,
    }
}
