//! The rules, applied to what is known of the backups; nothing is read or removed here.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::repository::backup_id::BackupId;
use crate::repository::manifest::SourceName;
use crate::repository::retention::{Keep, Reason};

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) id: &'a BackupId,
    pub(super) begun_ns: u64,
    pub(super) source: &'a SourceName,
    pub(super) is_held: bool,
}

/// For each of `candidates`, in their order, why it stays; those without a reason go.
///
/// Each source has its own count. A rule takes the newest of a period, and periods without a backup are
/// not counted. Source: restic, `internal/data/snapshot_policy.go`, but for its exception for the oldest.
pub(super) fn reasons(keep: &Keep, candidates: &[Candidate<'_>]) -> Vec<Vec<Reason>> {
    let mut reasons = vec![Vec::new(); candidates.len()];
    let mut sources: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let SourceName { kind, path, host } = candidate.source;
        sources.entry((kind, path, host)).or_default().push(index);
    }
    for mut members in sources.into_values() {
        members.sort_by_key(|index| {
            let candidate = candidates.get(*index);
            Reverse(candidate.map(|candidate| (candidate.begun_ns, candidate.id)))
        });
        let members = members
            .into_iter()
            .filter_map(|index| Some((index, candidates.get(index)?.begun_ns)));
        let members: Vec<_> = members.collect();
        let mut give = |index: usize, reason| {
            if let Some(reasons) = reasons.get_mut(index) {
                reasons.push(reason);
            }
        };
        for (reason, count, period) in periods(keep) {
            for index in newest_of_each(&members, count, period) {
                give(index, reason);
            }
        }
        let newest_ns = members.first().map_or(0, |(_, begun_ns)| *begun_ns);
        if let Some(within) = keep.within {
            let is_within = |begun_ns: u64| u128::from(newest_ns - begun_ns) <= within.as_nanos();
            let recent = members.iter().take_while(|(_, ns)| is_within(*ns));
            recent.for_each(|(index, _)| give(*index, Reason::Within));
        }
    }
    for (candidate, reasons) in candidates.iter().zip(&mut reasons) {
        reasons.extend(candidate.is_held.then_some(Reason::Held));
    }
    reasons
}

/// Maps a moment to the number of its period.
type Period = fn(u64) -> u64;

fn periods(keep: &Keep) -> [(Reason, u32, Option<Period>); 5] {
    [
        (Reason::Last, keep.last, None),
        (Reason::Hourly, keep.hourly, Some(hour)),
        (Reason::Daily, keep.daily, Some(day)),
        (Reason::Weekly, keep.weekly, Some(week)),
        (Reason::Monthly, keep.monthly, Some(month)),
    ]
}

/// The first member of each of the first `count` periods; `members` are newest first. Without a period
/// every member is one by itself.
fn newest_of_each(
    members: &[(usize, u64)],
    count: u32,
    period: Option<Period>,
) -> impl Iterator<Item = usize> {
    let mut before = None;
    let firsts = members.iter().filter(move |(_, begun_ns)| {
        let this = period.map(|period| period(*begun_ns));
        let is_first = this.is_none() || this != before;
        before = this;
        is_first
    });
    firsts.take(count as usize).map(|(index, _)| *index)
}

const HOUR_NS: u64 = 60 * 60 * 1_000_000_000;

fn hour(ns: u64) -> u64 {
    ns / HOUR_NS
}

fn day(ns: u64) -> u64 {
    ns / (24 * HOUR_NS)
}

/// 1970 began on a Thursday, three days after a Monday.
fn week(ns: u64) -> u64 {
    (day(ns) + 3) / 7
}

