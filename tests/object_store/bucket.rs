//! A server with a bucket, the proxy before it, and a scene whose commands go through it.

use std::fs;
use std::path::PathBuf;

use crate::proxy::Proxy;
use crate::scene::{Scene, id, make_sqlite};
use crate::server::{ACCESS_KEY, SECRET_KEY, Server, program};

/// The repository that most tests use.
pub(crate) const REPO: &str = "s3://bucket/some/repo";

/// See the head of the file.
pub(crate) struct Bucket {
    pub(crate) proxy: Proxy,
    pub(crate) server: Server,
    pub(crate) scene: Scene,
}

impl Bucket {
    /// None where there is no server to be had, which is told.
    pub(crate) fn new() -> Option<Self> {
        let program = program()?;
        let mut scene = Scene::new();
        for name in ["bucket", "second"] {
            fs::create_dir_all(scene.at("server").join(name)).unwrap();
        }
        let server = Server::start(&program, &scene.at("server"));
        let proxy = Proxy::start(server.address);
        scene.set("AWS_ENDPOINT_URL", &format!("http://{}", proxy.address));
        scene.set("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        scene.set("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        scene.set("AWS_REGION", "us-east-1");
        // As short as they can be: a lock that nobody renews is waited for, and so is a server.
        scene.set("STILLFS_LOCK_TTL", "1s");
        scene.set("STILLFS_STORE_PATIENCE", "1s");
        Some(Self {
            proxy,
            server,
            scene,
        })
    }

    /// Where the server keeps the objects of `REPO`.
    pub(crate) fn folder(&self) -> PathBuf {
        self.scene.at("server/bucket/some/repo")
    }

    /// An SQLite application in `app.db`, with `rows` rows.
    pub(crate) fn make_app(&self, rows: u64) {
        make_sqlite(&self.scene.at("app.db"), "WAL");
        (0..rows).for_each(|_| self.step());
    }

    /// One more row.
    pub(crate) fn step(&self) {
        let db = rusqlite::Connection::open(self.scene.at("app.db")).unwrap();
        let step = "BEGIN IMMEDIATE; INSERT INTO t (b) VALUES (hex(zeroblob(50)));
            UPDATE n SET count = count + 1; COMMIT";
        db.execute_batch(step).unwrap();
    }

    /// The identity of a backup of the application that succeeds.
    #[track_caller]
    pub(crate) fn backup(&self) -> String {
        id(&self.scene.backup(&["app.db", "--repo", REPO])).to_owned()
    }

    /// Every byte is read back, and the backup `id` is restored: it has so many rows.
    #[track_caller]
    pub(crate) fn expect_rows(&self, id: &str, rows: u64) {
        let back = self.scene.at("back.db");
        self.scene
            .ok(&["restore", REPO, "back.db", "--backup", id, "--force"]);
        let db = rusqlite::Connection::open(&back).unwrap();
        let text = |query: &str| -> String {
            let row = db.query_row(query, [], |row| row.get(0));
            row.unwrap()
        };
        assert_eq!(text("PRAGMA integrity_check"), "ok", "{id}");
        let counts = "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count FROM n) || ' ' ||
            (SELECT count(*) FROM large)";
        assert_eq!(text(counts), format!("{rows} {rows} 2000"), "{id}");
        drop(db);
        fs::remove_file(back).unwrap();
    }

    /// Every byte of the repository is read back.
    #[track_caller]
    pub(crate) fn verify(&self) {
        self.scene.ok(&["verify", REPO, "--read-data"]);
    }

    /// The identities of the backups.
    #[track_caller]
    pub(crate) fn backups(&self) -> Vec<String> {
        let object = self.scene.object(&["backups", REPO, "--json"]);
        let backups = object["backups"].as_array().unwrap().iter();
        backups.map(|facts| id(facts).to_owned()).collect()
    }
}
