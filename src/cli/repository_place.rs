//! Where a repository is: a folder, or a bucket.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser, ValueParserFactory};

use crate::cli::nesting;
use crate::cli::output;

/// What the name of a bucket begins with.
const S3: &str = "s3://";
const BUCKET_BYTES_MAX: usize = 255;

/// Where a repository is, as people write it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RepositoryPlace {
    /// A directory.
    Folder(PathBuf),
    /// `s3://BUCKET/PREFIX`.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What the names of all objects begin with; may be empty.
        prefix: String,
    },
}

impl RepositoryPlace {
    /// Errors: what to write instead.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let Some(text) = text.to_str().filter(|text| text.starts_with(S3)) else {
            return match text.to_string_lossy().split_once("://") {
                Some((scheme, _)) if is_scheme(scheme) => Err(format!(
                    "{scheme}:// is not known: write a directory, or s3://BUCKET/PREFIX (./{scheme}:// for a directory of that name)"
                )),
                _ => Ok(Self::Folder(text.into())),
            };
        };
        let rest = text.get(S3.len()..).unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_bucket = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_part = |part: &str| {
            let is_plain = !part.chars().any(|c| c.is_control() || "?#\\%".contains(c));
            is_plain && !["", ".", ".."].contains(&part)
        };
        let ends = [bucket.bytes().next(), bucket.bytes().last()];
        let has_ends = ends
            .iter()
            .all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()));
        if !has_ends || bucket.len() > BUCKET_BYTES_MAX || !bucket.bytes().all(is_bucket) {
            return Err("write s3://BUCKET/PREFIX, with the name of a bucket".to_owned());
        }
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err("write s3://BUCKET/PREFIX, as s3://backups/hosts/app".to_owned());
        }
        Ok(Self::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// The same without links and dots.
    pub(crate) fn real(&self) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(nesting::real(path)),
            bucket => bucket.clone(),
        }
    }

    /// The directory, if it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Bucket { .. } => None,
        }
    }

    /// Whether it is or lies in `outer`, or the other way round.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder(one), Self::Folder(other)) => {
                nesting::place_in(one, other).is_some() || nesting::place_in(other, one).is_some()
            }
            (
                Self::Bucket { bucket, prefix },
                Self::Bucket {
                    bucket: other,
                    prefix: other_prefix,
                },
            ) => {
                let is_in = |inner: &str, outer: &str| {
                    let rest = inner.strip_prefix(outer);
                    outer.is_empty()
                        || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                bucket == other && (is_in(prefix, other_prefix) || is_in(other_prefix, prefix))
            }
            _ => false,
        }
    }

    /// As it stands on a command line.
    pub(crate) fn word(&self) -> OsString {
        match self {
            Self::Folder(path) => path.as_os_str().to_owned(),
            bucket => bucket.text().into(),
        }
    }

    /// As it is kept in reports.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Folder(path) => path.to_string_lossy().into_owned(),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => format!("{S3}{bucket}"),
            Self::Bucket { bucket, prefix } => format!("{S3}{bucket}/{prefix}"),
        }
    }
}

/// For people: control characters are written out.
impl fmt::Display for RepositoryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&output::plain(&self.text()))
    }
}

impl ValueParserFactory for RepositoryPlace {
    type Parser = ValueParser;

    fn value_parser() -> ValueParser {
        let parser = OsStringValueParser::new();
        parser.try_map(|text| Self::parse(&text)).into()
    }
}

/// Whether a folder is more likely to be a mistake.
fn is_scheme(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RepositoryPlace, String> {
        RepositoryPlace::parse(text.as_ref())
    }

    #[test]
    fn buckets_are_told_from_folders_and_from_mistakes() {
        let folders = ["/backup/app", "s3", "s3:/b", "a b", "./s3://x", "/a://b"];
        for text in folders {
            assert_eq!(parse(text), Ok(RepositoryPlace::Folder(text.into())));
        }
        for (text, bucket, prefix) in [
            ("s3://b", "b", ""),
            ("s3://b/", "b", ""),
            ("s3://my-b.x/a/b c/", "my-b.x", "a/b c"),
        ] {
            let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
            let place = RepositoryPlace::Bucket { bucket, prefix };
            assert_eq!(parse(text), Ok(place.clone()), "{text}");
            assert_eq!(parse(&place.text()), Ok(place));
        }
        let wrong = [
            "s3://",
            "s3:///a",
            "s3://b//a",
            "s3://b/../a",
            "s3://b c/a",
            "s3://b/a?x",
            "gs://b/a",
            "https://b/a",
            "s3://b/a\n",
            "S3://b/a",
            "s3://../a",
            "s3://-b/a",
        ];
        for text in wrong {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn buckets_overlap_where_one_prefix_is_in_the_other() {
        let overlap = |one, other| {
            let (one, other) = (parse(one).unwrap(), parse(other).unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(overlap("s3://b/a", "s3://b/a/"));
        assert!(overlap("s3://b", "s3://b/a"));
        assert!(overlap("s3://b/a", "s3://b/a/c"));
        assert!(!overlap("s3://b/a", "s3://b/ab"));
        assert!(!overlap("s3://b/a", "s3://c/a"));
        assert!(!overlap("s3://b/a", "/b/a"));
    }
}
