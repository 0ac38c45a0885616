//! Just enough of Rust's grammar: tokens without comments and literals, functions, test code.

use std::ops::RangeInclusive;

/// An identifier, a number, `::`, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// As it stands in the file.
    pub(crate) text: String,
    /// 1-based.
    pub(crate) line: usize,
}

/// A function that has a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// Where `fn` stands, 1-based.
    pub(crate) line: usize,
    /// From `fn` to the closing brace, both included.
    pub(crate) line_count: usize,
}

/// The tokens of `text`; whatever stands in comments, strings and characters is left out.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let code = blank(text);
    let bytes = code.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let length = match bytes[at] {
            byte if is_word(byte) => bytes[at..].iter().take_while(|b| is_word(**b)).count(),
            b':' if bytes.get(at + 1) == Some(&b':') => 2,
            _ => 1,
        };
        let text = String::from_utf8_lossy(&bytes[at..at + length]).into_owned();
        if text == "\n" {
            line += 1;
        } else if !bytes[at].is_ascii_whitespace() {
            tokens.push(Token { text, line });
        }
        at += length;
    }
    tokens
}

/// The text of token `index`, or nothing past the end.
pub(crate) fn text_at(tokens: &[Token], index: usize) -> &str {
    tokens.get(index).map_or("", |token| token.text.as_str())
}

/// The text of the token before `index`, or nothing at the start.
pub(crate) fn text_before(tokens: &[Token], index: usize) -> &str {
    index.checked_sub(1).map_or("", |at| text_at(tokens, at))
}

/// Whether `texts` stand at `index`.
pub(crate) fn follows(tokens: &[Token], index: usize, texts: &[&str]) -> bool {
    (index..)
        .zip(texts)
        .all(|(at, text)| text_at(tokens, at) == *text)
}

/// Every function with a body, nested ones too.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let starts = (0..tokens.len()).filter(|at| text_at(tokens, *at) == "fn");
    starts
        .filter_map(|start| {
            let name = text_at(tokens, start + 1);
            // `fn(u64)` is a type.
            let is_named = name.bytes().next().is_some_and(is_word);
            let end = is_named.then(|| item_end(tokens, start))?;
            (text_at(tokens, end) == "}").then(|| Function {
                name: name.to_owned(),
                line: tokens[start].line,
                line_count: tokens[end].line - tokens[start].line + 1,
            })
        })
        .collect()
}

/// The lines that only a test build compiles: items under `#[cfg(test)]`, or the whole file.
pub(crate) fn test_lines(tokens: &[Token]) -> Vec<RangeInclusive<usize>> {
    let mut found = Vec::new();
    for start in (0..tokens.len()).filter(|at| text_at(tokens, *at) == "#") {
        if is_test_attribute(tokens, start + 2) && text_at(tokens, start + 1) == "!" {
            return vec![1..=usize::MAX];
        }
        if is_test_attribute(tokens, start + 1) {
            let end = item_end(tokens, item_start(tokens, start));
            let last = tokens.get(end).map_or(usize::MAX, |token| token.line);
            found.push(tokens[start].line..=last);
        }
    }
    found
}

/// The modules that a file declares as `#[cfg(test)] mod name;`.
pub(crate) fn test_modules(tokens: &[Token]) -> Vec<String> {
    (0..tokens.len())
        .filter(|at| text_at(tokens, *at) == "#" && is_test_attribute(tokens, at + 1))
        .filter_map(|at| {
            let item = item_start(tokens, at);
            let end = item_end(tokens, item);
            let module = (item..end).find(|at| text_at(tokens, *at) == "mod")?;
            (text_at(tokens, end) == ";").then(|| text_at(tokens, module + 1).to_owned())
        })
        .collect()
}

/// Where the item starts whose first attribute starts at `at`: after all of its attributes.
fn item_start(tokens: &[Token], mut at: usize) -> usize {
    while follows(tokens, at, &["#", "["]) {
        at = closing(tokens, at + 1) + 1;
    }
    at
}

/// The index of the `;` or `}` that ends the item which starts at `at`.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match text_at(tokens, at) {
            ";" => return at,
            "{" => return closing(tokens, at),
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

