//! Gives a running VM of Proxmox VE exclusive CPUs, and restores the host afterwards.
//!
//! The rooms depend on each other in one direction only:
//! `cli` → `lifecycle` → `host` → `domain` (and its text side `config`).

pub mod cli;
pub mod config;
pub mod domain;
pub mod host;
pub mod lifecycle;
