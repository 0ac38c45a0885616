//! A repository's objects as those of an object store: S3, or any other that the crate `object_store` knows.
//!
//! Runs in the process that backs up, verifies or restores; requests are made on threads of their own.
//!
//! ```text
//! PREFIX/repository.json, packs/<id>, ...   the objects, under the names that a folder has for them
//! PREFIX/LOCK, LOCK.marks, LOCK.log-<line>  who may write: an owner, a counter, a time to live
//! ```
//!
//! * OS1 An object is put by one request with its whole content, and is there whole or not at all. One that
//!   must be new is put on the condition that there is none.
//! * OS2 Where the answer to such a request was lost, what is there decides: it is ours if it has our bytes.
//!   No request is taken for done whose answer or effect was not seen.
//! * OS3 A read gives every byte asked for, of one version of the object, or fails.
//! * OS4 A lock is taken, renewed, taken over and given up only on the condition that it is as it was last
//!   seen. No two states of it have the same bytes.
//! * OS5 A lock is taken over only after its state was seen unchanged for five quarters of the time to live
//!   that it states, by the clock of whoever takes it. No time of one machine is compared with another's.
//! * OS6 Its owner counts on it for three quarters of that time from the moment at which the last renewal
//!   that was answered was sent. A change is under way only while all locks that this handle holds count; where one
//!   no longer does, the request is dropped, and made again only after a renewal.
//!
//! Assumed of the store: a read finds what was put before it began; conditions hold when several put at
//! once; what it has of a request whose connection was closed takes effect within half the time to live of
//! a lock, or never; clocks of two machines run equally fast, but for a tenth.

mod ahead;
mod bucket_store;
mod connection;
mod fault;
mod lease;
mod lock_object;
mod request;
mod s3;
mod settings;
#[cfg(test)]
mod tests;
mod threads;

pub use bucket_store::BucketStore;
pub use s3::{S3Error, S3Options, connect};
pub use settings::BucketSettings;
