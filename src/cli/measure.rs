//! `measure`: what is taken from a running VM, and by whom.

mod text;

use std::time::Duration;

use self::text::report;

use super::args::measuring::Measuring;
use super::json;
use super::opening::write_of_caller;
use super::output::Output;
use crate::domain::measure::card::Card;
use crate::domain::measure::measurement::Measurement;
use crate::domain::measure::tally::in_units;
use crate::domain::table::TimeSpan;
use crate::host::Host;
use crate::lifecycle::engine::account::{Exit, Level, Line};
use crate::lifecycle::measuring::proof;
use crate::lifecycle::measuring::run::{Extent, measure};
use crate::lifecycle::measuring::saved::{Name, load, save};
use crate::lifecycle::measuring::subject::MeasureOf;

/// Measures, and shows what was taken and by whom.
///
/// # Errors
/// What is to be measured is not there, or the kernel's tracer cannot be used.
pub fn show(host: &Host, asked: &Measuring, output: &Output) -> anyhow::Result<Exit> {
    if !asked.compare.is_empty() {
        return compare(host, asked, output);
    }
    let measurement = match &asked.show {
        Some(name) => load(&*host.files, name)?,
        None => taken_now(host, asked, output)?,
    };
    match asked.json {
        true => json::print(&measurement, output)?,
        false => output.print(&report(&measurement, output.is_verbose())),
    }
    Ok(match measurement.stopped {
        Some(_) if asked.show.is_none() => Exit::Warned,
        _ => Exit::Done,
    })
}

/// Shows measurements that were kept side by side.
fn compare(host: &Host, asked: &Measuring, output: &Output) -> anyhow::Result<Exit> {
    let kept = asked.compare.iter().map(|name| {
        let one = load(&*host.files, name)?;
        anyhow::Ok((name.to_string(), one))
    });
    let card = Card::new(&kept.collect::<anyhow::Result<Vec<_>>>()?);
    match &asked.svg {
        Some(file) => write_of_caller(file, &card.svg(), 0o644)?,
        None if asked.json => json::print(&card, output)?,
        None => output.print(&card.text()),
    }
    Ok(Exit::Done)
}

/// Measures, and keeps the result where that is asked for.
fn taken_now(host: &Host, asked: &Measuring, output: &Output) -> anyhow::Result<Measurement> {
    let what = match (asked.vmid, &asked.cpus) {
        (Some(vmid), _) => MeasureOf::Vm(vmid),
        (None, cpus) => {
            let cpus = cpus.clone().unwrap_or_default();
            match asked.spin {
                true => MeasureOf::Spinning(cpus, asked.realtime),
                false => MeasureOf::Cpus(cpus),
            }
        }
    };
    let is_live = output.is_terminal() && !asked.json;
    let tell = |left: Duration| {
        if is_live {
            let seconds = left.as_secs_f64().ceil();
            output.draw(&format!("\r\x1b[Kmeasuring, {seconds} s left"));
        }
    };
    let extent = Extent {
        duration: asked.duration.duration(),
        stop_over: asked.stop_over.map(|time| time.duration()),
    };
    let measured = measure(host, &what, extent, &tell);
    if is_live {
        output.draw("\r\x1b[K");
    }
    let measurement = measured?;
    proof::keep(host, &measurement)?;
    let took = Duration::from_nanos(measurement.duration_ns);
    let is_cut = measurement.stopped.is_none() && took < extent.duration;
    match &asked.save {
        // One of this name may be whole.
        Some(name) if is_cut => output.tell_lines(&not_kept(name, took, asked.duration)),
        Some(name) => save(&*host.files, name, &measurement)?,
        None => {}
    }
    Ok(measurement)
}

/// Says that a measurement that was interrupted is not kept.
fn not_kept(name: &Name, took: Duration, asked: TimeSpan) -> [Line; 2] {
    let took = in_units(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    let text = format!("interrupted after {took} of {asked}, not kept as {name}");
    let help = "let it come to its end, or ask for less with --duration".to_owned();
    [(Level::Warning, text), (Level::Help, help)].map(|(level, text)| Line { level, text })
}
