//! Encryption of a repository: everything that is stored passes through a [`Store`] that seals it.
//!
//! Runs in the process that opens the repository; whoever reads and writes objects does not know of it.
//!
//! ```text
//! key file, passphrase --age--> keys/ring: master keys --+--> name key ----> names of objects (AES-SIV)
//!                                                        +--> object keys -> chunks (ChaCha20-Poly1305)
//! ```
//!
//! * CR1 Nothing of content, names, ids or times is stored in the clear: only sizes, how many objects of
//!   each kind there are, and the id and the making of the repository.
//! * CR2 A chunk is given out only if it was sealed under its key as this chunk of the object of this name,
//!   last or not last. Whatever else lies there is `Damaged`.
//! * CR3 No two objects are sealed with the same key: it is made of a master key, 32 random bytes and the name.
//! * CR4 The ring of keys is replaced in one step, by whoever holds the writer's lock; a writer that opened
//!   the repository with another ring writes nothing.
//! * CR5 Secrets are in no message, no log and no argument of a command, and are wiped from memory where we
//!   keep them.
//!
//! Names are encrypted so that equal names give equal results: looking an object up takes one try, and a
//! listing needs no look into the objects. What that tells, that two names are equal, is nothing in a
//! folder. The name key stays when keys are rotated, or else an object would have a name for each key.
//!
//! Not here: that an old object, or an old ring, was put back in the place of a newer one, or that one was
//! removed, is not found (docs/security.md).
//!
//! [`Store`]: crate::repository::store::Store

mod cipher;
mod keeper;
mod name;
mod ring;
mod sealed_store;
#[cfg(test)]
mod tests;
mod unlock;

pub use keeper::{HolderFacts, KeyFacts, KeyKeeper};
pub use unlock::{KeyFault, NewKeys, Passphrase, Recipient, Unlock};

pub(in crate::repository) use keeper::{FreshRing, create};
pub(in crate::repository) use sealed_store::SealedStore;

/// Newest version of the encryption of a repository.
pub(super) const ENCRYPTION_VERSION: u32 = 1;
/// The folder of keys. What is in it is wrapped by age and not sealed once more.
pub(super) const FOLDER: &str = "keys";
