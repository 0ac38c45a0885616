//! The text form of a database's content, as `stillfs dump` writes it.
//!
//! ASCII, lines end with `\n`, fields are parted by one space:
//!
//! ```text
//! stillfs dump 1
//! table NAME COUNT      tables in ascending order of their names' bytes; COUNT entries follow
//! KEY VALUE             entries in ascending order of their keys' bytes
//! end COUNT             the sum of all tables' counts; nothing follows
//! ```
//!
//! NAME, KEY and VALUE are byte strings. Bytes 0x21 to 0x7e except `%` stand for themselves; every
//! other byte is written `%xx`, two lower-case hexadecimal digits (upper case is read too). The empty
//! string is a lone `%`. COUNT is decimal, without leading zeros. What a line is follows from its
//! place alone: a key may be `end`. A text without its `end` line is truncated and worth nothing.

#[cfg(any(test, feature = "cli"))]
use std::io::Write;
use std::io::{self, BufRead, Read};

use super::{Engine, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::engine::error::EngineError;

/// The first line of every dump of this version.
pub(crate) const FIRST_LINE: &str = "stillfs dump 1";
/// Bytes of keys and values that make a transaction.
const TRANSACTION_BYTES: usize = 4 << 20;
/// The longest line: key and value with every byte escaped, a space and the end of the line.
const LINE_BYTES_MAX: u64 = 3 * (KEY_BYTES_MAX + VALUE_BYTES_MAX) + 2;

/// Whether `byte` stands for itself.
const fn is_plain(byte: u8) -> bool {
    byte >= 0x21 && byte <= 0x7e && byte != b'%'
}

/// Writes `bytes` escaped; only the command writes dumps. Errors: those of `out`.
#[cfg(any(test, feature = "cli"))]
pub(crate) fn write_escaped(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    if bytes.is_empty() {
        return out.write_all(b"%");
    }
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let plain = rest.iter().take_while(|byte| is_plain(**byte)).count();
        let (same, after) = rest.split_at(plain);
        out.write_all(same)?;
        rest = after;
        if plain == 0 {
            let digit = |four: u8| HEX[usize::from(four & 15)];
            out.write_all(&[b'%', digit(first >> 4), digit(first)])?;
            rest = &rest[1..];
        }
    }
    Ok(())
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldFault {
    /// A percent sign without two digits after it.
    #[error("a % without two hexadecimal digits after it")]
    Escape,
    /// A byte that would have been escaped.
    #[error("byte {0:02x} is not escaped")]
    Bare(u8),
    /// Nothing between two spaces, or at the end.
    #[error("a field is missing (an empty one is written %)")]
    Missing,
}

/// Appends what `field` stands for to `out`. Errors: any [`FieldFault`].
fn unescape(field: &[u8], out: &mut Vec<u8>) -> Result<(), FieldFault> {
    if field == b"%" {
        return Ok(());
    }
    if field.is_empty() {
        return Err(FieldFault::Missing);
    }
    let mut rest = field;
    while let Some(&first) = rest.first() {
        if first == b'%' {
            let digit = |at: usize| {
                let digit = rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
                digit.and_then(|digit| u8::try_from(digit).ok())
            };
            let (high, low) = (digit(1), digit(2));
            let (high, low) = high.zip(low).ok_or(FieldFault::Escape)?;
            out.push(high << 4 | low);
            rest = &rest[3..];
            continue;
        }
        let plain = rest.iter().take_while(|byte| is_plain(**byte)).count();
        if plain == 0 {
            return Err(FieldFault::Bare(first));
        }
        let (same, after) = rest.split_at(plain);
        out.extend_from_slice(same);
        rest = after;
    }
    Ok(())
}

/// Why a text is no dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// It cannot be read.
    #[error("cannot read line {line} of the dump: {source}")]
    Io {
        /// The line, from 1.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// It ends before its last line.
    #[error("the dump is truncated: it ends in line {line}, where {expected} should be")]
    Truncated {
        /// The line, from 1.
        line: u64,
        /// What should be there.
        expected: Expected,
    },
    /// A line is not what it should be.
    #[error("line {line} of the dump is not {expected}")]
    Unexpected {
        /// The line, from 1.
        line: u64,
        /// What should be there.
        expected: Expected,
    },
    /// A field is not written as it should be.
    #[error("line {line} of the dump: {fault}")]
    Field {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        fault: FieldFault,
    },
    /// A key or a table does not stand after the one before it.
    #[error("line {line} of the dump: this {what} must be greater than the one before it")]
    Order {
        /// The line, from 1.
        line: u64,
        /// "key" or "table".
        what: &'static str,
    },
    /// The sum in the last line is not that of the entries.
    #[error("line {line} of the dump says {stated} entries, but {found} came before it")]
    Sum {
        /// The line, from 1.
        line: u64,
        /// What it says.
        stated: u64,
        /// What there was.
        found: u64,
    },
}

/// What must stand in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The first line.
    Start,
    /// The head of a table, or the last line.
    TableOrEnd,
    /// An entry: a key and a value.
    Entry {
        /// Its number in the table, from 1.
        number: u64,
        /// How many the table has.
        count: u64,
    },
    /// Nothing more.
    Nothing,
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start => write!(f, "the first line of a dump, `{FIRST_LINE}`"),
            Self::TableOrEnd => write!(f, "`table NAME COUNT` or `end COUNT`"),
            Self::Entry { number, count } => write!(f, "entry {number} of {count} of its table"),
            Self::Nothing => write!(f, "the end of the text: it goes on after `end`"),
        }
    }
}

