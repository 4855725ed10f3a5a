//! What is in the program, for those who get it: a bill of materials, and the notices that its licences ask for.
//!
//!     cargo run --example supply -- sbom FILE      CycloneDX 1.5, JSON. The same Cargo.lock makes the same file
//!     cargo run --example supply -- notices DIR    THIRD-PARTY.txt, and the source of what is under the LGPL
//!
//! Both are of the crates that Cargo resolves for Linux, those that only build, test or generate left out. Nothing here is kept
//! in the repository, so nothing of it goes stale.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// The platforms of deny.toml.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
/// What files with terms and names begin with.
const TERMS: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    #[serde(default)]
    authors: Vec<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    root: String,
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None`: neither to build nor to test.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The program and the crates in it, in the order of their names.
struct Parts {
    root: Package,
    crates: Vec<Package>,
    /// What each needs, by id.
    needs: HashMap<String, BTreeSet<String>>,
}

impl Package {
    fn url(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn lgpl(&self) -> bool {
        self.license.as_deref().is_some_and(|license| license.contains("LGPL"))
    }

    fn folder(&self) -> Result<&Path> {
        self.manifest_path.parent().context("a manifest lies in a folder")
    }

    /// Files with terms and names, of the crate itself and of what it brings along.
    fn terms(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let named = |name: &str| TERMS.iter().any(|term| name.starts_with(term)) && !name.ends_with(".RS");
        let mut folders = vec![(self.folder()?.to_owned(), 0, false)];
        while let Some((folder, depth, all)) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().to_uppercase();
                if entry.file_type()?.is_dir() && depth < 2 {
                    // Some have a folder `LICENSES`.
                    folders.push((entry.path(), depth + 1, all || named(&name)));
                } else if entry.file_type()?.is_file() && (all || named(&name)) {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Parts {
    fn read() -> Result<Self> {
        let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        command.args(["metadata", "--format-version=1", "--locked", "--manifest-path"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
        command.args(PLATFORMS.iter().flat_map(|platform| ["--filter-platform", platform]));
        let output = command.output().context("cargo does not run")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let Metadata { packages, resolve } = serde_json::from_slice(&output.stdout)?;
        let linked = |edge: &Edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let needs = |node: Node| (node.id, node.deps.into_iter().filter(linked).map(|edge| edge.pkg).collect());
        let needs: HashMap<String, BTreeSet<String>> = resolve.nodes.into_iter().map(needs).collect();
        let (mut reached, mut next) = (BTreeSet::new(), vec![resolve.root.clone()]);
        while let Some(id) = next.pop() {
            if reached.insert(id.clone()) {
                next.extend(needs.get(&id).into_iter().flatten().cloned());
            }
        }
        let (root, mut crates): (Vec<_>, Vec<_>) =
            packages.into_iter().filter(|package| reached.contains(&package.id)).partition(|package| package.id == resolve.root);
        crates.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        let root = root.into_iter().next().context("there is no program")?;
        Ok(Self { root, crates, needs })
    }

    fn sbom(&self) -> Result<Value> {
        let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"))?;
        let lock: Lock = toml::from_str(&lock)?;
        let checksums: HashMap<_, _> =
            lock.package.iter().filter_map(|p| Some(((p.name.as_str(), p.version.as_str()), p.checksum.as_deref()?))).collect();
        let urls: HashMap<&str, String> =
            self.crates.iter().chain([&self.root]).map(|package| (package.id.as_str(), package.url())).collect();
        let component = |package: &Package, kind: &str| {
            let mut component = json!({
                "type": kind, "bom-ref": package.url(), "name": package.name, "version": package.version, "purl": package.url(),
                "licenses": [{ "expression": package.license.as_deref().unwrap_or("NOASSERTION").replace('/', " OR ") }],
            });
            if let Some(checksum) = checksums.get(&(package.name.as_str(), package.version.as_str())) {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
            }
            component
        };
        let dependencies: BTreeMap<&String, Vec<&String>> = urls
            .iter()
            .map(|(id, url)| {
                let mut needs: Vec<&String> = self.needs[*id].iter().filter_map(|need| urls.get(need.as_str())).collect();
                needs.sort();
                (url, needs)
            })
            .collect();
        let dependency = |(url, needs): (&&String, &Vec<&String>)| json!({ "ref": url, "dependsOn": needs });
        // OpenSSL is not in the program; it is what the machine has.
        let openssl = json!({
            "type": "library", "bom-ref": "openssl", "name": "openssl", "scope": "required",
            "description": "linked dynamically, as the machine has it: version 3", "licenses": [{ "expression": "Apache-2.0" }],
        });
        let crates = self.crates.iter().map(|package| component(package, "library"));
        Ok(json!({
            "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": { "component": component(&self.root, "application") },
            "components": crates.chain([openssl]).collect::<Vec<_>>(),
            "dependencies": dependencies.iter().map(dependency).collect::<Vec<_>>(),
        }))
    }

    /// Each text once, with the crates that it is of.
    fn third_party(&self) -> Result<String> {
        let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut list = String::new();
        for package in &self.crates {
            let license = package.license.as_deref().with_context(|| format!("{} names no licence", package.name))?;
            let name = format!("{} {}", package.name, package.version);
            list.push_str(&format!("{name}: {license}; {}", package.repository.as_deref().unwrap_or("")));
            let terms = package.terms()?;
            if terms.is_empty() {
                // It is under terms that stand below by another crate.
                ensure!(["MIT", "Apache-2.0"].contains(&license), "{name} has no text of its licence {license}");
                let authors = Some(package.authors.join(", ")).filter(|authors| !authors.is_empty());
                list.push_str(&format!("; has no text of its own; by {}", authors.as_deref().unwrap_or("its contributors")));
            }
            list.push('\n');
            for path in terms {
                let text = String::from_utf8_lossy(&fs::read(&path)?).trim().replace("\r\n", "\n");
                texts.entry(text).or_default().insert(name.clone());
            }
        }
        let rule = "=".repeat(100);
        let blocks = texts.iter().map(|(text, names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("\n{rule}\n{}\n{rule}\n\n{text}\n", names.join(", "))
        });
        Ok(format!("Crates in this program, and their terms. See NOTICE.\n\n{list}{}", blocks.collect::<String>()))
    }

    /// Copies the packed sources of what is under the LGPL, as the registry gave them.
    fn sources(&self, to: &Path) -> Result<Vec<String>> {
        let mut copied = Vec::new();
        for package in self.crates.iter().filter(|package| package.lgpl()) {
            let file = format!("{}-{}.crate", package.name, package.version);
            let folder = package.folder()?.to_string_lossy().replace("/registry/src/", "/registry/cache/");
            let packed = Path::new(&folder).with_file_name(&file);
            fs::copy(&packed, to.join(&file))
                .with_context(|| format!("cannot copy {}; cargo fetch gets it", packed.display()))?;
            copied.push(package.name.clone());
        }
        Ok(copied)
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parts = Parts::read()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sbom", file] => fs::write(file, serde_json::to_string_pretty(&parts.sbom()?)?)?,
        ["notices", dir] => {
            let dir = Path::new(dir);
            fs::create_dir_all(dir)?;
            parts.sources(dir)?;
            fs::write(dir.join("THIRD-PARTY.txt"), parts.third_party()?)?;
            for file in ["LICENSE", "NOTICE"] {
                fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), dir.join(file))?;
            }
        }
        _ => bail!("supply sbom FILE, or supply notices DIR"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_and_bill_of_materials_have_every_crate_and_notice_names_what_is_under_the_lgpl() {
        let parts = Parts::read().unwrap();
        assert!(parts.crates.len() > 200, "{}", parts.crates.len());
        let (text, sbom) = (parts.third_party().unwrap(), parts.sbom().unwrap());
        let components = sbom["components"].as_array().unwrap();
        assert_eq!(components.len(), parts.crates.len() + 1);
        for (package, component) in parts.crates.iter().zip(components) {
            assert!(text.contains(&format!("\n{} {}: ", package.name, package.version)), "{}", package.name);
            assert_eq!(
                (component["purl"].as_str(), component["hashes"][0]["alg"].as_str()),
                (Some(&*package.url()), Some("SHA-256"))
            );
        }
        assert!(text.contains("GNU LESSER GENERAL PUBLIC LICENSE") || text.contains("GNU LIBRARY GENERAL PUBLIC LICENSE"));
        let dir = tempfile::tempdir().unwrap();
        let lgpl = parts.sources(dir.path()).unwrap();
        assert_eq!(lgpl, ["buffered-reader", "sequoia-openpgp"], "NOTICE and deny.toml tell of these");
        let notice = include_str!("../../NOTICE");
        assert!(lgpl.iter().all(|name| notice.contains(name)));
    }

    #[test]
    fn what_only_builds_or_tests_is_not_told_of() {
        let parts = Parts::read().unwrap();
        for absent in ["protox", "tempfile", "bindgen", "tar"] {
            assert!(!parts.crates.iter().any(|package| package.name == absent), "{absent}");
        }
    }
}
