//! The card of a run of `make demo`, of which docs/measure.svg is the picture.
//!
//! The numbers are those that the demo printed (Linux 6.12.118, emulated, 8 CPUs, 2026-11-30). It printed sums by
//! kind and no names, so that the picture has none either. The durations, printed as 5.1 s and 5.0 s, are such that
//! totals and shares agree.

use std::fs;

use pin_hook::domain::measure::card::Card;
use pin_hook::domain::measure::culprit::Culprit;
use pin_hook::domain::measure::kind::Kind;
use pin_hook::domain::measure::measurement::{Measurement, Seat};
use pin_hook::domain::measure::remedy::Remedy;
use pin_hook::domain::measure::tally::{Histogram, Tally};

const MS: u64 = 1_000_000;
const KINDS: [Kind; 5] = [
    Kind::Program,
    Kind::Work,
    Kind::Interrupt,
    Kind::Call,
    Kind::Tick,
];

/// Returns what was measured of VM 100 in `ms`; `share` in thousandths of a percent, times in microseconds.
fn measured(
    cpus: &str,
    ms: u64,
    share: u64,
    [times, long]: [u64; 2],
    [longest, waited]: [u64; 2],
    by_kind: [u64; 5],
) -> Measurement {
    let culprits = KINDS.into_iter().zip(by_kind).map(|(kind, us)| Culprit {
        kind,
        name: kind.name().to_owned(),
        tally: Tally {
            times: 1,
            total_ns: us * 1000,
            longest_ns: us * 1000,
        },
        asked_by: Vec::new(),
        remedy: Remedy::Unknown,
    });
    Measurement {
        vmid: Some("100".parse().unwrap()),
        cpus: cpus.parse().unwrap(),
        duration_ns: ms * MS,
        kernel: "6.12.118+deb13-amd64".to_owned(),
        taken: Tally {
            times,
            total_ns: ms * MS * 4 / 100_000 * share,
            longest_ns: longest * 1000,
        },
        histogram: Histogram([0, 0, 0, 0, 0, times - long, long, 0]),
        seats: vec![Seat::default(); 4],
        culprits: culprits.collect(),
        steal_ns: waited * 1000,
        ..Measurement::default()
    }
}

fn card() -> Card {
    let nothing = measured(
        "0-7",
        5_120,
        17_393,
        [1453, 511],
        [48_000, 2_900_000],
        [2_600_000, 136_000, 519_000, 5_800, 208_000],
    );
    let affinity = measured(
        "4-7",
        5_010,
        9_577,
        [1295, 543],
        [52_000, 2_500_000],
        [1_500_000, 245_000, 19_000, 498, 78_000],
    );
    let pin_hook = measured(
        "4-7",
        5_010,
        417,
        [984, 54],
        [4_000, 0],
        [0, 0, 2_300, 0, 81_000],
    );
    let all = [
        ("nothing", nothing),
        ("affinity", affinity),
        ("pin-hook", pin_hook),
    ];
    let mut card = Card::new(&all.map(|(name, one)| (name.to_owned(), one)));
    card.by_name.clear();
    card
}

/// What was printed, without the names of the rows.
const PRINTED: [&str; 6] = [
    "nothing affinity pin-hook",
    "3.5 s 1.9 s 83 ms",
    "17.393 % 9.577 % 0.417 %",
    "1453 1295 984",
    "48 ms 52 ms 4.0 ms",
    "2.9 s 2.5 s 0 ns",
];

#[test]
fn the_picture_in_the_readme_shows_what_the_demo_printed() {
    let card = card();
    let text = card.text();
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    });
    let lines: Vec<String> = lines.collect();
    for printed in PRINTED {
        let has = |line: &String| line.ends_with(printed);
        assert!(lines.iter().any(has), "{printed}: {text}");
    }
    let svg = card.svg();
    if crate::goldens::update() {
        fs::write("docs/measure.svg", &svg).unwrap();
    }
    assert_eq!(fs::read_to_string("docs/measure.svg").unwrap(), svg);
}
