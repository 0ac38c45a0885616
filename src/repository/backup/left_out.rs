//! What was left out, as far as a manifest has room for it.

use crate::repository::manifest::LeftOutFact;

/// So many that were left out on purpose are named, and as many others.
const NAMED_MAX: usize = 10_000;
/// Bytes of what is said of each of the two. Written as JSON it is six times as much at most.
const BYTES_MAX: usize = 4 << 20;
/// In place of the path of what is only counted.
const OTHERS: &str = "...";

/// The first of `facts`, and one fact more that says how many others there are, where there are.
pub(super) fn bounded(facts: Vec<LeftOutFact>) -> Vec<LeftOutFact> {
    let mut kept = Vec::new();
    let mut wanted = Kind::default();
    let mut unwanted = Kind::default();
    for fact in facts {
        let kind = match fact.is_wanted {
            true => &mut wanted,
            false => &mut unwanted,
        };
        kept.extend(kind.has_room(&fact).then_some(fact));
    }
    for (kind, is_wanted) in [(wanted, true), (unwanted, false)] {
        kept.extend((kind.others > 0).then(|| LeftOutFact {
            path: OTHERS.to_owned(),
            reason: format!("{} more are not named", kind.others),
            is_wanted,
        }));
    }
    kept
}

#[derive(Default)]
struct Kind {
    named: usize,
    bytes: usize,
    others: u64,
}

impl Kind {
    /// Whether `fact` is named; it is counted in any case.
    fn has_room(&mut self, fact: &LeftOutFact) -> bool {
        let bytes = self
            .bytes
            .saturating_add(fact.path.len() + fact.reason.len());
        let has_room = self.others == 0 && self.named < NAMED_MAX && bytes <= BYTES_MAX;
        match has_room {
            true => (self.named, self.bytes) = (self.named + 1, bytes),
            false => self.others += 1,
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(path: String, is_wanted: bool) -> LeftOutFact {
        LeftOutFact {
            path,
            reason: "excluded".to_owned(),
            is_wanted,
        }
    }

    #[test]
    fn first_are_named_and_the_others_are_counted_each_kind_apart() {
        let mut facts: Vec<_> = (0..10_003).map(|n| fact(n.to_string(), true)).collect();
        facts.extend((0..5).map(|n| fact(n.to_string(), false)));
        let kept = bounded(facts.clone());
        assert_eq!(kept.len(), 10_006);
        assert_eq!(kept[..10_000], facts[..10_000]);
        assert_eq!(kept[10_000..10_005], facts[10_003..]);
        let last = kept.last().unwrap();
        assert_eq!(last.reason, "3 more are not named");
        assert!(last.is_wanted);
        let few = facts.split_off(10_000);
        assert_eq!(bounded(few.clone()), few);
    }

    /// BK5: however much is left out, and however long its names are, the facts can be written.
    #[test]
    fn facts_of_the_longest_names_have_room() {
        let name = "\u{1}".repeat(4096);
        let facts = (0..12_000)
            .map(|n| fact(name.clone(), n % 2 == 0))
            .collect();
        let text = serde_json::to_vec(&bounded(facts)).unwrap();
        assert!(text.len() < 60 << 20, "{}", text.len());
    }
}
