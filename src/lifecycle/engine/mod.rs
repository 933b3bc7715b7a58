//! What every run does: remember, look, settle, tell.

pub mod account;
pub mod advice;
pub mod at_work;
pub mod debts;
pub mod denied;
pub mod fate;
pub mod inventory;
pub mod journal;
pub mod look;
pub mod observe;
pub mod others;
pub mod recover;
pub mod report;
pub mod run;
pub mod settings;
pub mod settle;
pub mod units;
pub mod work;
