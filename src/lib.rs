//! stillfs: look at a running database as a folder of still files.

pub mod codec;
pub mod id;
pub mod lsn;
pub mod page;

mod fault;

pub mod os;

pub mod engine;
pub mod pin;
pub mod shadow;

pub mod view;

pub mod database;

pub mod mount;
pub mod server;
pub mod source;

pub mod cli;

pub use database::Database;
