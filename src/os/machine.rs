//! What the machine is called.

/// Its host name; empty where it has none.
#[must_use]
pub fn name() -> String {
    let system = nix::sys::utsname::uname();
    system.map_or_else(
        |_| String::new(),
        |system| system.nodename().to_string_lossy().into_owned(),
    )
}
