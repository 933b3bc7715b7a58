//! The picture of a large host: a row for cores that follow each other and have the same owners.

use super::tree::{Group, Level, groups, l3_title};
use super::{Kind, Map};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::drawing::frame::{EDGES, Line, Pen, hanging, widest};
use crate::domain::words::{LEAST_COLUMNS, count, length, pieces};

/// Cores that follow each other within one L3 domain, or all cores of several such domains.
#[derive(Debug, Clone)]
struct Run {
    /// First and last of the L3 domains.
    l3_domains: Option<(usize, usize)>,
    /// How many cores each domain has.
    n_cores: usize,
    kind: Option<Kind>,
    /// Owners of the siblings of each core.
    owners: Vec<usize>,
    cpus: Vec<CpuId>,
}

/// Row of a table: what it is about, whose it is, and the CPUs.
struct Row {
    heads: [String; 3],
    cpus: String,
    owner: usize,
}

/// Returns the frames of a host whose cores are too many for a cell each, one below the other.
pub(super) fn drawn(map: &Map, pen: Pen, width: usize) -> Vec<Line> {
    let mut levels = Level::all(map);
    // Caches within a node are told in its rows.
    let is_told = levels.last() == Some(&Level::L3);
    levels.truncate(if is_told { 2 } else { 3 });
    let groups = groups(map, &levels);
    let mut folded = Folded {
        map,
        pen,
        is_told,
        widths: [0; 3],
    };
    folded.measure(&groups);
    // As wide as the widest of them has to be.
    let natural = widest(&folded.frames(&groups, width, false));
    folded.frames(&groups, natural, true)
}

struct Folded<'m> {
    map: &'m Map,
    pen: Pen,
    /// Whether rows say which L3 domain they are about.
    is_told: bool,
    /// Columns of what is before the CPUs, the same in all frames.
    widths: [usize; 3],
}

impl Folded<'_> {
    fn rows(&self, group: &Group) -> Vec<Row> {
        rows(self.map, &runs(self.map, &group.cores, self.is_told))
    }

    fn measure(&mut self, groups: &[Group]) {
        for group in groups {
            self.measure(&group.parts);
            for row in self.rows(group) {
                for (width, head) in self.widths.iter_mut().zip(&row.heads) {
                    *width = length(head).max(*width);
                }
            }
        }
    }

    fn frames(&self, groups: &[Group], width: usize, is_filled: bool) -> Vec<Line> {
        let room = width.saturating_sub(EDGES);
        let framed = groups.iter().flat_map(|group| {
            let mut lines = self.frames(&group.parts, room, is_filled);
            lines.extend(table(&self.rows(group), self.widths, room));
            lines.extend(group.device_lines(room));
            let least = if is_filled { room } else { 0 };
            self.pen.frame(&group.title, lines, (least, room))
        });
        framed.collect()
    }
}

/// Puts cores together that follow each other, then L3 domains that do.
fn runs(map: &Map, cores: &[usize], is_told: bool) -> Vec<Run> {
    let mut cores: Vec<usize> = cores.to_vec();
    let domain = |core: &usize| map.cores[*core].l3_domain.filter(|_| is_told);
    // Those without a cache come last, as their frame would.
    cores.sort_by_key(|core| (domain(core).is_none(), domain(core)));
    let mut runs: Vec<Run> = Vec::new();
    for (core, n) in cores.iter().map(|n| (&map.cores[*n], n)) {
        let run = Run {
            l3_domains: domain(n).map(|domain| (domain, domain)),
            n_cores: 1,
            kind: core.kind,
            owners: core.cpus.iter().map(|cpu| map.owner_of(cpu)).collect(),
            cpus: core.cpus.iter().collect(),
        };
        match runs.last_mut().filter(|last| last.is_like(&run)) {
            Some(last) if last.l3_domains == run.l3_domains => {
                last.n_cores += 1;
                last.cpus.extend(run.cpus);
            }
            _ => runs.push(run),
        }
    }
    let is_whole = |n: usize| {
        let domain = |at: Option<usize>| runs.get(at?).map(|run| run.l3_domains);
        let own = domain(Some(n));
        own != domain(n.checked_sub(1)) && own != domain(Some(n + 1))
    };
    let whole: Vec<bool> = (0..runs.len()).map(is_whole).collect();
    let mut merged: Vec<(Run, bool)> = Vec::new();
    for (run, is_whole) in runs.into_iter().zip(whole) {
        let last = merged
            .last_mut()
            .filter(|(_, is_last_whole)| *is_last_whole && is_whole);
        match last.filter(|(last, _)| last.continues_in(&run, map)) {
            Some((last, _)) => {
                last.l3_domains = last.l3_domains.map(|(first, n)| (first, n + 1));
                last.cpus.extend(run.cpus);
            }
            None => merged.push((run, is_whole)),
        }
    }
    merged.into_iter().map(|(run, _)| run).collect()
}

