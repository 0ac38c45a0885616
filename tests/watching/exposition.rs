//! Prometheus' text format, read strictly: what a scraper would refuse, and what its guide asks of names.

use std::collections::{BTreeMap, BTreeSet};

/// Samples by the name of their metric: labels, and the value.
pub(crate) type Metrics = BTreeMap<String, Vec<(BTreeMap<String, String>, f64)>>;

/// Units and words that a name ends with.
const ENDS: [&str; 9] = [
    "_seconds", "_bytes", "_ratio", "_alert", "_up", "_held", "_backups", "_pins", "_files",
];

/// Panics with what is wrong.
#[track_caller]
pub(crate) fn parse(text: &str) -> Metrics {
    assert!(text.ends_with('\n'), "the last line has an end");
    let mut metrics = Metrics::new();
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeSet::new());
    let mut at_hand = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(helped.insert(name.to_owned()), "twice: {line}");
            assert!(help.ends_with('.') && is_name(name, true), "{line}");
            at_hand = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(
                rest,
                format!("{at_hand} gauge"),
                "its type follows its help"
            );
            assert!(typed.insert(at_hand.clone()), "twice: {line}");
            let is_known = ENDS.iter().any(|end| at_hand.ends_with(end));
            assert!(
                is_known || at_hand.ends_with("_packs"),
                "no base unit: {at_hand}"
            );
            assert!(at_hand.starts_with("stillfs_"), "{at_hand}");
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, at_hand, "samples stand behind their type: {line}");
            assert!(typed.contains(&name), "{line}");
            let samples = metrics.entry(name).or_default();
            assert!(
                samples.iter().all(|(other, _)| *other != labels),
                "twice: {line}"
            );
            samples.push((labels, value));
        }
    }
    assert_eq!(helped.len(), metrics.len(), "no metric without a sample");
    metrics
}

fn is_name(name: &str, may_have_colon: bool) -> bool {
    let is_good =
        |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (may_have_colon && byte == b':');
    name.bytes().all(is_good) && !name.is_empty() && !name.as_bytes()[0].is_ascii_digit()
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, true), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label, false) && !label.starts_with("__"), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
    assert!(value.is_finite() && value >= 0.0, "{line}");
    (name.to_owned(), labels, value)
}

/// The text up to the quote, and what is behind that.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, same @ ('\\' | '"'))) => value.push(same),
                other => panic!("escaped {other:?}: {text}"),
            },
            letter => value.push(letter),
        }
    }
    panic!("no end: {text}")
}
