//! The `stillfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    stillfs::cli::main()
}
