//! The picture: frames for what is shared, a cell for each core, a mark for each owner.

use std::cmp::Reverse;

use super::legend::{cells_explained, legend};
use super::tree::{Group, Level, groups};
use super::{Core, Kind, Map, folded};
use crate::domain::drawing::frame::{EDGES, Line, Pen, hanging, packed, widest};
use crate::domain::words::length;

/// Least columns of a picture: below, frames within frames leave no room for a list of CPUs.
pub const LEAST_WIDTH: u16 = 40;

/// Lines of a package above which its cores are folded: about what a terminal shows at once, and four nodes
/// with two rows of marked cores each.
const MAX_LINES: usize = 26;

/// Columns between two cells: a bar with a blank on each side.
const GAP: usize = 3;

/// What the picture is drawn with.
#[derive(Debug, Clone, Copy)]
pub struct Paper {
    /// Columns of the longest line.
    pub width: usize,
    /// Whether everything but the names is ASCII.
    pub is_ascii: bool,
}

/// How cells are drawn.
struct Cells<'m> {
    map: &'m Map,
    pen: Pen,
    /// Columns of a CPU's number.
    digits: usize,
    /// Whether CPUs have marks.
    is_marked: bool,
    /// CPUs of the core that has most.
    n_siblings: usize,
    /// Columns of what a core is built for; none where all are of one kind.
    label: usize,
}

/// What is tried until the picture is as low as it can be.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Cells in a row.
    n: usize,
    /// Whether frames that belong together have the same width.
    is_even: bool,
}

/// Returns the picture of a map.
pub fn draw(map: &Map, paper: Paper) -> Vec<Line> {
    let cells = Cells::new(map, Pen::new(paper.is_ascii));
    let (mut lines, has_cells) = match cells.drawn(paper.width) {
        Some(lines) => (lines, true),
        None => (folded::drawn(map, cells.pen, paper.width), false),
    };
    lines.push(Line::default());
    if has_cells {
        lines.extend(cells_explained(map, paper.width));
    }
    lines.extend(legend(map, paper.width));
    lines
}

impl<'m> Cells<'m> {
    fn new(map: &'m Map, pen: Pen) -> Self {
        let cores = map.cores.iter();
        let kinds = cores.clone().filter_map(|core| core.kind);
        let label = kinds.map(|kind| kind.letters().len() + 1).max();
        let last = cores.clone().filter_map(|core| core.cpus.last()).max();
        Cells {
            map,
            pen,
            digits: last.map_or(1, |cpu| cpu.to_string().len()),
            is_marked: map.is_shared(),
            n_siblings: cores.map(|core| core.cpus.len()).max().unwrap_or(1),
            label: label.unwrap_or(0),
        }
    }

    /// Returns the frames with as many cells in a row as make the picture lowest; nothing where that
    /// is still too high, or not even one cell fits.
    fn drawn(&self, width: usize) -> Option<Vec<Line>> {
        let groups = groups(self.map, &Level::all(self.map));
        let depth = groups.iter().map(Group::depth).max().unwrap_or(0);
        let room = width.checked_sub(depth * EDGES + self.label)?;
        let in_a_row = (room + GAP) / (self.cell() + GAP);
        let highest = groups.iter().map(Group::n_cores).max().unwrap_or(0);
        if highest > in_a_row * MAX_LINES {
            return None;
        }
        let largest = groups.iter().map(Group::largest).max().unwrap_or(0);
        // Narrow frames may be side by side, and make a lower picture than wide ones then.
        let numbers = 1..=in_a_row.min(largest);
        let shapes = numbers.flat_map(|n| [false, true].map(|is_even| Shape { n, is_even }));
        let pictures = shapes.filter_map(|shape| {
            let blocks = self.frames(&groups, shape, width);
            let highest = blocks.iter().map(Vec::len).max()?;
            let lines = packed(blocks, width);
            let is_ragged = groups.iter().any(|group| group.is_ragged(shape.n));
            let cost = lines.len() + usize::from(is_ragged);
            let fits = highest <= MAX_LINES && widest(&lines) <= width;
            fits.then_some(((cost, !shape.is_even, Reverse(shape.n)), lines))
        });
        let best = pictures.min_by_key(|(cost, _)| *cost);
        best.map(|(_, lines)| lines)
    }

