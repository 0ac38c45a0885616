//! The words of a statement.

use bytes::Bytes;

use super::Refusal;

/// A statement, as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phrase {
    /// `BACKUP DATABASE TO repository`
    Backup { repository: Bytes },
    /// `BACKUP STATUS`
    Status,
    /// `BACKUP CANCEL`
    Cancel,
    /// `RESTORE DATABASE FROM repository [BACKUP backup] [TO target]`
    Restore {
        repository: Bytes,
        backup: Option<Bytes>,
        target: Option<Bytes>,
    },
}

/// As much of a word as a reply repeats.
const SHOWN_BYTES: usize = 64;
/// More than the name of any backup has.
const NAME_BYTES_MAX: usize = 128;

impl Phrase {
    /// Errors: what is wrong, as a reply.
    pub(super) fn read(words: &[Bytes]) -> Result<Self, Refusal> {
        let (name, rest) = words.split_first().ok_or("ERR syntax error")?;
        match is(name, "restore") {
            true => Self::restore(rest),
            false => Self::backup(rest),
        }
    }

    /// The word that it begins with.
    pub(super) fn statement(&self) -> &'static str {
        match self {
            Self::Backup { .. } | Self::Status | Self::Cancel => "backup",
            Self::Restore { .. } => "restore",
        }
    }

    fn backup(rest: &[Bytes]) -> Result<Self, Refusal> {
        match rest {
            [word] if is(word, "status") => Ok(Self::Status),
            [word] if is(word, "cancel") => Ok(Self::Cancel),
            [word, to, repository] if is(word, "database") && is(to, "to") => Ok(Self::Backup {
                repository: repository.clone(),
            }),
            [] => Err(wrong_count("backup")),
            [word, ..] if is(word, "database") && rest.len() == 3 => {
                Err("ERR syntax error: BACKUP DATABASE TO <repo>".to_owned())
            }
            [word, ..]
                if ["status", "cancel", "database"]
                    .iter()
                    .any(|name| is(word, name)) =>
            {
                Err(wrong_count("backup"))
            }
            [word, ..] => Err(format!(
                "ERR unknown subcommand '{}' of 'backup': it has DATABASE TO <repo>, STATUS and CANCEL",
                shown(word)
            )),
        }
    }

    /// Redis has a command of this name that makes a key of what DUMP gave; there is no DUMP here.
    fn restore(rest: &[Bytes]) -> Result<Self, Refusal> {
        let is_ours = matches!(rest, [word, from, ..] if is(word, "database") && is(from, "from"));
        if !is_ours {
            return Err(
                "ERR RESTORE of a key is not supported; of a backup it is written RESTORE DATABASE \
                 FROM <repo> [BACKUP <id>] [TO <dir>]"
                    .to_owned(),
            );
        }
        let [_, _, repository, options @ ..] = rest else {
            return Err(wrong_count("restore"));
        };
        let (mut backup, mut target) = (None, None);
        for option in options.chunks(2) {
            let place = match option {
                [word, _] if is(word, "backup") => &mut backup,
                [word, _] if is(word, "to") => &mut target,
                _ => &mut None,
            };
            match (place, option) {
                (place @ None, [word, value]) if is(word, "backup") || is(word, "to") => {
                    if is(word, "backup") {
                        refuse_no_name(value)?;
                    }
                    *place = Some(value.clone());
                }
                _ => {
                    return Err(
                        "ERR syntax error: RESTORE DATABASE FROM <repo> [BACKUP <id>] [TO <dir>]"
                            .to_owned(),
                    );
                }
            }
        }
        Ok(Self::Restore {
            repository: repository.clone(),
            backup,
            target,
        })
    }
}

/// Errors: what cannot be the name of a backup, which replies would repeat.
fn refuse_no_name(word: &[u8]) -> Result<(), Refusal> {
    let is_name =
        (1..=NAME_BYTES_MAX).contains(&word.len()) && word.iter().all(u8::is_ascii_graphic);
    match is_name {
        true => Ok(()),
        false => Err(format!("ERR '{}' is no name of a backup", shown(word))),
    }
}

fn wrong_count(name: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{name}' command")
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

/// The beginning of a word, for a reply.
pub(super) fn shown(word: &[u8]) -> String {
    let word = word.get(..SHOWN_BYTES).unwrap_or(word);
    String::from_utf8_lossy(word).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Phrase, Refusal> {
        let words = text
            .split(' ')
            .map(|word| Bytes::copy_from_slice(word.as_bytes()));
        Phrase::read(&words.collect::<Vec<_>>())
    }

    #[test]
    fn statements_are_read_in_any_case_and_order() {
        let repository = Bytes::from("r");
        let wanted = |backup: Option<&'static str>, target: Option<&'static str>| Phrase::Restore {
            repository: Bytes::from("r"),
            backup: backup.map(Bytes::from),
            target: target.map(Bytes::from),
        };
        for (text, phrase) in [
            ("Backup dataBASE to r", Phrase::Backup { repository }),
            ("BACKUP STATUS", Phrase::Status),
            ("backup cancel", Phrase::Cancel),
            ("restore database from r", wanted(None, None)),
            ("RESTORE DATABASE FROM r TO d", wanted(None, Some("d"))),
            (
                "RESTORE DATABASE FROM r to d backup x",
                wanted(Some("x"), Some("d")),
            ),
            (
                "RESTORE DATABASE FROM r BACKUP to",
                wanted(Some("to"), None),
            ),
        ] {
            assert_eq!(read(text), Ok(phrase), "{text}");
        }
    }

    /// ST3. A key of Redis may be called DATABASE, too.
    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for (text, part) in [
            ("BACKUP", "wrong number of arguments for 'backup'"),
            ("BACKUP STATUS now", "wrong number of arguments"),
            ("BACKUP DATABASE TO", "wrong number of arguments"),
            ("BACKUP DATABASE TO a b", "wrong number of arguments"),
            ("BACKUP DATABASE IN a", "syntax error"),
            ("BACKUP x\r\ny", "unknown subcommand 'x\\r\\ny'"),
            ("RESTORE", "of a key is not supported"),
            ("RESTORE key 0 payload", "of a key is not supported"),
            ("RESTORE DATABASE 0 payload", "of a key is not supported"),
            (
                "RESTORE DATABASE FROM",
                "wrong number of arguments for 'restore'",
            ),
            ("RESTORE DATABASE FROM r TO", "syntax error"),
            ("RESTORE DATABASE FROM r AT d", "syntax error"),
            ("RESTORE DATABASE FROM r TO d TO e", "syntax error"),
            ("RESTORE DATABASE FROM r BACKUP d BACKUP d", "syntax error"),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                error.starts_with("ERR ") && error.contains(part),
                "{text}: {error}"
            );
        }
        let long = Phrase::read(&["BACKUP".into(), vec![b'x'; 1 << 20].into()]).unwrap_err();
        assert!(long.len() < 256);
        for name in [&[b'x'; NAME_BYTES_MAX + 1][..], b"", b"a\nb", b"\xff"] {
            let words = ["RESTORE", "DATABASE", "FROM", "r", "BACKUP"].map(Bytes::from);
            let name = Bytes::copy_from_slice(name);
            let refused = Phrase::read(&[&words[..], &[name]].concat()).unwrap_err();
            assert!(refused.contains("no name of a backup"), "{refused}");
            assert!(refused.len() < 256 && !refused.contains('\n'), "{refused}");
        }
    }
}
