//! A page as Markdown that can be read as it is.

use super::{Block, Page};

/// Returns a page as Markdown.
pub fn markdown(page: &Page) -> String {
    let mut text = format!("# {}\n\n", escaped(&page.title));
    for (name, value) in &page.facts {
        text += &format!("- {name}: {}\n", escaped(value));
    }
    for section in &page.sections {
        let badge = section.badge.as_ref();
        let badge = badge.map_or(String::new(), |badge| format!(": {}", badge.text));
        text += &format!("\n## {}\n", escaped(&format!("{}{badge}", section.title)));
        add(&mut text, &section.blocks);
    }
    text
}

fn add(text: &mut String, blocks: &[Block]) {
    let mut is_list = false;
    for block in blocks {
        let was_list = std::mem::replace(&mut is_list, matches!(block, Block::Remark { .. }));
        if !(was_list && is_list) {
            text.push('\n');
        }
        match block {
            Block::Heading(title) => *text += &format!("### {title}\n"),
            Block::Text(sentence) => *text += &format!("{}\n", escaped(sentence)),
            Block::Facts(facts) => facts.iter().for_each(|(name, value)| {
                *text += &format!("- {name}: {}\n", escaped(value));
            }),
            Block::Remark {
                badge,
                text: said,
                help,
            } => {
                *text += &format!("- **{}** {}\n", badge.text, escaped(said));
                if let Some(help) = help {
                    *text += &format!("  - {}\n", escaped(help));
                }
            }
            Block::Table(table) => *text += &fenced(&table.lines()),
            Block::Verbatim(as_it_is) => *text += &fenced(as_it_is),
            Block::Picture { text: drawn, .. } => *text += &fenced(drawn),
            Block::Fold(title, blocks) => {
                *text += &format!("{}:\n", escaped(title));
                add(text, blocks);
            }
        }
    }
}

/// Returns text between fences that are not in it.
fn fenced(text: &str) -> String {
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

/// Returns text in which nothing has a meaning for Markdown.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '<' | '[' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_value_is_markdown() {
        assert_eq!(escaped("a*b <i> [x](y)\n"), "a\\*b \\<i> \\[x](y)?");
        assert_eq!(fenced("x\n```\n"), "````text\nx\n```\n````\n");
    }
}
