//! Shared by the integration tests; each uses a part of it.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used
)]

pub mod garble;
pub mod goldens;
pub mod sim;