    /// Returns how many columns a core takes.
    fn cell(&self) -> usize {
        let cpu = self.digits + usize::from(self.is_marked);
        (cpu + 1) * self.n_siblings - 1
    }

    /// Returns a frame for each group.
    fn frames(&self, groups: &[Group], shape: Shape, width: usize) -> Vec<Vec<Line>> {
        let room = width.saturating_sub(EDGES);
        let contents = groups.iter().map(|group| {
            let mut lines = packed(self.frames(&group.parts, shape, room), room);
            lines.extend(self.rows(&group.cores, shape.n));
            lines.extend(group.device_lines(room));
            lines
        });
        let contents: Vec<Vec<Line>> = contents.collect();
        let titles = groups.iter().map(|group| length(&group.title).min(room));
        let most = contents
            .iter()
            .map(|lines| widest(lines))
            .chain(titles)
            .max();
        let least = most.filter(|_| shape.is_even).unwrap_or(0);
        let framed = groups.iter().zip(contents);
        framed
            .map(|(group, lines)| self.pen.frame(&group.title, lines, (least, room)))
            .collect()
    }

    /// Returns the cells of cores; those of one kind begin in a row of their own.
    fn rows(&self, cores: &[usize], n: usize) -> Vec<Line> {
        let cores = cores.iter().map(|core| &self.map.cores[*core]);
        let mut kinds: Vec<Option<Kind>> = cores.clone().map(|core| core.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut lines = Vec::new();
        for kind in kinds {
            let same: Vec<_> = cores.clone().filter(|core| core.kind == kind).collect();
            let mut label = kind.map_or("", Kind::letters);
            for row in same.chunks(n) {
                let mut line = Line::default();
                if self.label > 0 {
                    line.push(format!("{label:<width$}", width = self.label), None);
                }
                label = "";
                for (at, core) in row.iter().enumerate() {
                    if at > 0 {
                        line.push(format!(" {} ", self.pen.bar), None);
                    }
                    self.put_core(core, &mut line);
                }
                lines.push(line);
            }
        }
        lines
    }

    fn put_core(&self, core: &Core, line: &mut Line) {
        let before = line.width();
        for (n, cpu) in core.cpus.iter().enumerate() {
            let owner = self.map.owner_of(cpu);
            if n > 0 {
                line.push(" ", None);
            }
            let number = format!("{:>width$}", cpu.0, width = self.digits);
            let mark = self.is_marked.then(|| self.map.mark(owner));
            line.push(
                number + &mark.map_or_else(String::new, String::from),
                Some(owner),
            );
        }
        line.pad(before + self.cell());
    }
}

impl Group {
    fn depth(&self) -> usize {
        1 + self.parts.iter().map(Group::depth).max().unwrap_or(0)
    }

    fn n_cores(&self) -> usize {
        self.cores.len() + self.parts.iter().map(Group::n_cores).sum::<usize>()
    }

    /// Returns the number of cores of the largest part that is not divided any further.
    fn largest(&self) -> usize {
        let parts = self.parts.iter().map(Group::largest);
        parts.max().unwrap_or(self.cores.len())
    }

    /// Tells whether a last row would not be full.
    fn is_ragged(&self, n: usize) -> bool {
        let n_cores = self.cores.len();
        n_cores > n && !n_cores.is_multiple_of(n) || self.parts.iter().any(|part| part.is_ragged(n))
    }

    /// Returns what is attached to it, in lines.
    pub(super) fn device_lines(&self, width: usize) -> impl Iterator<Item = Line> {
        let devices = self.devices.iter();
        devices.flat_map(move |(text, owner)| hanging(text, *owner, width))
    }
}
