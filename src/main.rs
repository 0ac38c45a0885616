//! The `stillfs` command: everything is in the library.

fn main() -> std::process::ExitCode {
    stillfs::cli::main()
}
