//! Inline commands: a line of words, quoted as in the Redis command line.

use bytes::Bytes;

use super::ProtocolError;

/// Splits a line, which includes its end, into words.
///
/// `"..."` knows `\n \r \t \b \a \xHH` and `\` before any other byte; `'...'` knows `\'` only.
/// A closing quote must end its word. Errors: `UnbalancedQuotes`.
pub(super) fn split(line: &[u8]) -> Result<Vec<Bytes>, ProtocolError> {
    let mut rest = line.iter().copied().peekable();
    let mut words = Vec::new();
    loop {
        while rest.next_if(u8::is_ascii_whitespace).is_some() {}
        if rest.peek().is_none() {
            return Ok(words);
        }
        let mut word = Vec::new();
        loop {
            match rest.next() {
                None => break,
                Some(byte) if byte.is_ascii_whitespace() => break,
                Some(quote @ (b'"' | b'\'')) => {
                    quoted(&mut rest, quote, &mut word)?;
                    if rest.peek().is_some_and(|next| !next.is_ascii_whitespace()) {
                        return Err(ProtocolError::UnbalancedQuotes);
                    }
                }
                Some(byte) => word.push(byte),
            }
        }
        words.push(word.into());
    }
}

type Rest<I> = std::iter::Peekable<I>;

/// Reads up to the closing `quote`.
fn quoted<I: Iterator<Item = u8> + Clone>(
    rest: &mut Rest<I>,
    quote: u8,
    word: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    loop {
        match rest.next().ok_or(ProtocolError::UnbalancedQuotes)? {
            byte if byte == quote => return Ok(()),
            b'\\' if quote == b'"' => word.push(escaped(rest)?),
            b'\\' if rest.peek() == Some(&b'\'') => word.extend(rest.next()),
            byte => word.push(byte),
        }
    }
}

/// The byte that a backslash and what follows it mean between double quotes.
fn escaped<I: Iterator<Item = u8> + Clone>(rest: &mut Rest<I>) -> Result<u8, ProtocolError> {
    let byte = rest.next().ok_or(ProtocolError::UnbalancedQuotes)?;
    if byte == b'x' {
        let mut ahead = rest.clone();
        let mut digit = || char::from(ahead.next()?).to_digit(16);
        if let (Some(high), Some(low)) = (digit(), digit()) {
            *rest = ahead;
            return Ok(u8::try_from(high * 16 + low).expect("two hexadecimal digits fit a byte"));
        }
    }
    Ok(match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    })
}

/// Whether a request is the beginning of an HTTP request, or a header of one.
///
/// A web page can make a browser send such bytes to a loopback port, with commands in the body.
pub(super) fn is_http(words: &[Bytes], inline: bool) -> bool {
    let name = words.first().map_or(&[][..], |word| word);
    let ends_like_http = || {
        let last = words.last().map_or(&[][..], |word| word);
        words.len() >= 3 && last.starts_with(b"HTTP/")
    };
    name.eq_ignore_ascii_case(b"POST")
        || name.eq_ignore_ascii_case(b"HOST:")
        || (inline && ends_like_http())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Vec<Vec<u8>> {
        let words = split(line).unwrap();
        words.into_iter().map(|word| word.to_vec()).collect()
    }

    #[test]
    fn quotes_and_escapes_follow_redis() {
        assert_eq!(words(b"  a \t bc\r\n"), [b"a".to_vec(), b"bc".to_vec()]);
        assert_eq!(
            words(br#"SET "a\x00\xfF\n\q" 'it\'s \n' """#),
            [
                b"SET".to_vec(),
                b"a\0\xff\nq".to_vec(),
                br"it's \n".to_vec(),
                b"".to_vec(),
            ]
        );
        assert_eq!(words(br#""\xg1""#), [b"xg1".to_vec()]);
        assert_eq!(words(b"\r\n"), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn open_quotes_are_refused() {
        for line in [&br#""a"#[..], br#"'a"#, br#""a"b"#, br#""a\"#, b"x'"] {
            assert_eq!(split(line), Err(ProtocolError::UnbalancedQuotes));
        }
    }
}