fn month(ns: u64) -> u64 {
    let at = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    // Neither is negative: nothing is before 1970.
    u64::from(at.year().unsigned_abs()) * 12 + u64::from(at.month().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START_NS: u64 = 1_767_225_600_000_000_000;

    fn ns_of(text: &str) -> u64 {
        let at: jiff::Timestamp = text.parse().unwrap();
        u64::try_from(at.as_nanosecond()).unwrap()
    }

    fn source(number: u8) -> SourceName {
        let text = |what| format!("{what}{number}");
        SourceName {
            kind: text("kind"),
            path: text("/path"),
            host: text("host"),
        }
    }

    /// The indices of what stays of backups that began at `moments`, all of one source.
    fn kept(keep: &Keep, moments: &[&str]) -> Vec<usize> {
        let source = source(0);
        let moments: Vec<_> = moments.iter().map(|text| ns_of(text)).collect();
        let ids: Vec<_> = moments
            .iter()
            .map(|ns| BackupId::new(*ns, [0; 4]))
            .collect();
        let candidates: Vec<_> = ids
            .iter()
            .zip(&moments)
            .map(|(id, begun_ns)| Candidate {
                id,
                begun_ns: *begun_ns,
                source: &source,
                is_held: false,
            })
            .collect();
        let reasons = reasons(keep, &candidates);
        let kept = reasons
            .iter()
            .enumerate()
            .filter(|(_, why)| !why.is_empty());
        kept.map(|(index, _)| index).collect()
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first() {
        // 2026-11-16 was a Monday.
        let moments = [
            "2026-10-31T23:59:59Z",
            "2026-11-01T00:00:00Z",
            "2026-11-15T23:59:59Z",
            "2026-11-16T00:00:00Z",
            "2026-11-22T23:59:59Z",
        ];
        let weekly = Keep {
            weekly: 2,
            ..Keep::default()
        };
        assert_eq!(kept(&weekly, &moments), [2, 4]);
        let monthly = Keep {
            monthly: 9,
            ..Keep::default()
        };
        assert_eq!(kept(&monthly, &moments), [0, 4]);
    }

    #[test]
    fn periods_without_a_backup_are_not_counted() {
        let moments = [
            "2026-01-01T10:00:00Z",
            "2026-01-01T20:00:00Z",
            "2026-03-07T01:00:00Z",
            "2026-11-20T05:10:00Z",
            "2026-11-20T05:50:00Z",
        ];
        let daily = Keep {
            daily: 3,
            ..Keep::default()
        };
        assert_eq!(kept(&daily, &moments), [1, 2, 4]);
        let hourly = Keep {
            hourly: 2,
            ..Keep::default()
        };
        assert_eq!(kept(&hourly, &moments), [2, 4]);
    }

    #[test]
    fn within_is_counted_from_the_newest_and_includes_its_end() {
        let moments = [
            "2026-11-18T23:59:59Z",
            "2026-11-19T00:00:00Z",
            "2026-11-20T00:00:00Z",
        ];
        let within = |seconds| Keep {
            within: Some(Duration::from_secs(seconds)),
            ..Keep::default()
        };
        assert_eq!(kept(&within(86_400), &moments), [1, 2]);
        assert_eq!(kept(&within(0), &moments), [2]);
        assert_eq!(kept(&within(u64::MAX), &moments), [0, 1, 2]);
    }

    /// One backup of a random history.
    #[derive(Clone, Debug)]
    struct Drawn {
        id: BackupId,
        begun_ns: u64,
        source: SourceName,
        is_held: bool,
    }

    fn drawn() -> impl Strategy<Value = Drawn> {
        // Moments on a coarse grid, so that many share an hour, a day, or all of it.
        let minutes = prop_oneof![
            0_u64..240,
            (0_u64..40).prop_map(|n| n * 720),
            0_u64..400_000
        ];
        (
            minutes,
            0_u8..3,
            any::<[u8; 4]>(),
            prop::bool::weighted(0.1),
        )
            .prop_map(|(minutes, number, random, is_held)| {
                let begun_ns = START_NS + minutes * 60_000_000_000;
                Drawn {
                    id: BackupId::new(begun_ns, random),
                    begun_ns,
                    source: source(number),
                    is_held,
                }
            })
    }

    fn keep() -> impl Strategy<Value = Keep> {
        let within = prop::option::of((0_u64..500_000).prop_map(|m| Duration::from_secs(m * 60)));
        ([0_u32..5, 0..5, 0..5, 0..5, 0..5], within).prop_map(
            |([last, hourly, daily, weekly, monthly], within)| Keep {
                last,
                hourly,
                daily,
                weekly,
                monthly,
                within,
            },
        )
    }

    /// The texts that name the hour, day, week and month of a moment.
    fn period_names(ns: u64) -> [String; 5] {
        let at = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap();
        let at = at.to_zoned(jiff::tz::TimeZone::UTC);
        let name = |form: &str| at.strftime(form).to_string();
        let id = ns.to_string();
        [
            id,
            name("%Y-%m-%dT%H"),
            name("%Y-%m-%d"),
            name("%G-W%V"),
            name("%Y-%m"),
        ]
    }

    /// Why `one` stays, by the words of [`Keep`]: the periods of its source as texts, the newest so many.
    fn model(keep: &Keep, all: &[Drawn], one: &Drawn) -> Vec<Reason> {
        let mut family: Vec<_> = all.iter().filter(|b| b.source == one.source).collect();
        family.sort_by_key(|b| (b.begun_ns, b.id.clone()));
        let position = family.iter().position(|b| b.id == one.id).unwrap();
        let mut reasons = Vec::new();
        if family.len() - position <= keep.last as usize {
            reasons.push(Reason::Last);
        }
        let rules = [
            (1, keep.hourly, Reason::Hourly),
            (2, keep.daily, Reason::Daily),
            (3, keep.weekly, Reason::Weekly),
            (4, keep.monthly, Reason::Monthly),
        ];
        for (form, count, reason) in rules {
            let name = |b: &Drawn| period_names(b.begun_ns)[form].clone();
            let names: BTreeSet<_> = family.iter().map(|b| name(b)).collect();
            let later = names.iter().filter(|other| **other > name(one)).count();
            let is_newest = family[position + 1..].iter().all(|b| name(b) != name(one));
            if later < count as usize && is_newest {
                reasons.push(reason);
            }
        }
        let newest_ns = family.last().unwrap().begun_ns;
        if keep
            .within
            .is_some_and(|d| Duration::from_nanos(newest_ns - one.begun_ns) <= d)
        {
            reasons.push(Reason::Within);
        }
        reasons.extend(one.is_held.then_some(Reason::Held));
        reasons
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rules_keep_what_their_words_say(
            keep in keep(),
            mut all in prop::collection::vec(drawn(), 0..25),
        ) {
            all.sort_by_key(|b| b.id.clone());
            all.dedup_by_key(|b| b.id.clone());
            let candidates: Vec<_> = all
                .iter()
                .map(|b| Candidate {
                    id: &b.id,
                    begun_ns: b.begun_ns,
                    source: &b.source,
                    is_held: b.is_held,
                })
                .collect();
            let expected: Vec<_> = all.iter().map(|one| model(&keep, &all, one)).collect();
            prop_assert_eq!(reasons(&keep, &candidates), expected);
        }
    }
}
