//! rpm: it sets WAL by itself. Each command opens the database, and at its end asks for a checkpoint
//! that empties the log, which has to wait while a view holds its mark.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;

use crate::copying::{assert_same_file, copies};
use crate::driver::Driver;
use crate::process::{eventually, has_tool, succeed};
use crate::rig::{Rig, copy as copy_of, mount_status, umount};
use crate::sqlite::{assert_whole, query};

/// Packages that there are.
const PACKAGES: u64 = 30;
const DATABASE: &str = "rpmdb.sqlite";

/// A database of installed packages.
#[derive(Clone, Debug)]
struct Installed {
    root: PathBuf,
    packages: PathBuf,
}

impl Installed {
    fn rpm(&self, words: &[&str]) -> String {
        let mut rpm = Command::new("rpm");
        rpm.arg("--dbpath").arg(&self.root).arg("--nosignature");
        succeed(rpm.args(words))
    }

    /// Installs one package after the other, then erases them in the same order, and so on; only in
    /// the database.
    fn step(&self, number: u64) {
        let (package, is_install) = package_of(number);
        if is_install {
            let file = format!("part{package}-1-1.noarch.rpm");
            let file = self.packages.join(file);
            self.rpm(&["--justdb", "--nodeps", "-i", file.to_str().unwrap()]);
        } else {
            self.rpm(&["--justdb", "--nodeps", "-e", &format!("part{package}")]);
        }
    }

    /// The packages, as rpm lists them.
    fn list(&self) -> BTreeSet<u64> {
        let listed = self.rpm(&["-qa", "--queryformat", "%{name}\n"]);
        let numbers = listed
            .lines()
            .map(|line| line.strip_prefix("part").unwrap());
        numbers.map(|number| number.parse().unwrap()).collect()
    }
}

/// What a step does: with which package, and whether it installs that.
fn package_of(number: u64) -> (u64, bool) {
    let at = (number - 1) % (2 * PACKAGES);
    (at % PACKAGES + 1, at < PACKAGES)
}

/// The packages that are installed after so many steps.
fn after(steps: u64) -> BTreeSet<u64> {
    let at = steps % (2 * PACKAGES);
    match at.checked_sub(PACKAGES) {
        None => (1..=at).collect(),
        Some(erased) => (erased + 1..=PACKAGES).collect(),
    }
}

/// Makes the packages with rpm's own tool; gives their folder.
fn build(rig: &Rig) -> PathBuf {
    let top = rig.dir("build");
    let mut spec = "Name: whole\nVersion: 1\nRelease: 1\nSummary: whole\nLicense: none\n\
        BuildArch: noarch\n%description\nwhole\n%install\nmkdir -p %{buildroot}/srv/whole\n"
        .to_owned();
    for number in 1..=PACKAGES {
        // A list of files of a KiB or two, so that an installation writes more than a page or two.
        let files = format!("%{{buildroot}}/srv/whole/{number}-$file");
        let part = format!(
            "for file in $(seq 40); do echo $file >{files}; done\n%package -n part{number}\n\
            Summary: part\n%description -n part{number}\npart\n%files -n part{number}\n\
            /srv/whole/{number}-*\n"
        );
        let (commands, package) = part.split_once('\n').unwrap();
        let at = spec.find("%package").unwrap_or(spec.len());
        spec.insert_str(at, &format!("{commands}\n"));
        spec.push_str(package);
    }
    let file = top.join("whole.spec");
    fs::write(&file, spec).unwrap();
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild
        .arg("--define")
        .arg(format!("_topdir {}", top.display()));
    succeed(rpmbuild.arg("-bb").arg(&file));
    top.join("RPMS/noarch")
}

/// What rpm does to its database.
struct Scene {
    installed: Installed,
    steps: Driver,
    queries: Driver,
    rig: Rig,
}

impl Scene {
    /// `None` where rpm cannot run or nothing can be mounted.
    fn new() -> Option<Self> {
        let needed = ["rpm", "rpmbuild", "sqlite3"];
        if !needed.into_iter().all(has_tool) {
            return None;
        }
        let rig = Rig::without_engine()?;
        let packages = build(&rig);
        let root = rig.source.clone();
        let installed = Installed { root, packages };
        installed.rpm(&["--initdb"]);
        let database = installed.root.join(DATABASE);
        if !database.exists() {
            println!("SKIPPED: this rpm keeps no SQLite database");
            return None;
        }
        assert_eq!(query(&database, "PRAGMA journal_mode"), "wal");
        let (driven, asked) = (installed.clone(), installed.clone());
        let steps = Driver::start(move |number| driven.step(number));
        let queries = Driver::start(move |_| drop(asked.list()));
        steps.advance(5);
        queries.advance(1);
        Some(Self {
            installed,
            steps,
            queries,
            rig,
        })
    }

    /// A mount, and how many steps it may show.
    fn mount(&self, options: &[&str]) -> (PathBuf, RangeInclusive<u64>) {
        let before = self.steps.done();
        let still = self.rig.mount("still", options);
        (still, self.steps.possible(before))
    }

    /// A copy must be the state after one of the steps, and rpm must go on there.
    #[track_caller]
    fn assert_goes_on(&self, root: PathBuf, possible: &RangeInclusive<u64>) {
        assert_whole(&root.join(DATABASE), "wal");
        let copy = Installed {
            root,
            ..self.installed.clone()
        };
        copy.rpm(&["--verifydb"]);
        let found = copy.list();
        let step = possible.clone().find(|steps| after(*steps) == found);
        let step = step.unwrap_or_else(|| panic!("{found:?} is not of the steps {possible:?}"));
        copy.step(step + 1);
        assert_eq!(copy.list(), after(step + 1));
    }

    /// What was copied must go on as if nothing had been.
    fn end(self) {
        let done = self.steps.stop();
        self.queries.stop();
        assert_eq!(self.installed.list(), after(done));
        self.installed.rpm(&["--verifydb"]);
        assert_whole(&self.installed.root.join(DATABASE), "wal");
    }
}

/// The database of an application that sets WAL, opens and closes it all the time and truncates its
/// log: each copy is the state after one of its commands, the same in each, still in WAL mode, and the
/// application goes on there (A1, A3, A4).
///
/// Its commands commit meanwhile, and then wait with their checkpoint as long as they have patience.
#[test]
fn rpm_starts_again_on_every_copy() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let (still, possible) = scene.mount(&[]);
    let copies = copies(&scene.rig, &still, || scene.queries.advance(1));
    let held = mount_status(&still)["databases"][0]["state"].clone();
    umount(&still);
    assert_eq!(held, "held");
    assert_same_file(&copies, DATABASE);
    for root in copies {
        scene.assert_goes_on(root, &possible);
    }
    scene.steps.advance(1);
    scene.end();
}

/// A view that is kept in a private copy lets such an application go on as fast as without it (A4).
#[test]
fn rpm_does_not_wait_for_a_view_that_is_kept() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let spill = ["--source-wal-limit", "1", "--on-full", "spill"];
    let (still, possible) = scene.mount(&spill);
    let state = || mount_status(&still)["databases"][0]["state"].clone();
    eventually("the view is kept", || state() == "kept");
    scene.steps.advance(20);
    let copy = scene.rig.path("copy");
    copy_of(&still, &copy);
    umount(&still);
    scene.assert_goes_on(copy, &possible);
    scene.end();
}