/// The index of what closes the bracket at `open`, or the end of the file.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for at in open..tokens.len() {
        match text_at(tokens, at) {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// `[cfg(test)]` or `[cfg(all(test ...`; what `any(test, ...)` guards is no test code alone.
fn is_test_attribute(tokens: &[Token], at: usize) -> bool {
    follows(tokens, at, &["[", "cfg", "(", "test", ")"])
        || follows(tokens, at, &["[", "cfg", "(", "all", "(", "test"])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// `text` with comments and the content of literals turned into spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(&bytes, at);
        let hidden = end.unwrap_or(at);
        bytes[at..hidden]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
        at = end.unwrap_or(at + 1);
    }
    String::from_utf8(bytes)
        .expect("whole comments and literals are blanked, never half a character")
}

/// The end of the comment or literal that starts at `at`, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let is_inside_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().take_while(|byte| **byte != b'\n').count()),
        [b'/', b'*', ..] => Some(at + block_comment_length(rest)),
        [b'"', ..] => Some(at + 1 + quoted_length(&rest[1..], b'"')),
        [b'r', ..] if !is_inside_word => Some(at + raw_string_length(rest, 1)?),
        [b'b' | b'c', b'r', ..] if !is_inside_word => Some(at + raw_string_length(rest, 2)?),
        [b'\'', b'\\', ..] => Some(at + 1 + quoted_length(&rest[1..], b'\'')),
        // Anything else behind a quote is a lifetime, unless one character and a quote follow.
        [b'\'', first, ..] => {
            let width = [0x80, 0xe0, 0xf0].iter().filter(|low| first >= low).count();
            let width = if width == 0 { 1 } else { width + 1 };
            (rest.get(1 + width) == Some(&b'\'')).then_some(at + width + 2)
        }
        _ => None,
    }
}

/// Bytes of the block comment at the start of `rest`; such comments nest.
fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Bytes up to and with the closing `quote`; a backslash hides what follows it.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Bytes of the raw string at the start of `rest`, whose `r` ends at `prefix`, if it is one.
fn raw_string_length(rest: &[u8], prefix: usize) -> Option<usize> {
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let start = prefix + hashes + 1;
    (rest.get(start - 1) == Some(&b'"')).then(|| {
        let close: Vec<u8> = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
        let found = rest[start..]
            .windows(close.len())
            .position(|window| window == close);
        found.map_or(rest.len(), |at| start + at + close.len())
    })
}

/// What a comment or a literal says is no code, however it is quoted.
#[test]
fn comments_and_literals_are_no_tokens() {
    let text = r####"a /* b /* c */ d */ e // f
        "g \" h" i r"j\" k r#"l " m"# n br##"o"# p"## 'q' r '\'' s b'\\' t 'é' u &'v w "x
        y" z"####;
    let found: Vec<_> = tokens(text);
    let words: Vec<_> = found.iter().map(|token| token.text.as_str()).collect();
    let expected = [
        "a", "e", "i", "k", "n", "r", "s", "b", "t", "u", "&", "'", "v", "w", "z",
    ];
    assert_eq!(words, expected);
    assert_eq!(found.last().map(|token| token.line), Some(3));
}

#[test]
fn functions_are_measured_from_fn_to_brace() {
    let text = "fn a(f: fn(u8) -> [u8; { 1 }]) {\n  fn b() {}\n}\ntrait T { fn c(&self); }";
    let found = functions(&tokens(text));
    let found: Vec<_> = found
        .iter()
        .map(|f| (f.name.as_str(), f.line, f.line_count))
        .collect();
    assert_eq!(found, [("a", 1, 3), ("b", 2, 1)]);
}

#[test]
fn test_code_is_what_cfg_test_guards() {
    let text = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n\
                #[cfg(any(test, unix))]\nfn d() {}\n#[cfg(test)]\npub(crate) mod e;";
    let found = tokens(text);
    assert_eq!(test_lines(&found), [2..=6, 10..=11]);
    assert_eq!(test_modules(&found), ["e"]);
    assert_eq!(
        test_lines(&tokens("#![cfg(test)]\nfn a() {}")),
        [1..=usize::MAX]
    );
}
