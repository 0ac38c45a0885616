//! What the metrics say, and that docs/watching.md says all of their names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::exposition::{Metrics, parse};
use crate::rig::Served;
use crate::scene::Scene;

/// The one sample of a metric with this value of a label.
#[track_caller]
fn value(metrics: &Metrics, name: &str, label: &str, is: &str) -> f64 {
    let samples = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
    let mut found = samples
        .iter()
        .filter(|(labels, _)| labels.get(label).map(String::as_str) == Some(is));
    let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} of {is}"));
    *value
}

/// Also with names that must be escaped.
#[test]
fn metrics_say_what_is_there() {
    let scene = Scene::new();
    scene.make("a\"b\\c");
    scene.ok(&["backup", "a\"b\\c", "--repo", "repo-odd"]);
    let served = Served::start(&scene.at("live"));
    scene.configure(
        "",
        &[
            ("app", "verify = { every = \"1d\" }"),
            ("live", ""),
            ("never", ""),
        ],
    );
    let output = scene.run(&["scheduled"]);
    assert_eq!(output.status.code(), Some(1), "there is no source never");
    let metrics = parse(&scene.ok(&["metrics", "--repo", "repo-odd"]));
    let of = |name: &str, is: &str| value(&metrics, name, "name", is);
    assert!(of("stillfs_backup_size_bytes", "app") >= f64::from(100 << 10));
    assert!(of("stillfs_backup_stored_bytes", "app") > 0.0);
    assert!(of("stillfs_backup_duration_seconds", "app") < 60.0);
    assert!(of("stillfs_backup_age_seconds", "app") < 60.0);
    assert!(of("stillfs_backup_verification_age_seconds", "app") < 60.0);
    assert!((of("stillfs_backup_success_ratio", "app") - 1.0).abs() < 1e-9);
    let now = metrics["stillfs_metrics_timestamp_seconds"][0].1;
    let finished = of("stillfs_backup_last_success_timestamp_seconds", "app");
    assert!((0.0..60.0).contains(&(now - finished)), "{now} {finished}");
    let odd = scene.at("a\"b\\c");
    let odd = odd.to_str().unwrap();
    assert!(value(&metrics, "stillfs_backup_size_bytes", "source", odd) > 0.0);
    let live = scene.at("live");
    let live = live.to_str().unwrap();
    let of_engine = |name: &str| value(&metrics, name, "source", live);
    assert!((of_engine("stillfs_engine_up") - 1.0).abs() < 1e-9);
    assert!(of_engine("stillfs_engine_log_bytes") > 0.0);
    assert!(of_engine("stillfs_engine_shadow_bytes") >= 0.0);
    // What is not known has no sample.
    let size = &metrics["stillfs_backup_size_bytes"];
    assert!(size.iter().all(|(labels, _)| labels["name"] != "never"));
    assert_eq!(served.stop(), 0);
    let metrics = parse(&scene.ok(&["metrics"]));
    let up = &metrics["stillfs_repository_up"];
    assert_eq!(up.iter().filter(|(_, up)| *up == 0.0).count(), 1, "{up:?}");
    let raised = metrics["stillfs_backup_alert"]
        .iter()
        .filter(|(_, is_raised)| *is_raised == 1.0);
    let raised: Vec<_> = raised
        .map(|(labels, _)| (&*labels["name"], &*labels["alert"]))
        .collect();
    assert_eq!(raised, [("never", "unreadable")]);
}

/// Two sources may have the same name, and an alert is of one of them.
#[test]
fn alert_is_of_one_source_whatever_its_name() {
    let scene = Scene::new();
    fs::create_dir(scene.at("b")).unwrap();
    scene.make("b/app");
    scene.configure("", &[("app", "alert = { max-age = \"1s\" }")]);
    scene.ok(&["scheduled"]);
    scene.ok(&["backup", "b/app", "--repo", "repo-app"]);
    std::thread::sleep(Duration::from_millis(2100));
    let words = ["metrics", "--repo", "repo-app", "--config", "stillfs.toml"];
    let metrics = parse(&scene.ok(&words));
    let overdue = metrics["stillfs_backup_alert"]
        .iter()
        .filter(|(labels, _)| {
            assert!(!labels["host"].is_empty(), "{labels:?}");
            labels["alert"] == "overdue" && labels["name"] == "app"
        });
    let overdue: Vec<_> = overdue
        .map(|(labels, value)| (labels["source"].clone(), *value))
        .collect();
    let at = |name: &str| scene.at(name).to_str().unwrap().to_owned();
    assert_eq!(overdue, [(at("app"), 1.0), (at("b/app"), 0.0)]);
}

#[test]
fn lag_of_an_archive_is_told_until_it_has_everything() {
    let scene = Scene::new();
    let served = Served::start(&scene.at("live"));
    scene.configure("", &[("live", "")]);
    let lag = || {
        let metrics = parse(&scene.ok(&["metrics"]));
        assert!(metrics.contains_key("stillfs_engine_log_kept_bytes"));
        let lag = metrics.get("stillfs_archive_lag_seconds");
        lag.map(|samples| samples[0].1)
    };
    served.connect().set(b"a", b"1");
    assert_eq!(lag(), None, "nobody archives it");
    scene.ok(&["archive", "live", "--repo", "repo-live"]);
    assert_eq!(lag(), Some(0.0));
    served.connect().set(b"a", b"2");
    let behind = lag().unwrap();
    assert!(behind > 0.0 && behind < 60.0, "{behind}");
    scene.ok(&["archive", "live", "--repo", "repo-live"]);
    assert_eq!(lag(), Some(0.0));
    assert_eq!(served.stop(), 0);
}

/// Whoever writes rules needs the names.
#[test]
fn names_are_those_of_the_document() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/watching.md")).unwrap();
    let is_of_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let names_in = |text: &str| -> BTreeSet<String> {
        text.split('`')
            .chain(text.split('"'))
            .filter(|word| word.starts_with("stillfs_") && word.chars().all(is_of_name))
            .map(str::to_owned)
            .collect()
    };
    let mut in_code = BTreeSet::new();
    for file in ["engine", "exposition", "family"] {
        let path = root.join(format!("src/cli/metrics/{file}.rs"));
        in_code.extend(names_in(&fs::read_to_string(path).unwrap()));
    }
    assert!(in_code.len() > 20, "{in_code:?}");
    assert_eq!(names_in(&document), in_code);
}
