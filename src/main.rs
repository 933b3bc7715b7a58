//! The program `pin-hook`; everything but its entry is in the library.

fn main() {}
