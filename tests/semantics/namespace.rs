//! A mount namespace of a test must not hold what others mount.

/// A shell command for a mount namespace that was just made: it lets go of every view but the one at
/// `$KEPT`, which its makers would wait for.
pub(crate) const LET_GO: &str = r#"findmnt -rno TARGET -t fuse.stillfs | while read -r at; do
    at=$(printf '%b' "$at"); [ "$at" = "${KEPT-}" ] || umount -l "$at" 2>/dev/null || :; done"#;
