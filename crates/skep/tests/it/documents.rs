//! What the documents say of what a program reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Texts that stand between such signs and are spelt as environment variables are.
fn variables(text: &str, sign: char) -> BTreeSet<String> {
    let is_one = |word: &&str| {
        word.contains('_')
            && word.starts_with(|letter: char| letter.is_ascii_uppercase())
            && word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
    };
    // CLIENT_NAME and its like have an underscore; of one word there is this alone.
    text.split(sign).filter(|word| is_one(word) || *word == "NAMESPACE").map(str::to_owned).collect()
}

#[test]
fn the_document_has_exactly_the_variables_of_the_built_in_registration() {
    let document = fs::read_to_string(root().join("docs/webhook.md")).unwrap();
    let section = document.split("### Variables of the built-in registration").nth(1).unwrap();
    let rows: String = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1))
        .collect();
    let documented = variables(&rows, '`');

    let folder = root().join("crates/sidecar/src/register");
    let mut read = BTreeSet::from(["NAMESPACE".to_owned()]);
    for entry in fs::read_dir(folder).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        read.extend(variables(source.split("#[cfg(test)]").next().unwrap(), '"'));
    }
    assert!(read.contains("KEYCLOAK_URL"), "{read:?}");
    assert_eq!(documented, read, "left: docs/webhook.md, right: what is read");
}
