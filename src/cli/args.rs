//! The grammar of the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::measuring::Measuring;
use super::tips::{commands, with_tip};
use crate::domain::map::draw::LEAST_WIDTH;
use crate::domain::table::{Prefer, Smt};
use crate::domain::vm::Vmid;
use crate::lifecycle::start::phase::Phase;

pub mod measuring;

/// Gives a VM exclusive CPUs while it runs, and restores the host afterwards
#[derive(Debug, Parser)]
#[command(
    name = "pin-hook",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// Read a captured host: the file that capture has written, or a directory
    #[arg(long, global = true, value_name = "HOST")]
    pub root: Option<PathBuf>,
    /// Also print details that help when something is wrong
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// When to use colors
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A phase of a VM's life, as PVE calls a hookscript
    #[command(hide = true)]
    Phase {
        /// Which phase.
        phase: Phase,
        /// Which VM.
        vmid: Vmid,
    },
    /// A phase that this version does not know
    #[command(hide = true)]
    UnknownPhase {
        /// What it is called.
        phase: String,
        /// Which VM.
        vmid: Vmid,
    },
    /// Show what would change when a VM starts, and why
    Plan {
        /// VM to plan for
        vmid: Vmid,
        /// Print JSON (/usr/share/doc/pin-hook/json.md describes it)
        #[arg(long)]
        json: bool,
    },
    /// Propose a table for a VM, with the reasons and what to set in PVE
    Init(Proposing),
    /// Apply the table of a running VM now
    Apply {
        /// VM whose table to apply
        vmid: Vmid,
    },
    /// Release what a VM owns now, running or not
    #[command(group = ArgGroup::new("which").required(true))]
    Release {
        /// VM to release
        #[arg(group = "which")]
        vmid: Option<Vmid>,
        /// Release everything, even if the state of pin-hook is lost
        #[arg(long, group = "which")]
        all: bool,
    },
    /// Make PVE call pin-hook for a VM, from its next start on
    Enable {
        /// VM to enable
        vmid: Vmid,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Undo enable: give a VM its previous hookscript back, and release its CPUs
    Disable {
        /// VM to disable
        vmid: Vmid,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what VMs own, wanted and actual, and what has drifted
    Status(Look),
    /// Show every table of this node
    List {
        /// Print the id and the name of every VM of this node instead, for the completions of shells
        #[arg(long, conflicts_with = "json")]
        ids: bool,
        /// Print JSON (/usr/share/doc/pin-hook/json.md describes it)
        #[arg(long)]
        json: bool,
    },
    /// Draw which CPUs share what, and who owns which
    Topology(Drawing),
    /// Say what is wrong with this host and its VMs, and how to fix it
    Check(Examination),
    /// Measure what is taken from a running VM, and by whom
    Measure(Measuring),
    /// Show all of that on one page, for a forum post or a ticket
    Report(Page),
    /// Write the files that all of that is read from into an archive, for --root elsewhere
    Capture(Archive),
    /// Write to files of the kernel that may take its time (called by pin-hook itself)
    #[command(hide = true)]
    Write {
        /// Name of the answer.
        name: String,
        /// Path and text of each write.
        words: Vec<String>,
    },
    /// Announce this node to the other nodes of the cluster (called by systemd)
    #[command(hide = true)]
    Announce,
    /// Bring the host in line with the running VMs (called by systemd)
    Reconcile,
    /// Prepare the scopes of all VMs with a table (called by systemd at boot)
    Boot,
}

/// What `init` is asked for.
#[derive(Debug, clap::Args)]
pub struct Proposing {
    /// VM to propose a table for
    pub vmid: Vmid,
    /// What to prefer, besides few NUMA nodes and L3 domains
    #[arg(long, value_name = "WHAT", value_parser = by_name(Prefer::ALL, Prefer::name))]
    pub prefer: Option<Prefer>,
    /// Whether two vCPUs share a core (pairs), or each has one whose sibling stays idle
    #[arg(long, value_name = "HOW", value_parser = by_name(Smt::ALL, Smt::name))]
    pub smt: Option<Smt>,
    /// Also write it to /etc/pin-hook, for this node
    #[arg(long)]
    pub write: bool,
    /// Write it even if the VM already has a table
    #[arg(long, requires = "write")]
    pub force: bool,
    /// Print JSON (/usr/share/doc/pin-hook/json.md describes it)
    #[arg(long)]
    pub json: bool,
}

/// What `check` is asked for.
#[derive(Debug, clap::Args)]
pub struct Examination {
    /// Only the host and this VM
    pub vmid: Option<Vmid>,
    /// Check a table instead, wherever it is, before it is put in place
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vmid", "explain", "short", "quiet"])]
    pub table: Option<PathBuf>,
    /// Say what a check requires and why
    #[arg(long, value_name = "NAME", conflicts_with_all = ["vmid", "json", "short", "quiet"])]
    pub explain: Option<String>,
    /// List what only the guest can see, to tick it there
    #[arg(long, requires = "vmid", conflicts_with_all = ["table", "explain", "short", "quiet"])]
    pub guest: bool,
    /// One line for each finding
    #[arg(long, conflicts_with = "json")]
    pub short: bool,
    /// Print nothing: the exit status says it
    #[arg(long, conflicts_with_all = ["json", "short"])]
    pub quiet: bool,
    /// Print JSON (/usr/share/doc/pin-hook/json.md describes it)
    #[arg(long)]
    pub json: bool,
}

/// What `status` is asked for.
#[derive(Debug, clap::Args)]
pub struct Look {
    /// Only this VM, with a picture of where its CPUs are
    pub vmid: Option<Vmid>,
    /// Show it on the whole terminal, again and again, until q is pressed
    #[arg(long, conflicts_with_all = ["json", "prometheus"])]
    pub watch: bool,
    /// How often to look
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "watch",
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub interval: u16,
    /// Print numbers for the node exporter (/usr/share/doc/pin-hook/metrics.md describes them)
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Print JSON (/usr/share/doc/pin-hook/json.md describes it)
    #[arg(long)]
    pub json: bool,
}

/// What `topology` is asked for.
#[derive(Debug, clap::Args)]
pub struct Drawing {
    /// Draw in ASCII only, as where the locale is not UTF-8
    #[arg(long)]
    pub ascii: bool,
    /// Draw at most this wide (default: as wide as the terminal, or 80)
    #[arg(long, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(i64::from(LEAST_WIDTH)..))]
    pub width: Option<u16>,
    /// Write the picture to a file, as SVG
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ascii", "json"])]
    pub svg: Option<PathBuf>,
    /// Print JSON (/usr/share/doc/pin-hook/json.md describes it)
    #[arg(long)]
    pub json: bool,
}

/// What `report` is asked for.
#[derive(Debug, clap::Args)]
pub struct Page {
    /// Write a page for browsers to a file, instead of printing Markdown
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Leave names of hosts and VMs, serial numbers and MAC addresses in it
    #[arg(long)]
    pub names: bool,
}

/// What `capture` is asked for.
#[derive(Debug, clap::Args)]
pub struct Archive {
    /// File to write; - is standard output (default: pin-hook-capture-DATE.tar)
    pub file: Option<PathBuf>,
    /// Leave names of hosts and VMs, serial numbers and MAC addresses in it
    #[arg(long)]
    pub names: bool,
}

/// Run of the program, for the log.
#[derive(Debug, Clone)]
pub struct Call {
    /// Phase or command.
    pub what: String,
    /// VM that it is about.
    pub vmid: Option<Vmid>,
}

impl Call {
    /// Returns the call of a phase or command.
    pub fn of(what: impl ToString, vmid: Option<Vmid>) -> Self {
        Call {
            what: what.to_string(),
            vmid,
        }
    }
}

impl Command {
    /// Tells whether PVE waits for the command, and holds the VM's lock meanwhile.
    pub fn is_phase(&self) -> bool {
        matches!(self, Command::Phase { .. })
    }

    /// Tells whether PVE waits for the command, or a phase for the host lock that it takes.
    pub fn is_waited_for(&self) -> bool {
        matches!(
            self,
            Command::Phase { .. }
                | Command::Reconcile
                | Command::Apply { .. }
                | Command::Release { .. }
        )
    }

    /// Tells whether the command writes to the host.
    pub fn changes_the_host(&self) -> bool {
        !matches!(
            self,
            Command::Plan { .. }
                | Command::Status(_)
                | Command::List { .. }
                | Command::Check(_)
                | Command::Topology(_)
                | Command::Report(_)
                | Command::Capture(_)
                | Command::Measure(Measuring {
                    vmid: None,
                    cpus: None,
                    ..
                })
                | Command::Init(Proposing { write: false, .. })
                | Command::UnknownPhase { .. }
                | Command::Enable { dry_run: true, .. }
                | Command::Disable { dry_run: true, .. }
        )
    }

    /// Tells whether the command keeps its privileges: the kernel names its functions to nobody with fewer
    /// (`CAP_SYSLOG`).
    pub fn keeps_privileges(&self) -> bool {
        matches!(self, Command::Measure(_))
    }

    /// Tells whether what the command shows goes to others, and whether names stay in it then.
    pub fn keeps_names(&self) -> Option<bool> {
        match self {
            Command::Report(Page { names, .. }) | Command::Capture(Archive { names, .. }) => {
                Some(*names)
            }
            _ => None,
        }
    }

    /// Tells whether the command is there for what it prints, and nothing else.
    pub fn only_shows(&self) -> bool {
        !self.changes_the_host() && !matches!(self, Command::UnknownPhase { .. })
    }

    /// Tells whether the command may execute other programs.
    pub fn executes_programs(&self) -> bool {
        matches!(
            self,
            Command::Phase { .. }
                | Command::UnknownPhase { .. }
                | Command::Enable { .. }
                | Command::Disable { .. }
        )
    }
}

/// Commands that change the host however they are called: `--root` is refused with them.
const CHANGING: [&str; 4] = ["apply", "release", "reconcile", "boot"];

/// Returns the grammar; what a command always refuses is not in its help.
pub fn grammar() -> clap::Command {
    let grammar = Args::command();
    let root = grammar.get_arguments().find(|one| one.get_id() == "root");
    let root = root.cloned().map(|root| root.global(false).hide(true));
    grammar.mut_subcommands(|command| match CHANGING.contains(&command.get_name()) {
        true => command.args(root.clone()),
        false => command,
    })
}

/// Parses the arguments, in PVE's order too.
///
/// # Errors
/// They are wrong, or the help is asked for.
pub fn parse(arguments: Vec<OsString>) -> Result<Args, clap::Error> {
    let mut grammar = grammar();
    let arguments = in_order_of_commands(arguments, &grammar);
    let matches = grammar.try_get_matches_from_mut(&arguments);
    let matches = matches.map_err(|error| with_tip(error, &arguments, &grammar))?;
    Args::from_arg_matches(&matches).map_err(|error| error.format(&mut grammar))
}

/// Brings the arguments into the order of commands: `100 pre-start` (PVE's order) and
/// `pre-start 100` both become `phase pre-start 100`.
///
/// In PVE's order a word that is no phase comes from a newer PVE and is no error, unless it is a command.
fn in_order_of_commands(arguments: Vec<OsString>, grammar: &clap::Command) -> Vec<OsString> {
    let [program, first, second] = arguments.as_slice() else {
        return arguments;
    };
    let (Some(one), Some(two)) = (first.to_str(), second.to_str()) else {
        return arguments;
    };
    let is_phase = |text: &str| text.parse::<Phase>().is_ok();
    let is_command = commands(grammar).any(|name| name == two);
    let words = if one.parse::<Vmid>().is_ok() && !two.starts_with('-') && !is_command {
        let command = match is_phase(two) {
            true => "phase",
            false => "unknown-phase",
        };
        [command.into(), second.clone(), first.clone()]
    } else if is_phase(one) {
        ["phase".into(), first.clone(), second.clone()]
    } else {
        return arguments;
    };
    std::iter::once(program.clone()).chain(words).collect()
}

/// Returns a parser of values by their names.
fn by_name<T, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let names = PossibleValuesParser::new(all.map(name));
    let of_name = move |text: String| all.into_iter().find(|one| name(*one) == text);
    names.try_map(move |text| of_name(text).ok_or("no such value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Command {
        let words = words.iter().map(OsString::from).collect();
        parse(words).unwrap().command
    }

    #[test]
    fn both_orders_are_the_same_phase() {
        for words in [
            ["pin-hook", "100", "post-start"],
            ["pin-hook", "post-start", "100"],
        ] {
            let Command::Phase { phase, vmid } = command(&words) else {
                panic!("{words:?}")
            };
            assert_eq!(
                (phase, vmid.to_string()),
                (Phase::PostStart, "100".to_owned())
            );
        }
    }

    #[test]
    fn an_unknown_phase_is_one_of_a_newer_pve() {
        let unknown = command(&["/var/lib/vz/snippets/pin-hook", "100", "pre-migrate"]);
        assert!(
            matches!(unknown, Command::UnknownPhase { .. }),
            "{unknown:?}"
        );
    }

    #[test]
    fn a_command_behind_its_vm_is_an_error_with_the_right_order() {
        let words = ["pin-hook", "100", "enable"].map(OsString::from).to_vec();
        let error = parse(words).unwrap_err().to_string();
        assert!(error.contains("pin-hook enable 100"), "{error}");
        assert_eq!(crate::cli::tips::phase_like("prestart"), Some("pre-start"));
    }

    #[test]
    fn what_a_command_does_not_take_has_a_tip() {
        for (words, tip) in [
            (["pin-hook", "release", "all"], "pin-hook release --all"),
            (["pin-hook", "check", "a.toml"], "--table a.toml"),
            (["pin-hook", "apply", "--all"], "pin-hook apply --help"),
        ] {
            let error = parse(words.map(OsString::from).to_vec()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(tip) && !text.contains("-- "), "{text}");
        }
    }

    #[test]
    fn by_hand_a_typo_is_an_error() {
        for words in [
            ["pin-hook", "post-strat", "100"],
            ["pin-hook", "apply", "99"],
        ] {
            let words = words.iter().map(OsString::from).collect();
            assert!(parse(words).is_err());
        }
    }
}
