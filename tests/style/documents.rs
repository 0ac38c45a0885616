//! Links in the documents lead somewhere.

use std::path::{Component, Path, PathBuf};

use crate::tree::{self, TextFile, text_files};
use crate::{Finding, expect_none, subjects};

const RULE: &str = "link";

/// Lines of a document that are prose: code blocks left out, code spans blanked.
fn prose(file: &TextFile) -> Vec<(usize, String)> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let outside = line.split('`').step_by(2).collect::<Vec<_>>();
            lines.push((number, outside.join("code")));
        }
    }
    lines
}

/// The targets of the links in a line: `[a](target)`, `![a](target)`, `[a]: target`.
fn targets(line: &str) -> Vec<&str> {
    let inline = line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let reference = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "))
        .map(|(_, target)| target);
    inline
        .chain(reference)
        .filter_map(|target| target.split_whitespace().next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// A heading's anchor, as forges make it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    let text = heading.trim().to_lowercase();
    text.chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

fn has_anchor(file: &TextFile, wanted: &str) -> bool {
    let mut is_code = false;
    file.text.lines().any(|line| {
        is_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        !is_code && heading.len() < line.len() && anchor(heading) == wanted
    })
}

/// `folder/target` without `.` and `..`; `None` where it leaves the tree.
fn resolve(folder: &Path, target: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

/// Links of `file` that lead nowhere; `exists` says which paths of the tree there are.
fn check(file: &TextFile, files: &[TextFile], exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let leads = |link: &str| {
        let (target, fragment) = link.split_once('#').unwrap_or((link, ""));
        let path = match target {
            "" => Some(PathBuf::from(&file.path)),
            _ => resolve(folder, target),
        };
        let Some(path) = path.filter(|path| exists(path)) else {
            return false;
        };
        let document = files.iter().find(|file| Path::new(&file.path) == path);
        let document = document.filter(|file| file.path.ends_with(".md"));
        fragment.is_empty() || document.is_none_or(|file| has_anchor(file, fragment))
    };
    let mut found = Vec::new();
    for (line, text) in prose(file) {
        for target in targets(&text).into_iter().filter(|target| !leads(target)) {
            found.push(Finding {
                path: file.path.clone(),
                line,
                rule: RULE,
                subject: target.to_owned(),
                text: format!("{target} leads nowhere"),
            });
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let (root, files) = (tree::root(), text_files());
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    let exists = |path: &Path| root.join(path).exists();
    expect_none(
        documents
            .flat_map(|file| check(file, &files, exists))
            .collect(),
    );
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let text = "# A\n[a](b.md) [c](../README.md#the-start) ![d](https://e/f) [g](#a)\n\
                [h](gone.md) [i](../../out.md) `[j](code.md)` [k](../README.md#gone)\n\
                ```\n[l](block.md)\n```\n[m]: lost.md\n[n](b.md \"title\") [o](#none)\n";
    let document = TextFile::sample("docs/a.md", text);
    let readme = TextFile::sample("README.md", "## The start!\n");
    let files = [document.clone(), readme, TextFile::sample("docs/b.md", "")];
    let exists = |path: &Path| files.iter().any(|file| Path::new(&file.path) == path);
    let found = check(&document, &files, exists);
    let expected = [
        "gone.md",
        "../../out.md",
        "../README.md#gone",
        "lost.md",
        "#none",
    ];
    assert_eq!(subjects(&found), expected);
}
