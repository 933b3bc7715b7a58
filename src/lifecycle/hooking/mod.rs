//! Having PVE call pin-hook, and preparing the node.

pub mod boot;
pub mod chain;
pub mod disable;
pub mod enable;
pub mod snippet;
pub mod step;
