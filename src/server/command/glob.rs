//! Patterns as in KEYS: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`, and `\` before a byte that is meant.
//!
//! A pattern is read once and matched without recursion, in time proportional to the product of
//! both lengths at worst, so that no pattern can hang a thread or overflow its stack.

use std::ops::RangeInclusive;

use super::CommandError;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`
    Run,
    /// `?`
    Any,
    Byte(u8),
    /// `[...]`
    Class {
        is_negated: bool,
        ranges: Vec<RangeInclusive<u8>>,
    },
}

impl Token {
    fn accepts(&self, byte: u8) -> bool {
        match self {
            Self::Run | Self::Any => true,
            Self::Byte(own) => *own == byte,
            Self::Class { is_negated, ranges } => {
                ranges.iter().any(|range| range.contains(&byte)) != *is_negated
            }
        }
    }
}

/// Longest pattern: more than any key needs. Taken apart, it is many times as long.
const PATTERN_BYTES_MAX: usize = 16 << 10;

/// A pattern that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    tokens: Vec<Token>,
    shortest: usize,
}

impl Glob {
    /// Reads a pattern that a client gave. Errors: `PatternLength`.
    pub(super) fn checked(pattern: &[u8]) -> Result<Self, CommandError> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(CommandError::PatternLength {
                found: pattern.len(),
                limit: PATTERN_BYTES_MAX,
            });
        }
        Ok(Self::new(pattern))
    }

    /// Reads a pattern; every pattern has a meaning, as in Redis.
    fn new(pattern: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let [first, tail @ ..] = rest {
            rest = tail;
            let token = match first {
                b'*' => Token::Run,
                b'?' => Token::Any,
                b'[' => class(&mut rest),
                b'\\' => Token::Byte(take(&mut rest).unwrap_or(b'\\')),
                byte => Token::Byte(*byte),
            };
            if token != Token::Run || tokens.last() != Some(&Token::Run) {
                tokens.push(token);
            }
        }
        let shortest = tokens.iter().filter(|&token| *token != Token::Run).count();
        Self { tokens, shortest }
    }

    /// The bytes with which everything that matches begins.
    pub(super) fn prefix(&self) -> Vec<u8> {
        let literal = |token: &Token| match token {
            Token::Byte(byte) => Some(*byte),
            Token::Run | Token::Any | Token::Class { .. } => None,
        };
        self.tokens.iter().map_while(literal).collect()
    }

    /// Whether all of `text` matches.
    pub(super) fn is_match(&self, text: &[u8]) -> bool {
        if text.len() < self.shortest {
            return false;
        }
        let (mut at, mut token) = (0, 0);
        // Where to go on if what follows the last `*` does not fit: the `*` takes one byte more.
        let mut retry: Option<(usize, usize)> = None;
        while let Some(&byte) = text.get(at) {
            match self.tokens.get(token) {
                Some(Token::Run) => {
                    retry = Some((at, token));
                    token += 1;
                }
                Some(own) if own.accepts(byte) => {
                    at += 1;
                    token += 1;
                }
                _ => {
                    let Some((from, run)) = retry else {
                        return false;
                    };
                    retry = Some((from + 1, run));
                    (at, token) = (from + 1, run + 1);
                }
            }
        }
        let mut rest = self.tokens.iter().skip(token);
        rest.all(|token| *token == Token::Run)
    }
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(*first)
}

/// Reads what follows a `[`. A class that does not end ends with the pattern.
fn class(rest: &mut &[u8]) -> Token {
    let is_negated = rest.first() == Some(&b'^');
    if is_negated {
        take(rest);
    }
    let mut ranges = Vec::new();
    while let Some(first) = take(rest) {
        match (first, *rest) {
            (b'\\', [_, ..]) => ranges.extend(take(rest).map(|byte| byte..=byte)),
            (b']', _) => break,
            (low, [b'-', high, tail @ ..]) => {
                *rest = tail;
                ranges.push(low.min(*high)..=low.max(*high));
            }
            (byte, _) => ranges.push(byte..=byte),
        }
    }
    Token::Class { is_negated, ranges }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).is_match(text.as_bytes())
    }

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("**", "x"),
            ("h?llo", "hello"),
            ("h*llo", "heeeello"),
            ("h*llo", "hllo"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-b]llo", "hbllo"),
            ("h[b-a]llo", "hallo"),
            ("*a*b*c", "xxaxxbxxc"),
            ("*aab", "aaaab"),
            (r"\*", "*"),
            (r"h\[llo", "h[llo"),
            (r"[\]]", "]"),
            (r"[\-a]", "-"),
            // A range whose end is the bracket, which therefore closes nothing.
            ("[a-]", "^"),
            ("[a", "a"),
            ("[^", "z"),
            ("a\\", "a\\"),
            ("[a-", "-"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_reject_as_in_redis() {
        for (pattern, text) in [
            ("", "a"),
            ("?", ""),
            ("a", ""),
            ("h?llo", "hllo"),
            ("h[ae]llo", "hillo"),
            ("h[^e]llo", "hello"),
            ("h[a-b]llo", "hcllo"),
            ("*a", "ab"),
            ("a*", "ba"),
            (r"\*", "x"),
            ("[]", "]"),
            ("[]", ""),
            ("[]-a]", "]-a]"),
            ("[a-]", "-"),
            ("A", "a"),
            ("[a", "b"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn every_byte_is_a_byte() {
        assert!(Glob::new(b"\xff?[\x80-\x90]").is_match(b"\xff\0\x85"));
    }

    /// The recursive algorithm takes exponential time here.
    #[test]
    fn many_runs_do_not_explode() {
        let pattern = "*a".repeat(400) + "b";
        assert!(!matches(&pattern, &"a".repeat(1000)));
        assert!(!matches(&"*?".repeat(100_000), &"a".repeat(1000)));
    }

    #[test]
    fn the_prefix_ends_at_the_first_choice() {
        assert_eq!(Glob::new(br"us\*er:*").prefix(), b"us*er:");
        assert_eq!(Glob::new(b"[a]b").prefix(), b"");
        assert_eq!(Glob::new(b"abc").prefix(), b"abc");
    }

    /// Tries every split; obviously right and slow.
    fn slow(tokens: &[Token], text: &[u8]) -> bool {
        match (tokens, text) {
            ([], _) => text.is_empty(),
            ([Token::Run, rest @ ..], _) => (0..=text.len()).any(|cut| slow(rest, &text[cut..])),
            ([token, rest @ ..], [byte, tail @ ..]) => token.accepts(*byte) && slow(rest, tail),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn fast_and_slow_agree(pattern in "[ab*?\\[\\]^\\\\-]{0,8}", text in "[ab]{0,8}") {
            let glob = Glob::new(pattern.as_bytes());
            let expected = slow(&glob.tokens, text.as_bytes());
            prop_assert_eq!(glob.is_match(text.as_bytes()), expected);
            if expected {
                prop_assert!(text.as_bytes().starts_with(&glob.prefix()));
            }
        }
    }
}
