//! x
use super::output::Output;
use crate::host::Host;
use crate::lifecycle::account::Exit;
pub fn show(_host: &Host, _json: bool, _output: &Output) -> anyhow::Result<Exit> {
    Ok(Exit::Done)
}
