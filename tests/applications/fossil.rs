//! Fossil: rollback mode, a server process per request, transactions over two databases.

use crate::copying::{assert_same_file, copies};
use crate::driver::Driver;
use crate::fossil_site::{Clone, Server, Site};
use crate::process::has_tool;
use crate::rig::{Rig, umount};
use crate::sqlite::{assert_whole, query};

/// A folder of rollback databases under commits and pushes, copied by four tools: each copy is one
/// committed state, the same in each, in which the checkout is that of the newest commit, since both
/// databases were pinned at one instant; and Fossil goes on where the copy ends (A1, A3, A4).
#[test]
fn fossil_starts_again_on_every_copy() {
    let needed = ["fossil", "sqlite3"];
    if !needed.into_iter().all(has_tool) {
        return;
    }
    let Some(rig) = Rig::without_engine() else {
        return;
    };
    let site = Site::create(&rig.source, 4);
    let server = Server::start(&site);
    let clone = Clone::create(&site, &server, rig.path("clone.fossil"));
    assert_eq!(query(&site.repository(), "PRAGMA journal_mode"), "delete");

    let committing = site.clone();
    let commits = Driver::start(move |number| committing.commit(number));
    let pushes = Driver::start(move |number| clone.publish(number));
    commits.advance(3);
    pushes.advance(3);
    let before = (commits.done(), pushes.done());
    let still = rig.mount("still", &["--atomic-set"]);
    let possible = (commits.possible(before.0), pushes.possible(before.1));
    let copies = copies(&rig, &still, || {
        commits.advance(1);
        pushes.advance(1);
        assert!(server.get("/timeline").contains("note "));
    });
    umount(&still);
    let (commits, pushes) = (commits.stop(), pushes.stop());

    for name in [Site::REPOSITORY, Site::CHECKOUT, Site::SETTINGS] {
        assert_same_file(&copies, name);
    }
    for copy in copies {
        let copy = Site { root: copy };
        for name in [Site::REPOSITORY, Site::CHECKOUT, Site::SETTINGS] {
            assert_whole(&copy.root.join(name), "delete");
        }
        copy.assert_whole();
        let newest = copy.commits()[0];
        assert!(possible.0.contains(&newest), "{newest} {possible:?}");
        assert_eq!(copy.commits(), (0..=newest).rev().collect::<Vec<_>>());
        let checked_out = copy.checked_out();
        assert!(
            checked_out.starts_with(&format!("note {newest}. ")),
            "{checked_out}"
        );
        let page_count = copy.pages().len() as u64;
        assert!(
            possible.1.contains(&page_count),
            "{page_count} {possible:?}"
        );
        let pages: Vec<_> = (1..=page_count).map(Clone::page).collect();
        assert_eq!(copy.pages(), pages);
        goes_on(&copy, newest);
    }
    // What was copied goes on as if nothing had been.
    site.assert_whole();
    assert_eq!(site.commits(), (0..=commits).rev().collect::<Vec<_>>());
    assert_eq!(site.pages().len() as u64, pushes);
}

/// Serves and commits in a restored site.
fn goes_on(site: &Site, newest: u64) {
    let server = Server::start(site);
    site.commit(newest + 1);
    let timeline = server.get("/timeline");
    for number in [newest, newest + 1] {
        assert!(timeline.contains(&format!("note {number}.")), "{timeline}");
    }
}