/// What a line says. Key and value of an entry are the reader's, until the next line is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A table begins.
    Table { name: String, entry_count: u64 },
    /// An entry of the table that began last.
    Entry { key: &'a [u8], value: &'a [u8] },
    /// The dump is whole.
    End { entry_count: u64 },
}

/// Reads a dump line by line, in memory for one line.
#[derive(Debug)]
pub(crate) struct TextReader<R> {
    input: R,
    line: u64,
    text: Vec<u8>,
    place: Place,
    key: Vec<u8>,
    value: Vec<u8>,
    table: String,
    entries_before: u64,
}

/// Where in a dump a reader is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Start,
    /// In a table: entries read, and how many it has.
    Table {
        read: u64,
        count: u64,
    },
}

impl<R: BufRead> TextReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            text: Vec::new(),
            place: Place::Start,
            key: Vec::new(),
            value: Vec::new(),
            table: String::new(),
            entries_before: 0,
        }
    }

    /// The number of the line that was read last, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Reads the next line, and with the first one the start. After `End` it is not to be called.
    ///
    /// Errors: any [`TextError`].
    pub(crate) fn next(&mut self) -> Result<Item<'_>, TextError> {
        if let Place::Start = self.place {
            self.read_line(Expected::Start)?;
            if self.text != FIRST_LINE.as_bytes() {
                return Err(self.unexpected(Expected::Start));
            }
            self.place = Place::Table { read: 0, count: 0 };
        }
        match self.place {
            Place::Table { read, count } if read < count => {
                self.place = Place::Table {
                    read: read + 1,
                    count,
                };
                self.entry(read + 1, count)
            }
            _ => self.table_or_end(),
        }
    }

    /// Puts the next line, without its end, into `text`.
    fn read_line(&mut self, expected: Expected) -> Result<(), TextError> {
        self.line += 1;
        self.text.clear();
        let read = (&mut self.input)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut self.text);
        let line = self.line;
        let count = read.map_err(|source| TextError::Io { line, source })? as u64;
        if self.text.pop() == Some(b'\n') {
            Ok(())
        } else if count == LINE_BYTES_MAX {
            Err(self.unexpected(expected))
        } else {
            Err(TextError::Truncated { line, expected })
        }
    }

    fn unexpected(&self, expected: Expected) -> TextError {
        TextError::Unexpected {
            line: self.line,
            expected,
        }
    }

    fn entry(&mut self, number: u64, count: u64) -> Result<Item<'_>, TextError> {
        let expected = Expected::Entry { number, count };
        self.read_line(expected)?;
        let line = self.line;
        let space = self.text.iter().position(|byte| *byte == b' ');
        let space = space.ok_or(TextError::Unexpected { line, expected })?;
        let (key, value) = (&self.text[..space], &self.text[space + 1..]);
        // The value's buffer takes the new key for a moment, so that it can be compared.
        let field = |fault| TextError::Field { line, fault };
        self.value.clear();
        unescape(key, &mut self.value).map_err(field)?;
        if number > 1 && self.value <= self.key {
            return Err(TextError::Order { line, what: "key" });
        }
        std::mem::swap(&mut self.key, &mut self.value);
        self.value.clear();
        unescape(value, &mut self.value).map_err(field)?;
        self.entries_before += 1;
        Ok(Item::Entry {
            key: &self.key,
            value: &self.value,
        })
    }

    fn table_or_end(&mut self) -> Result<Item<'_>, TextError> {
        let expected = Expected::TableOrEnd;
        self.read_line(expected)?;
        let text = std::mem::take(&mut self.text);
        let fields: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
        let item = match fields[..] {
            [b"table", name, count] => number(count).map(|count| (Some(name), count)),
            [b"end", count] => number(count).map(|count| (None, count)),
            _ => None,
        };
        match item {
            Some((Some(name), count)) => self.begin_table(name, count),
            Some((None, stated)) => self.end(stated),
            None => Err(self.unexpected(expected)),
        }
    }

    fn begin_table(&mut self, name: &[u8], entry_count: u64) -> Result<Item<'_>, TextError> {
        let line = self.line;
        let mut bytes = Vec::new();
        unescape(name, &mut bytes).map_err(|fault| TextError::Field { line, fault })?;
        let expected = Expected::TableOrEnd;
        let name =
            String::from_utf8(bytes).map_err(|_| TextError::Unexpected { line, expected })?;
        // No table has an empty name, so the first one passes too.
        if name <= self.table {
            return Err(TextError::Order {
                line,
                what: "table",
            });
        }
        self.table.clone_from(&name);
        self.place = Place::Table {
            read: 0,
            count: entry_count,
        };
        Ok(Item::Table { name, entry_count })
    }

    fn end(&mut self, stated: u64) -> Result<Item<'_>, TextError> {
        let (line, found) = (self.line, self.entries_before);
        if stated != found {
            return Err(TextError::Sum {
                line,
                stated,
                found,
            });
        }
        let rest = self.input.fill_buf();
        let rest = rest.map_err(|source| TextError::Io { line, source })?;
        if !rest.is_empty() {
            return Err(TextError::Unexpected {
                line: line + 1,
                expected: Expected::Nothing,
            });
        }
        Ok(Item::End { entry_count: found })
    }
}

