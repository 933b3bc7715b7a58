//! Writes the completions of bash, zsh and fish into a directory: `completions DIR`.
//!
//! Not a command of the program, which would only become larger by it.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::{Generator, Shell};

fn main() -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: completions DIR");
    let dir = std::env::args_os().nth(1).ok_or_else(usage)?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut shown(), "pin-hook", &mut text);
        fs::write(dir.join(shell.file_name("pin-hook")), text)?;
    }
    Ok(())
}

/// Returns the grammar without what only PVE and the program itself write.
fn shown() -> clap::Command {
    let whole = pin_hook::cli::grammar();
    let bare = clap::Command::new("pin-hook").args(whole.get_arguments().cloned());
    let commands = whole.get_subcommands().filter(|one| !one.is_hide_set());
    bare.subcommands(commands.cloned())
}
