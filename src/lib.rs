//! Gives a VM of Proxmox VE its CPUs for real while it runs, and the host back afterwards.
//!
//! The rooms depend on each other in one direction only:
//! `cli` → `lifecycle` → `host` → `domain` (and its text side `config`).

pub mod cli;
pub mod config;
pub mod domain;
pub mod host;
pub mod lifecycle;
