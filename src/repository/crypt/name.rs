//! Names of objects, encrypted: `folder/name` becomes `folder/<letters and digits>`.
//!
//! The name is filled up with zeros to a multiple of 16 bytes and encrypted with AES-SIV (RFC 5297), the
//! folder being authenticated with it; the synthetic IV and the ciphertext are written in base 32, which
//! disks that know no difference between `a` and `A` keep apart, too.
#![deny(clippy::indexing_slicing)]

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use zeroize::Zeroizing;

/// The longest name (without its folder): what it becomes must be a name of a file system.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// Names are filled up to a multiple of this, so that their length says little.
const PADDING_BYTES: usize = 16;
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Encrypts and decrypts names.
pub(super) struct NameCipher(Zeroizing<[u8; 64]>);

impl NameCipher {
    pub(super) fn new(secret: Zeroizing<[u8; 64]>) -> Self {
        Self(secret)
    }

    fn siv(&self) -> Aes256Siv {
        Aes256Siv::new((&*self.0).into())
    }

    /// What `name` is called in `folder`; none of one that is too long.
    pub(super) fn seal(&self, folder: &str, name: &str) -> Option<String> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let mut padded = name.as_bytes().to_vec();
        padded.resize(name.len().next_multiple_of(PADDING_BYTES), 0);
        let sealed = self.siv().encrypt([folder.as_bytes()], &padded);
        Some(encode(&sealed.ok()?))
    }

    /// The name that is called `sealed` in `folder`; none if nobody with the key has given it.
    pub(super) fn open(&self, folder: &str, sealed: &str) -> Option<String> {
        if sealed.len() > 8 * (NAME_BYTES_MAX + 16).div_ceil(5) {
            return None;
        }
        let padded = self
            .siv()
            .decrypt([folder.as_bytes()], &decode(sealed)?)
            .ok()?;
        let text = std::str::from_utf8(&padded).ok()?;
        Some(text.trim_end_matches('\0').to_owned())
    }
}

/// Base 32 without filling: 5 bits a digit, the high ones first.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut held, mut bits) = (0_u32, 0);
    let mut push = |digit: u32| {
        let digit = DIGITS.get((digit & 31) as usize);
        out.push(char::from(*digit.expect("five bits")));
    };
    for byte in bytes {
        held = (held << 8 | u32::from(*byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(held >> bits);
        }
    }
    if bits > 0 {
        push(held << (5 - bits));
    }
    out
}

/// What [`encode`] makes this of; none if it makes it of nothing.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'a'..=b'z' => byte - b'a',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        held = (held << 5 | u32::from(digit)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    let left = held & ((1 << bits) - 1);
    (bits < 5 && left == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher() -> NameCipher {
        NameCipher::new(Zeroizing::new([7; 64]))
    }

    /// RFC 4648, section 10.
    #[test]
    fn base_32_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        // Bits behind the last byte must be zeros, or two texts would be one name.
        for text in ["mz", "m", "mzx", "MY", "m=", "m1"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    /// CR1, CR2: names come back, fit a file system, and every changed one is told.
    #[test]
    fn name_comes_back_and_no_other_does() {
        let cipher = cipher();
        let longest = "x".repeat(NAME_BYTES_MAX);
        for name in ["a", "20261120T190729Z-1f3a5c7e", longest.as_str()] {
            let sealed = cipher.seal("packs", name).unwrap();
            assert_eq!(cipher.seal("packs", name).as_deref(), Some(&*sealed));
            assert!(sealed.len() <= 255, "{}", sealed.len());
            assert!(!sealed.contains(name) || name == "a");
            assert_eq!(cipher.open("packs", &sealed).as_deref(), Some(name));
            assert_eq!(cipher.open("marks", &sealed), None);
            for at in 0..sealed.len() {
                let mut other = sealed.clone().into_bytes();
                other[at] = if other[at] == b'q' { b'a' } else { b'q' };
                let other = String::from_utf8(other).unwrap();
                assert_eq!(cipher.open("packs", &other), None);
                assert_eq!(cipher.open("packs", &sealed[..at]), None);
            }
        }
        assert_eq!(cipher.seal("packs", &format!("{longest}x")), None);
        assert_eq!(cipher.seal("packs", ""), None);
    }
}
