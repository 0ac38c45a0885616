//! A repository in which somebody wrote what he liked, with right checksums.

use std::fs;
use std::path::Path;

use stillfs::os::Host;
use stillfs::repository::{BackupId, Entry, EntryContent, Manifest, Repository};

use crate::rig::code;
use crate::scene::{Scene, content, id, make_sqlite};

/// Exchanges the list of the one backup for one of the attacker's.
fn plant(scene: &Scene, id: &BackupId, change: impl FnOnce(&mut Manifest)) {
    let repository = Repository::open(&Host::system(), &scene.at("repo")).unwrap();
    let mut manifest = repository.manifest(id).unwrap();
    change(&mut manifest);
    manifest.facts.digest = Manifest::digest_of(&manifest.entries);
    let place = scene.at("repo/backups").join(id.as_str());
    fs::write(place, manifest.encode()).unwrap();
}

fn entry(path: &str, content: EntryContent) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        mode: 0o666,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        content,
    }
}

/// G35: neither a name nor a link leads outside of the target, and a number that lies costs nothing.
#[test]
fn hostile_backup_is_refused_and_writes_nowhere() {
    let scene = Scene::new();
    fs::create_dir_all(scene.at("app/sub")).unwrap();
    fs::create_dir(scene.at("victim")).unwrap();
    fs::write(scene.at("app/sub/file"), "planted").unwrap();
    make_sqlite(&scene.at("app/a.db"), "DELETE");
    let facts = scene.backup(&["app", "--repo", "repo"]);
    let id: BackupId = id(&facts).parse().unwrap();
    let list = scene.at("repo/backups").join(id.as_str());
    let right = fs::read(&list).unwrap();
    let file = Repository::open(&Host::system(), &scene.at("repo")).unwrap();
    let file = file.manifest(&id).unwrap().entries;
    let file = file
        .into_iter()
        .find(|one| one.path == b"sub/file")
        .unwrap();
    let victim = scene.at("victim").to_str().unwrap().as_bytes().to_vec();

    type Change<'a> = Box<dyn FnOnce(&mut Vec<Entry>) + 'a>;
    let named = |path: &'static str| -> Change<'_> {
        let file = file.clone();
        Box::new(move |entries| {
            let path = path.as_bytes().to_vec();
            entries.push(Entry { path, ..file });
        })
    };
    let below_a_link: Change<'_> = Box::new(|entries| {
        entries.push(entry("sub/way", EntryContent::Link(victim.clone())));
        let path = b"sub/way/file".to_vec();
        entries.push(Entry {
            path,
            ..file.clone()
        });
    });
    let hard_link: Change<'_> = Box::new(|entries| {
        let to = [&victim[..], b"/file"].concat();
        entries.push(entry("z", EntryContent::HardLink(to)));
    });
    let huge: Change<'_> = Box::new(|entries| {
        for one in entries.iter_mut() {
            if let EntryContent::File(content) = &mut one.content {
                content.bytes = u64::MAX;
            }
        }
    });
    let changes = [
        named("../victim/file"),
        named("sub/../../victim/file"),
        named("/victim/file"),
        named("sub//file"),
        named("z/."),
        below_a_link,
        hard_link,
        huge,
    ];
    let before = content(&scene.at(""));
    for (number, change) in changes.into_iter().enumerate() {
        plant(&scene, &id, |manifest| change(&mut manifest.entries));
        let output = scene.run(&["restore", "repo", "back"]);
        assert_eq!(code(&output), 12, "{number}: {output:?}");
        assert_eq!(
            code(&scene.run(&["verify", "repo", "--read-data"])),
            12,
            "{number}"
        );
        fs::write(&list, &right).unwrap();
        assert_eq!(
            names_of(&before),
            names_of(&content(&scene.at(""))),
            "{number}"
        );
    }
    scene.ok(&["restore", "repo", "back"]);
    assert_eq!(fs::read(scene.at("back/sub/file")).unwrap(), b"planted");
}

fn names_of(all: &[(std::path::PathBuf, String)]) -> Vec<&Path> {
    all.iter().map(|(path, _)| path.as_path()).collect()
}
