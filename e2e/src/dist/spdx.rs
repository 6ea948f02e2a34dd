//! The SPDX document: every locked crate, with version, licence and checksum.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::build::{cargo, checkout};

/// The document of this checkout.
///
/// # Errors
/// If cargo cannot tell of the crates, or the lock file cannot be read.
pub fn of_checkout(version: &str) -> Result<String> {
    let arguments = ["metadata", "--locked", "--format-version", "1"];
    let output = cargo().args(arguments).output().context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?;
    let lock = fs::read_to_string(checkout().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    Ok(format!("{:#}\n", document(version, &lock, &licences(&metadata))))
}

/// Licence by name and version.
fn licences(metadata: &Value) -> BTreeMap<(String, String), String> {
    let text = |package: &Value, field: &str| package.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let packages = metadata.get("packages").and_then(Value::as_array).into_iter().flatten();
    packages.map(|package| ((text(package, "name"), text(package, "version")), text(package, "license"))).collect()
}

/// One package for each of the lock file, related to the whole.
#[must_use]
pub fn document(version: &str, lock: &str, licences: &BTreeMap<(String, String), String>) -> Value {
    let locked = locked(lock);
    let package = |crate_: &Locked| {
        let Locked { name, version, checksum } = crate_;
        let licence = licences.get(&(name.clone(), version.clone())).filter(|text| !text.is_empty());
        // An old spelling of OR that is no SPDX expression.
        let licence = licence.map_or_else(|| "NOASSERTION".to_owned(), |text| text.replace('/', " OR "));
        let mut package = json!({
            "SPDXID": id(name, version), "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION", "licenseDeclared": licence, "copyrightText": "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": format!("pkg:cargo/{name}@{version}"),
            }],
        });
        if let (Some(sum), Some(package)) = (checksum, package.as_object_mut()) {
            package.insert("checksums".into(), json!([{"algorithm": "SHA256", "checksumValue": sum}]));
        }
        package
    };
    let contains = |crate_: &Locked| json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": id(&crate_.name, &crate_.version)});
    json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": format!("azure-vnet {version}"),
        "documentNamespace": format!("https://azure-vnet.dev/spdx/{version}"),
        "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: cargo-xtask-dist"]},
        "packages": locked.iter().map(package).collect::<Vec<_>>(),
        "relationships": locked.iter().map(contains).collect::<Vec<_>>(),
    })
}

fn id(name: &str, version: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    format!("SPDXRef-{}-{}", name.chars().map(plain).collect::<String>(), version.chars().map(plain).collect::<String>())
}

#[derive(Debug, Default, Clone)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The packages of a lock file, whose form is cargo's own and simple.
fn locked(lock: &str) -> Vec<Locked> {
    let mut found: Vec<Locked> = Vec::new();
    for line in lock.lines() {
        if line == "[[package]]" {
            found.push(Locked::default());
        }
        let (Some(package), Some((key, value))) = (found.last_mut(), line.split_once(" = ")) else { continue };
        let value = value.trim_matches('"').to_owned();
        match key {
            "name" => package.name = value,
            "version" => package.version = value,
            "checksum" => package.checksum = Some(value),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_locked_crate_is_named_once() {
        let lock = fs::read_to_string(checkout().join("Cargo.lock")).unwrap();
        let document = document("v1", &lock, &BTreeMap::new());
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), lock.matches("[[package]]").count());
        let ids: std::collections::BTreeSet<_> = packages.iter().map(|package| package["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), packages.len());
        let tokio = packages.iter().find(|package| package["name"] == "tokio").unwrap();
        assert_eq!(tokio["checksums"][0]["checksumValue"].as_str().unwrap().len(), 64);
    }
}
