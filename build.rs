//! Tells the linker what a binary whose panics abort can do without.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=release.ld");
    // Of a profile that inherits it as well; tests have the other one, and unwind.
    if env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let arguments = [
        // Without the tables for unwinding, and their index.
        format!("-T,{root}/release.ld"),
        "--no-eh-frame-hdr".to_owned(),
        // Functions that have become the same code are one.
        "--icf=all".to_owned(),
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
}
