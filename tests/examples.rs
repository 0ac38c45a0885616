//! The examples do what they say.

#[path = "../examples/embed.rs"]
mod embed;

/// The view and its copy keep the state of the pin while the database goes on.
#[test]
fn embed_reads_the_pinned_state_after_later_writes() {
    let dir = tempfile::tempdir().unwrap();
    let stock = embed::run(dir.path()).unwrap();
    let expected = embed::Stock {
        live: "7".to_owned(),
        pinned: "100".to_owned(),
        copied: "100".to_owned(),
    };
    assert_eq!(stock, expected);
}
