//! The program `pin-hook`; everything but its entry is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pin_hook::cli::run(std::env::args_os().collect())
}
