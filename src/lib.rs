//! stillfs: look at a running database as a folder of still files.

pub mod codec;
pub mod id;
pub mod lsn;
pub mod page;

pub mod os;

pub mod engine;

pub mod view;