impl Run {
    fn is_like(&self, other: &Run) -> bool {
        self.kind == other.kind && self.owners == other.owners
    }

    /// Tells whether `next` is the next L3 domain, and like this one.
    fn continues_in(&self, next: &Run, map: &Map) -> bool {
        let kib = |n: usize| map.l3_domains[n].kib;
        let is_next = match (self.l3_domains, next.l3_domains) {
            (Some((_, last)), Some((n, _))) => last + 1 == n && kib(last) == kib(n),
            _ => false,
        };
        is_next && self.is_like(next) && self.n_cores == next.n_cores
    }
}

/// Returns the rows of runs: one for each owner.
fn rows(map: &Map, runs: &[Run]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut before = None;
    for run in runs {
        let mut l3 = match run.l3_domains {
            Some((first, last)) if before != run.l3_domains => l3_title(map, first, last),
            _ => String::new(),
        };
        before = run.l3_domains;
        let n_domains = run.l3_domains.map_or(1, |(first, last)| last - first + 1);
        let core = run
            .kind
            .map_or("core".to_owned(), |kind| format!("{}-core", kind.letters()));
        let mut cores = count(n_domains * run.n_cores, &core);
        let mut owners = run.owners.clone();
        owners.sort_unstable();
        owners.dedup();
        for owner in owners {
            let cpus = run.cpus.iter().copied();
            let cpus: CpuSet = cpus.filter(|cpu| map.owner_of(*cpu) == owner).collect();
            let who = format!("{} {}", map.mark(owner), map.owners[owner].called());
            let heads = [std::mem::take(&mut l3), std::mem::take(&mut cores), who];
            rows.push(Row {
                heads,
                cpus: cpus.in_words(),
                owner,
            });
        }
    }
    rows
}

/// Returns rows in columns, or where the width is not enough for that, each as a sentence.
fn table(rows: &[Row], widths: [usize; 3], width: usize) -> Vec<Line> {
    let used: usize = widths.iter().filter(|n| **n > 0).map(|n| n + 2).sum();
    let mut lines = Vec::new();
    for Row { heads, cpus, owner } in rows {
        let owner = Some(*owner);
        if used + LEAST_COLUMNS > width {
            let heads = heads.iter().map(|head| head.trim());
            let heads: Vec<&str> = heads.filter(|head| !head.is_empty()).collect();
            let text = format!("{}: {cpus}", heads.join(", "));
            lines.extend(hanging(&text, owner, width));
            continue;
        }
        for (n, cpus) in pieces(cpus, width - used).into_iter().enumerate() {
            let mut line = Line::default();
            for (head, width) in heads.iter().zip(widths).filter(|(_, width)| *width > 0) {
                let head = if n == 0 { head.as_str() } else { "" };
                line.push(format!("{head:<width$}  "), None);
            }
            line.push(cpus, owner);
            lines.push(line);
        }
    }
    lines
}