/// A decimal number without sign or leading zeros.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Why a text was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It is no dump.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An entry or a table was refused.
    #[error("cannot load line {line} of the dump")]
    Line {
        /// The line, from 1.
        line: u64,
        /// Why.
        source: EngineError,
    },
    /// A transaction did not begin, or was not committed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Tables, empty ones included.
    pub table_count: u64,
    /// Entries of all tables.
    pub entry_count: u64,
}

/// Puts everything that a dump says into `engine`, in transactions of a few megabytes, and in memory for one
/// of those and one entry. Those that were committed before an error stay.
///
/// Errors: any [`LoadError`].
pub fn load_text(engine: &Engine, input: impl BufRead) -> Result<Loaded, LoadError> {
    let mut text = TextReader::new(input);
    let mut loaded = Loaded::default();
    let mut table = String::new();
    let mut transaction = engine.begin_write()?;
    let mut pending_bytes = 0;
    loop {
        let line = text.line() + 1;
        let refused = |source| LoadError::Line { line, source };
        match text.next()? {
            Item::Table { name, entry_count } => {
                table = name;
                loaded.table_count += 1;
                if entry_count == 0 {
                    // A table is made by its first entry; here there is none to come.
                    let made = transaction.put(&table, b"x", b"");
                    made.and_then(|()| transaction.delete(&table, b"x"))
                        .map_err(refused)?;
                }
            }
            Item::Entry { key, value } => {
                pending_bytes += key.len() + value.len();
                transaction.put(&table, key, value).map_err(refused)?;
            }
            Item::End { entry_count } => {
                transaction.commit()?;
                loaded.entry_count = entry_count;
                return Ok(loaded);
            }
        }
        if pending_bytes >= TRANSACTION_BYTES {
            transaction.commit()?;
            transaction = engine.begin_write()?;
            pending_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_escaped(&mut out, bytes).unwrap();
        out
    }

    fn unescaped(field: &[u8]) -> Result<Vec<u8>, FieldFault> {
        let mut out = Vec::new();
        unescape(field, &mut out).map(|()| out)
    }

    /// Everything that a dump says, or why it is none.
    fn read(text: &[u8]) -> Result<Vec<String>, TextError> {
        let mut reader = TextReader::new(text);
        let mut items = Vec::new();
        loop {
            let item = reader.next()?;
            items.push(format!("{item:?}"));
            if let Item::End { .. } = item {
                return Ok(items);
            }
        }
    }

    fn problem(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn escapes_are_those_of_the_document() {
        assert_eq!(escaped(b""), b"%");
        assert_eq!(escaped(b"%"), b"%25");
        assert_eq!(escaped(b"a b\n\0\x7f\xff~!"), b"a%20b%0a%00%7f%ff~!");
        assert_eq!(unescaped(b"a%2Fb%2f"), Ok(b"a/b/".to_vec()));
    }

    #[test]
    fn bad_fields_are_refused() {
        for field in [&b"a%"[..], b"%4", b"%4g", b"%%", b"%+1"] {
            assert_eq!(unescaped(field), Err(FieldFault::Escape), "{field:?}");
        }
        assert_eq!(unescaped(b"a\r"), Err(FieldFault::Bare(b'\r')));
        assert_eq!(unescaped(b""), Err(FieldFault::Missing));
    }

    #[test]
    fn every_byte_string_comes_back_and_two_are_never_written_alike() {
        proptest!(|(bytes: Vec<u8>)| {
            let text = escaped(&bytes);
            prop_assert!(text.iter().all(|byte| (0x21..=0x7e).contains(byte)));
            prop_assert_eq!(unescaped(&text), Ok(bytes));
        });
    }

    /// A key may be `end` or `table`: what a line is follows from its place.
    #[test]
    fn keys_that_look_like_other_lines_are_entries() {
        let text = "stillfs dump 1\ntable a 2\nend 1\ntable x\nend 2\n";
        let items = read(text.as_bytes()).unwrap();
        assert_eq!(items.len(), 4);
        assert!(items[1].starts_with("Entry"));
    }

    #[test]
    fn a_dump_cut_anywhere_is_refused() {
        let text = b"stillfs dump 1\ntable a 2\nk v\nl %\ntable b 0\nend 2\n";
        read(text).unwrap();
        for bytes in 0..text.len() {
            let error = read(&text[..bytes]).unwrap_err();
            assert!(
                matches!(error, TextError::Truncated { .. }),
                "{bytes}: {error}"
            );
        }
    }

    #[test]
    fn problems_name_the_line() {
        for (text, line) in [
            ("hello\n", "line 1 "),
            ("stillfs dump 2\n", "line 1 "),
            ("stillfs dump 1\nend 1\n", "line 2 "),
            ("stillfs dump 1\ntable a 01\n", "line 2 "),
            ("stillfs dump 1\ntable % 0\n", "line 2 "),
            ("stillfs dump 1\ntable a 2\nx y\n", "line 4,"),
            ("stillfs dump 1\ntable a 2\nx y\nx z\nend 2\n", "line 4 "),
            ("stillfs dump 1\ntable a 1\nx\nend 1\n", "line 3 "),
            ("stillfs dump 1\ntable a 1\nx y z\nend 1\n", "line 3 "),
            ("stillfs dump 1\ntable a 1\nx  y\nend 1\n", "line 3 "),
            ("stillfs dump 1\ntable b 0\ntable a 0\nend 0\n", "line 3 "),
            ("stillfs dump 1\nend 0\nend 0\n", "line 3 "),
            ("stillfs dump 1\n\nend 0\n", "line 2 "),
        ] {
            let problem = problem(text);
            assert!(problem.contains(line), "{text:?}: {problem}");
        }
    }
}
