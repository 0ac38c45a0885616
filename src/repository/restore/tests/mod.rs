//! Restores of repositories made by hand.

#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation)]

mod file_swap;
mod hostile;
mod point;
mod resume;
mod rig;
mod rules;
