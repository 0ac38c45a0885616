//! The `stillfs` command.

fn main() {}
