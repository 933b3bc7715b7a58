//! A page as HTML that needs nothing else: no script, no font, no picture of somebody else's.

use super::{Badge, Block, Page, Row, Section, Table, Tone};

/// Letters of a cell above which a list or a path may go on in the next line.
const LONG: usize = 16;
const STYLE: &str = include_str!("page.css");

/// Returns a page as HTML; it is well-formed XML too.
pub fn html(page: &Page) -> String {
    let mut html = Writer::default();
    html.put("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
    html.put("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
    html.put("<meta name=\"color-scheme\" content=\"light dark\"/>\n");
    html.element("title", &page.title);
    html.put("<style>\n");
    html.put(STYLE);
    html.put("</style>\n</head>\n<body>\n<header>\n");
    html.element("h1", &page.title);
    html.put("<ul class=\"chips\">\n");
    for (name, value) in &page.facts {
        html.put("<li>");
        html.text(name);
        html.put(" <b>");
        html.text(value);
        html.put("</b></li>\n");
    }
    html.put("</ul>\n</header>\n<main>\n");
    page.sections
        .iter()
        .for_each(|section| html.section(section));
    html.put("</main>\n</body>\n</html>\n");
    html.0
}

#[derive(Default)]
struct Writer(String);

impl Writer {
    fn put(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    /// Adds text in which nothing has a meaning for HTML.
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.put("&amp;"),
                '<' => self.put("&lt;"),
                '>' => self.put("&gt;"),
                '"' => self.put("&quot;"),
                '\n' | '\t' => self.0.push(c),
                c if c.is_control() => self.0.push('?'),
                c => self.0.push(c),
            }
        }
    }

    fn element(&mut self, name: &str, text: &str) {
        self.styled(name, "", text);
    }

    /// Adds an element with a class.
    fn styled(&mut self, name: &str, class: &str, text: &str) {
        self.open(name, class);
        self.text(text);
        self.close(name);
    }

    fn open(&mut self, name: &str, class: &str) {
        self.put("<");
        self.put(name);
        if !class.is_empty() {
            self.put(" class=\"");
            self.put(class);
            self.put("\"");
        }
        self.put(">");
    }

    fn close(&mut self, name: &str) {
        self.put("</");
        self.put(name);
        self.put(">\n");
    }

    fn section(&mut self, section: &Section) {
        self.put("<section>\n<h2>");
        self.text(&section.title);
        if let Some(badge) = &section.badge {
            self.put(" ");
            self.badge(badge);
        }
        self.put("</h2>\n");
        self.blocks(&section.blocks);
        self.put("</section>\n");
    }

    fn badge(&mut self, badge: &Badge) {
        let class = format!("badge {}", class(badge.tone));
        self.styled("span", class.trim_end(), &badge.text);
    }

    fn blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            match block {
                Block::Heading(title) => self.element("h3", title),
                Block::Text(text) => self.element("p", text),
                Block::Facts(facts) => self.facts(facts),
                Block::Remark { badge, text, help } => self.remark(badge, text, help.as_deref()),
                Block::Table(table) => self.table(table),
                Block::Verbatim(text) => self.element("pre", text),
                Block::Picture { wide, narrow, .. } => {
                    self.picture("wide", wide);
                    self.picture("narrow", narrow);
                }
                Block::Fold(title, blocks) => {
                    self.put("<details>\n");
                    self.element("summary", title);
                    self.blocks(blocks);
                    self.close("details");
                }
            }
        }
    }

    fn facts(&mut self, facts: &[(&str, String)]) {
        self.put("<dl>\n");
        for (name, value) in facts {
            self.element("dt", name);
            self.element("dd", value);
        }
        self.close("dl");
    }

    fn remark(&mut self, badge: &Badge, text: &str, help: Option<&str>) {
        let class = format!("remark {}", class(badge.tone));
        self.open("div", class.trim_end());
        self.badge(badge);
        self.put("<div>\n");
        self.element("p", text);
        if let Some(help) = help {
            self.styled("p", "help", help);
        }
        self.put("</div></div>\n");
    }

    fn table(&mut self, Table { heads, groups }: &Table) {
        self.put("<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>");
        for head in heads {
            self.put(&format!("<th scope=\"col\">{head}</th>"));
        }
        self.put("</tr></thead>\n");
        for (title, rows) in groups {
            self.put("<tbody>\n");
            if !title.is_empty() {
                let n = heads.len();
                self.put(&format!("<tr><th scope=\"rowgroup\" colspan=\"{n}\">"));
                self.text(title);
                self.put("</th></tr>\n");
            }
            rows.iter().for_each(|row| self.row(row));
            self.put("</tbody>\n");
        }
        self.put("</table></div>\n");
    }

    fn row(&mut self, (tone, cells): &Row) {
        self.open("tr", class(*tone));
        for cell in cells {
            self.put("<td>");
            let is_long = cell.len() > LONG;
            for part in cell.split_inclusive([',', '/']) {
                self.text(part);
                if is_long && part.len() < cell.len() {
                    self.put("<wbr/>");
                }
            }
            self.put("</td>");
        }
        self.close("tr");
    }

    fn picture(&mut self, class: &str, svg: &str) {
        self.put(&format!("<figure class=\"{class}\">\n"));
        self.put(svg);
        self.close("figure");
    }
}

/// Returns the class of what is meant so.
fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Good => "good",
        Tone::Notice => "notice",
        Tone::Warning => "warning",
        Tone::Bad => "bad",
    }
}
