//! Arguments of `measure`.

use std::path::PathBuf;

use clap::ArgGroup;

use crate::domain::cpuset::CpuSet;
use crate::domain::measure::card::MOST;
use crate::domain::table::TimeSpan;
use crate::domain::vm::Vmid;
use crate::lifecycle::measuring::saved::Name;

/// What `measure` is asked for.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct Measuring {
    /// VM whose vCPUs to measure
    #[arg(group = "what")]
    pub vmid: Option<Vmid>,
    /// Measure these CPUs instead, with whatever runs there
    #[arg(long, value_name = "LIST", group = "what")]
    pub cpus: Option<CpuSet>,
    /// Show a measurement that was kept
    #[arg(long, value_name = "NAME", group = "what", conflicts_with = "save")]
    pub show: Option<Name>,
    /// Show measurements that were kept side by side
    #[arg(long, value_name = "NAME", group = "what", num_args = 2..=MOST, conflicts_with = "save")]
    pub compare: Vec<Name>,
    /// Write the comparison to a file, as SVG
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["vmid", "cpus", "show", "json"])]
    pub svg: Option<PathBuf>,
    /// Run threads there that never sleep, and measure what is taken from them
    #[arg(long, requires = "cpus", conflicts_with_all = ["vmid", "show", "compare"])]
    pub spin: bool,
    /// Make them real-time threads, for 60 s at most
    #[arg(long, requires = "spin")]
    pub realtime: bool,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub duration: TimeSpan,
    /// End with the first interruption that takes longer than this, and show it
    #[arg(long, value_name = "TIME", conflicts_with_all = ["show", "compare", "svg"])]
    pub stop_over: Option<TimeSpan>,
    /// Keep it under this name, for --compare
    #[arg(long, value_name = "NAME")]
    pub save: Option<Name>,
    /// Print JSON (/usr/share/doc/pin-hook/json.md describes it)
    #[arg(long)]
    pub json: bool,
}
