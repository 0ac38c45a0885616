//! The words after `-o`.

use std::str::FromStr;

pub use crate::os::mounting::Execution;

/// Who may look into a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Only the user who mounted.
    #[default]
    Owner,
    /// Every user, as far as the modes of the files allow; always with `default_permissions`.
    Everybody,
}

/// Whether the kernel compares modes with the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permissions {
    /// No: the only user who gets in may read everything.
    #[default]
    Unchecked,
    /// Yes (`default_permissions`).
    Checked,
}

/// How file content passes through the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache, with read-ahead: best for most tools, necessary for small reads.
    #[default]
    PageCache,
    /// Past it (`direct_io`): faster for tools that read 128 KiB and more at a time.
    Direct,
}

/// How a tree is mounted. Every mount is also read-only, nosuid and nodev.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountOptions {
    /// Who may look.
    pub audience: Audience,
    /// Whether modes are compared; always when everybody may look.
    pub permissions: Permissions,
    /// How content is cached.
    pub caching: Caching,
    /// Whether files may be executed.
    pub execution: Execution,
}

/// A word after `-o` that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option '{name}' (known: {})", KNOWN.join(", "))]
    Unknown {
        /// The word, without its value.
        name: String,
    },
    /// An option that contradicts what every mount of stillfs is.
    #[error("mount option '{name}' is refused: {why}")]
    Refused {
        /// The word.
        name: &'static str,
        /// What every mount is instead.
        why: &'static str,
    },
    /// A value for an option that takes none.
    #[error("mount option '{name}' takes no value, but got '{value}'")]
    UnexpectedValue {
        /// The option.
        name: String,
        /// Its value.
        value: String,
    },
}

/// Options worth naming to a user; the words of fstab are accepted too.
pub const KNOWN: [&str; 8] = [
    "allow_other",
    "default_permissions",
    "direct_io",
    "noexec",
    "ro",
    "noatime",
    "nodev",
    "nosuid",
];

impl MountOptions {
    /// Follows a comma-separated list of options, in addition to what is set already.
    ///
    /// Errors: the first word that is unknown, refused or has a value; `self` is then unchanged.
    pub fn apply(&mut self, list: &str) -> Result<(), OptionError> {
        let mut options = *self;
        for word in list.split(',').filter(|word| !word.is_empty()) {
            options.apply_word(word)?;
        }
        *self = options;
        Ok(())
    }

    fn apply_word(&mut self, word: &str) -> Result<(), OptionError> {
        // Comments of fstab belong to other programs, values included.
        if word.starts_with("x-") || word.starts_with("X-") {
            return Ok(());
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let refused = |name, why| Err(OptionError::Refused { name, why });
        match name {
            "allow_other" => {
                self.audience = Audience::Everybody;
                self.permissions = Permissions::Checked;
            }
            "default_permissions" => self.permissions = Permissions::Checked,
            "direct_io" => self.caching = Caching::Direct,
            "noexec" => self.execution = Execution::Refused,
            "exec" => self.execution = Execution::Allowed,
            "ro" | "noatime" | "nodev" | "nosuid" => {}
            "defaults" | "auto" | "noauto" | "nofail" | "user" | "users" | "_netdev" => {}
            "rw" => return refused("rw", "a view is read-only"),
            "suid" => return refused("suid", "a view is always nosuid"),
            "dev" => return refused("dev", "a view is always nodev"),
            "auto_unmount" => {
                return refused(
                    "auto_unmount",
                    "if the daemon dies an error is better than an empty directory",
                );
            }
            unknown => {
                let name = unknown.to_owned();
                return Err(OptionError::Unknown { name });
            }
        }
        match value {
            None => Ok(()),
            Some(value) => Err(OptionError::UnexpectedValue {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
        }
    }
}

impl FromStr for MountOptions {
    type Err = OptionError;

    fn from_str(list: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        options.apply(list)?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letting others in without comparing modes would show them everything that root may read.
    #[test]
    fn allow_other_always_compares_modes() {
        let options: MountOptions = "allow_other".parse().unwrap();
        assert_eq!(options.audience, Audience::Everybody);
        assert_eq!(options.permissions, Permissions::Checked);
        assert_eq!(options.caching, Caching::PageCache);
    }

    #[test]
    fn words_that_every_mount_is_anyway_change_nothing() {
        let options: MountOptions =
            "ro,noatime,nodev,nosuid,_netdev,noauto,x-systemd.idle-timeout=5,"
                .parse()
                .unwrap();
        assert_eq!(options, MountOptions::default());
        assert_eq!("".parse(), Ok(MountOptions::default()));
    }

    #[test]
    fn an_unknown_option_is_rejected_by_name_and_changes_nothing() {
        let mut options = MountOptions::default();
        let error = options.apply("direct_io,alow_other=1").unwrap_err();
        assert_eq!(
            error,
            OptionError::Unknown {
                name: "alow_other".to_owned()
            }
        );
        assert!(error.to_string().contains("alow_other"), "{error}");
        assert_eq!(options, MountOptions::default());
    }

    #[test]
    fn options_that_contradict_a_view_are_refused_with_the_reason() {
        for word in ["rw", "suid", "dev", "auto_unmount"] {
            let error = word.parse::<MountOptions>().unwrap_err();
            assert!(
                matches!(error, OptionError::Refused { name, .. } if name == word),
                "{error}"
            );
        }
    }

    #[test]
    fn a_value_is_refused_where_none_is_taken() {
        let error = "direct_io=no".parse::<MountOptions>().unwrap_err();
        assert_eq!(
            error,
            OptionError::UnexpectedValue {
                name: "direct_io".to_owned(),
                value: "no".to_owned()
            }
        );
    }

    #[test]
    fn several_lists_add_up() {
        let mut options: MountOptions = "allow_other".parse().unwrap();
        options.apply("direct_io,noexec").unwrap();
        assert_eq!(options.audience, Audience::Everybody);
        assert_eq!(options.caching, Caching::Direct);
        assert_eq!(options.execution, Execution::Refused);
    }
}
