//! Where the fields of an event are: the text of its file `format` (`Documentation/trace/events.rst`).

/// A field of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    offset: usize,
    size: usize,
    /// Whether it says where the text is (`__data_loc`): length in the upper half, offset in the lower one.
    is_elsewhere: bool,
}

impl Field {
    /// Returns the number in a record, with its sign extended where it is negative.
    pub fn number(self, record: &[u8]) -> Option<i64> {
        let bytes = record.get(self.offset..self.offset.checked_add(self.size)?)?;
        Some(match *bytes {
            [a] => i64::from(a),
            [a, b] => i64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => i64::from_le_bytes(bytes.try_into().ok()?),
        })
    }

    /// Returns an address of the kernel.
    pub fn address(self, record: &[u8]) -> Option<u64> {
        self.number(record).map(i64::cast_unsigned)
    }

    /// Returns the text in a record, up to its NUL; bytes that are not UTF-8 are replaced.
    pub fn text(self, record: &[u8]) -> Option<String> {
        let (offset, size) = match self.is_elsewhere {
            true => {
                let place = usize::try_from(self.number(record)? & 0xffff_ffff).ok()?;
                (place & 0xffff, place >> 16)
            }
            false => (self.offset, self.size),
        };
        let bytes = record.get(offset..offset.checked_add(size)?)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        let text = &bytes[..end.unwrap_or(bytes.len())];
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Layout of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Number that its records begin with.
    pub id: u16,
    fields: Vec<(String, Field)>,
}

impl Format {
    /// Reads the text of a file `format`; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.lines().find_map(|line| line.strip_prefix("ID:"))?;
        let fields = text.lines().filter_map(|line| field(line.trim()));
        Some(Format {
            id: id.trim().parse().ok()?,
            fields: fields.collect(),
        })
    }

    /// Returns a field by its name.
    pub fn field(&self, name: &str) -> Option<Field> {
        let mut fields = self.fields.iter();
        Some(fields.find(|(known, _)| known == name)?.1)
    }
}

/// Reads a line such as `field:char next_comm[16]; offset:40; size:16; signed:0;`, with tabs between its parts.
fn field(line: &str) -> Option<(String, Field)> {
    let (declared, rest) = line.strip_prefix("field:")?.split_once(';')?;
    let mut sizes = rest.split(';').map(str::trim);
    let mut number = |name: &str| {
        let value = sizes.next()?.strip_prefix(name)?.strip_prefix(':')?;
        value.parse::<usize>().ok()
    };
    let (offset, size) = (number("offset")?, number("size")?);
    let name = declared.split_whitespace().next_back()?;
    let name = name.split_once('[').map_or(name, |(name, _)| name);
    let field = Field {
        offset,
        size,
        is_elsewhere: declared.starts_with("__data_loc"),
    };
    (size > 0).then(|| (name.to_owned(), field))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: irq_handler_entry\nID: 157\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:int irq;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:__data_loc char[] name;\toffset:12;\tsize:4;\tsigned:0;\n\
        \tfield:char comm[4];\toffset:16;\tsize:4;\tsigned:0;\n\nprint fmt: \"irq=%d\"\n";

    #[test]
    fn fields_are_where_the_format_says() {
        let format = Format::parse(TEXT).unwrap();
        assert_eq!(format.id, 157);
        let mut record = vec![0u8; 20];
        record[4..8].copy_from_slice(&(-1i32).to_le_bytes());
        record[8..12].copy_from_slice(&41i32.to_le_bytes());
        record[12..16].copy_from_slice(&(7u32 << 16 | 20).to_le_bytes());
        record[16..20].copy_from_slice(b"ab\0x");
        record.extend(b"nvme0q1\0");
        let field = |name| format.field(name).unwrap();
        assert_eq!(field("common_pid").number(&record), Some(-1));
        assert_eq!(field("irq").number(&record), Some(41));
        assert_eq!(field("name").text(&record).unwrap(), "nvme0q1");
        assert_eq!(field("comm").text(&record).unwrap(), "ab");
        assert_eq!(format.field("vector"), None);
        // A record cut short has no such field, and is no reason to panic.
        assert_eq!(field("name").text(&record[..18]), None);
        assert_eq!(field("name").text(&record[..22]), None);
    }

    #[test]
    fn what_is_no_format_is_none() {
        for text in ["", "ID: many", "name: x"] {
            assert_eq!(Format::parse(text), None);
        }
        let odd = Format::parse("ID: 1\n\tfield:int x; offset:a; size:4;\n\tfield:;\n").unwrap();
        assert_eq!(odd.fields, []);
    }
}
