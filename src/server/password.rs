//! The one password of a server.

use std::fmt;

use sha2::{Digest, Sha256};

use super::border::{Access, AccessDecision};

/// Longest password, in bytes: what a client may say before it is known.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// The only user that there is.
const USER: &[u8] = b"default";

/// A password that every client must give. Only its digest is kept.
///
/// What is compared is digests, all of their bytes: the time that it takes tells nothing of how much
/// of a guess is right.
#[derive(Clone)]
pub struct Password {
    digest: [u8; 32],
}

impl Password {
    /// The password itself, as bytes.
    #[must_use]
    pub fn new(password: &[u8]) -> Self {
        Self {
            digest: Sha256::digest(password).into(),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(not shown)")
    }
}

impl Access for Password {
    fn is_required(&self) -> bool {
        true
    }

    fn authenticate(&self, user: &[u8], password: &[u8]) -> AccessDecision {
        let guess: [u8; 32] = Sha256::digest(password).into();
        let pairs = self.digest.iter().zip(guess);
        let difference = pairs.fold(0, |sum, (own, guess)| sum | (own ^ guess));
        let is_right = std::hint::black_box(difference) == 0;
        if is_right && user == USER {
            AccessDecision::Granted
        } else {
            AccessDecision::Denied
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G3: nothing but all of it, and nothing of it in what is printed.
    #[test]
    fn the_whole_password_and_the_one_user_are_right() {
        let password = Password::new(b"se\0cret");
        assert!(password.is_required());
        assert_eq!(
            password.authenticate(b"default", b"se\0cret"),
            AccessDecision::Granted
        );
        for (user, guess) in [
            (&b"default"[..], &b""[..]),
            (b"default", b"se"),
            (b"default", b"se\0cret\n"),
            (b"Default", b"se\0cret"),
            (b"", b"se\0cret"),
        ] {
            let decision = password.authenticate(user, guess);
            assert_eq!(decision, AccessDecision::Denied);
        }
        assert_eq!(format!("{password:?}"), "Password(not shown)");
    }
}
