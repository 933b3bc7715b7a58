//! x
use super::output::Output;
use crate::domain::vm::Vmid;
use crate::lifecycle::account::Exit;
use crate::lifecycle::phase::Run;
pub fn show(_run: &Run<'_>, _vmid: Vmid, _json: bool, _output: &Output) -> anyhow::Result<Exit> {
    Ok(Exit::Done)
}
