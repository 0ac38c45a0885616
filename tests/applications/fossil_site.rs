//! A folder in which Fossil works: a repository that is served, a checkout of it, the user's settings.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::process::{Ended, PATIENCE, end_of, wait};

const USER: &str = "keeper";
const PASSWORD: &str = "secret";
/// A file in the checkout that makes the repository larger than a few pages: bytes.
const LARGE_BYTES: usize = 4 << 20;

/// See the head of the file. The checkout names its repository relative to itself, so a copy of the
/// folder is a site of its own.
#[derive(Clone, Debug)]
pub struct Site {
    pub root: PathBuf,
}

impl Site {
    pub const REPOSITORY: &str = "site.fossil";
    pub const CHECKOUT: &str = "work/.fslckout";
    pub const SETTINGS: &str = "home/.fossil";

    /// A new repository, with a checkout that has one commit.
    pub fn create(root: &Path, seed: u64) -> Self {
        let site = Self {
            root: root.to_owned(),
        };
        fs::create_dir(root.join("home")).unwrap();
        fs::create_dir(root.join("work")).unwrap();
        let repository = site.repository();
        let repository = repository.to_str().unwrap();
        site.run(&["new", "-A", USER, repository]);
        site.run(&["user", "password", USER, PASSWORD, "-R", repository]);
        site.run(&["open", "-k", "../site.fossil"]);
        site.run(&["settings", "autosync", "off"]);
        // Nothing that can be compressed or guessed; which bytes is no matter.
        let mut state = seed | 1;
        let bytes = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        });
        fs::write(
            site.work("large"),
            bytes.take(LARGE_BYTES).collect::<Vec<_>>(),
        )
        .unwrap();
        fs::write(site.work("notes"), "").unwrap();
        site.run(&["add", "large", "notes"]);
        site.commit(0);
        site
    }

    pub fn repository(&self) -> PathBuf {
        self.root.join(Self::REPOSITORY)
    }

    fn work(&self, name: &str) -> PathBuf {
        self.root.join("work").join(name)
    }

    /// One more commit of the checkout: of the repository and of the checkout's own database, which
    /// SQLite commits as one.
    pub fn commit(&self, number: u64) {
        // Longer each time: Fossil looks at a file's size, and at its time to the second.
        let notes = fs::File::options().append(true).open(self.work("notes"));
        writeln!(notes.unwrap(), "note {number}").unwrap();
        let message = format!("note {number}.");
        let words = ["commit", "--no-warnings", "--nosign", "-m", &message];
        until_unlocked(|| end_of(self.fossil(&self.root.join("work")).args(words)));
    }

    /// The numbers of the commits, the newest first.
    pub fn commits(&self) -> Vec<u64> {
        let listed = self.run(&["timeline", "-n", "0", "-t", "ci", "-F", "%c"]);
        let numbers = listed.lines().filter_map(|line| {
            let rest = line.trim().strip_prefix("note ")?;
            rest.split('.').next()?.parse().ok()
        });
        numbers.collect()
    }

    /// The commit that the checkout's own database says is checked out.
    pub fn checked_out(&self) -> String {
        let said = self.run(&["status"]);
        let comment = said.lines().find_map(|line| line.strip_prefix("comment:"));
        comment
            .unwrap_or_else(|| panic!("{said}"))
            .trim()
            .to_owned()
    }

    /// The names of the wiki's pages.
    pub fn pages(&self) -> Vec<String> {
        let said = self.run(&["wiki", "list"]);
        said.lines().map(str::to_owned).collect()
    }

    /// Fossil's own check of everything that it stores.
    #[track_caller]
    pub fn assert_whole(&self) {
        let said = self.run(&["test-integrity"]);
        let is_whole = said.contains(" 0 errors") && said.contains("integrity-check: ok");
        assert!(is_whole, "{said}");
    }

    /// Fossil in the checkout.
    pub fn run(&self, words: &[&str]) -> String {
        let ended = end_of(self.fossil(&self.root.join("work")).args(words));
        assert_eq!(ended.code(), 0, "{words:?}: {ended:?}");
        ended.out
    }

    fn fossil(&self, at: &Path) -> Command {
        let home = self.root.join("home");
        let mut fossil = Command::new("fossil");
        fossil
            .current_dir(at)
            .env("USER", USER)
            .env("FOSSIL_USER", USER);
        fossil.env("HOME", &home).env("FOSSIL_HOME", &home);
        fossil.env_remove("XDG_CONFIG_HOME");
        fossil
    }
}

/// Runs what must succeed, again while Fossil meets itself: of two processes that have read and want to
/// write, SQLite refuses one at once, whatever its patience, and that one has changed nothing.
fn until_unlocked(mut run: impl FnMut() -> Ended) -> String {
    let begun = Instant::now();
    loop {
        let ended = run();
        let is_refused = [&ended.out, &ended.err]
            .into_iter()
            .any(|said| said.contains("database is locked"));
        if !is_refused || begun.elapsed() > PATIENCE {
            assert_eq!(ended.code(), 0, "{ended:?}");
            return ended.out;
        }
    }
}

/// `fossil server`. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// On a port that it finds itself.
    pub fn start(site: &Site) -> Self {
        let mut fossil = site.fossil(&site.root);
        fossil
            .args(["server", "--localhost"])
            .arg(site.repository());
        let mut child = fossil
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let mut server = Self { child, port: 0 };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(' ').next().unwrap();
        server.port = port.parse().unwrap_or_else(|_| panic!("{line}"));
        server
    }

    /// The page at `path`, as a browser gets it.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        wait(&mut self.child, "a killed server");
    }
}

/// A clone elsewhere, from which pages of the wiki come to the server.
#[derive(Debug)]
pub struct Clone {
    file: PathBuf,
    url: String,
    site: Site,
}

impl Clone {
    pub fn create(site: &Site, server: &Server, file: PathBuf) -> Self {
        let url = format!("http://{USER}:{PASSWORD}@127.0.0.1:{}/", server.port);
        let site = site.clone();
        let clone = Self { file, url, site };
        let ended = clone.fossil(&["clone", &clone.url], &[]);
        assert_eq!(ended.code(), 0, "{ended:?}");
        clone
    }

    /// Writes a page here and sends it to the server.
    pub fn publish(&self, number: u64) {
        let page = self.file.with_extension("page");
        fs::write(&page, format!("page {number}")).unwrap();
        let name = Self::page(number);
        let words = ["wiki", "create", &name, page.to_str().unwrap(), "-R"];
        let ended = self.fossil(&words, &[]);
        assert_eq!(ended.code(), 0, "{ended:?}");
        let said = until_unlocked(|| self.fossil(&["push", &self.url, "-R"], &["--once"]));
        assert!(said.contains("Push done"), "{said}");
    }

    /// Named so that their order as text is that of their numbers.
    pub fn page(number: u64) -> String {
        format!("page-{number:06}")
    }

    fn fossil(&self, words: &[&str], after: &[&str]) -> Ended {
        let mut fossil = self.site.fossil(self.file.parent().unwrap());
        end_of(fossil.args(words).arg(&self.file).args(after))
    }
}
