//! Tells the linker what a binary whose panics abort can do without.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=release.ld");
    // Of a profile that inherits it as well; tests have the other one, and unwind.
    if env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let arguments = [
        // Without the tables for unwinding, and their index. The name holds wherever the tree lies: Cargo has rustc
        // and with it the linker work in the tree's root.
        "-T,release.ld",
        "--no-eh-frame-hdr",
        // Functions that have become the same code are one.
        "--icf=all",
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
}
