//! The tools that are built from Go modules: Kubernetes, etcd, containerd, helm, cnitool, and a client of container runtimes; and what few
//! labs need, only for those.
//!
//! Each module in `e2e/go` pins what it builds with go.mod and go.sum; they, main.go, the flags and Go's version are the key.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::{Cache, checkout, key, progress};
use crate::lab::finish;

const KUBERNETES_VERSION: &str = "v1.35.4";
const CONTAINERD_VERSION: &str = "v2.4.2";

/// One module of `e2e/go`.
struct Module {
    name: &'static str,
    /// Executable and the package it is built from.
    outputs: &'static [(&'static str, &'static str)],
    /// What the linker writes into variables.
    definitions: Vec<String>,
    /// What to say about the first build.
    takes: &'static str,
}

/// The built tools, by folder.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Every executable: its name and where it is.
    pub executables: Vec<(String, PathBuf)>,
}

impl Tools {
    /// Builds what is not in the cache yet.
    ///
    /// # Errors
    /// If Go is missing or a build fails.
    pub fn ensure(cache: &Cache) -> Result<Self> {
        let _lock = cache.lock()?;
        let go = go_version()?;
        let mut executables = Vec::new();
        for module in modules() {
            let folder = module.ensure(cache, &go)?;
            executables.extend(module.outputs.iter().map(|(name, _)| ((*name).to_owned(), folder.join(name))));
        }
        Ok(Self { executables })
    }

    /// Where one executable is.
    ///
    /// # Errors
    /// If no module builds it.
    pub fn path(&self, name: &str) -> Result<&Path> {
        let found = self.executables.iter().find(|(executable, _)| executable == name);
        found.map(|(_, path)| path.as_path()).with_context(|| format!("no tool is called {name}"))
    }
}

/// What few labs need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// `CoreDNS`.
    CoreDns,
    /// Kubernetes' own test suite, its runner, and servers that its specs start.
    Suite,
}

impl Extra {
    /// Builds it if it is not in the cache yet, and answers the folder of its executables.
    ///
    /// # Errors
    /// If Go is missing or the build fails.
    pub fn ensure(self, cache: &Cache) -> Result<PathBuf> {
        let _lock = cache.lock()?;
        self.module().ensure(cache, &go_version()?)
    }

    /// Where Go keeps the source of a module that it is built from.
    pub(super) fn module_folder(self, name: &str) -> Result<PathBuf> {
        let mut go = Command::new("go");
        go.args(["list", "-m", "-f", "{{.Dir}}", name]).current_dir(self.module().source()).env("GOTOOLCHAIN", "local");
        Ok(PathBuf::from(finish(&mut go)?.trim()))
    }

    fn module(self) -> Module {
        match self {
            Self::CoreDns => Module {
                name: "coredns",
                outputs: &[("coredns", "github.com/coredns/coredns")],
                definitions: vec![],
                takes: "2 to 3 minutes",
            },
            Self::Suite => Module {
                name: "suite",
                outputs: &[
                    ("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
                    ("regression-issue-74839", "k8s.io/kubernetes/test/images/regression-issue-74839"),
                    ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
                    ("e2e.test", "k8s.io/kubernetes/test/e2e"),
                ],
                definitions: of_kubernetes(),
                takes: "5 to 12 minutes",
            },
        }
    }
}

/// What its parts call themselves: clients and the suite go by it.
fn of_kubernetes() -> Vec<String> {
    let version = "k8s.io/component-base/version";
    let minor = KUBERNETES_VERSION.split('.').nth(1).unwrap_or_default();
    vec![
        format!("{version}.gitVersion={KUBERNETES_VERSION}"),
        format!("{version}.gitMajor=1"),
        format!("{version}.gitMinor={minor}"),
        format!("k8s.io/client-go/pkg/version.gitVersion={KUBERNETES_VERSION}"),
    ]
}

fn modules() -> Vec<Module> {
    vec![
        Module { name: "etcd", outputs: &[("etcd", ".")], definitions: vec![], takes: "half a minute" },
        Module {
            name: "containerd",
            outputs: &[
                ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
                ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
                ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
            ],
            definitions: vec![format!("github.com/containerd/containerd/v2/version.Version={CONTAINERD_VERSION}")],
            takes: "a minute",
        },
        Module {
            name: "cnitool",
            outputs: &[("cnitool", "github.com/containernetworking/cni/cnitool")],
            definitions: vec![],
            takes: "a few seconds",
        },
        Module { name: "cri", outputs: &[("cri", ".")], definitions: vec![], takes: "half a minute" },
        Module { name: "kubernetes", outputs: &[("kubernetes", ".")], definitions: of_kubernetes(), takes: "6 to 14 minutes" },
        Module { name: "helm", outputs: &[("helm", "helm.sh/helm/v4/cmd/helm")], definitions: vec![], takes: "2 to 3 minutes" },
    ]
}

impl Module {
    /// Its folder in the checkout.
    fn source(&self) -> PathBuf {
        checkout().join("e2e/go").join(self.name)
    }

    fn ensure(&self, cache: &Cache, go: &str) -> Result<PathBuf> {
        let source = self.source();
        let flags = self.link_flags();
        let read = |file: &str| fs::read(source.join(file)).unwrap_or_default();
        let key = key(&[
            ("go", go.as_bytes()),
            ("flags", flags.as_bytes()),
            ("go.mod", &read("go.mod")),
            ("go.sum", &read("go.sum")),
            ("main.go", &read("main.go")),
        ]);
        let folder = cache.path("tools").join(format!("{}-{key}", self.name));
        if folder.exists() {
            return Ok(folder);
        }
        let start = Instant::now();
        progress(&format!("building {} (once; takes {})", self.name, self.takes));
        let unfinished = folder.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        for (executable, package) in self.outputs {
            self.go_build(&source, &flags, &unfinished.join(executable), package)?;
        }
        fs::rename(&unfinished, &folder)?;
        progress(&format!("built {} in {:.0} s", self.name, start.elapsed().as_secs_f64()));
        Ok(folder)
    }

    fn link_flags(&self) -> String {
        self.definitions.iter().fold("-s -w".to_owned(), |flags, definition| format!("{flags} -X {definition}"))
    }

    fn go_build(&self, source: &Path, flags: &str, output: &Path, package: &str) -> Result<()> {
        let mut go = Command::new("go");
        let build: &[&str] = if output.extension().is_some_and(|end| end == "test") { &["test", "-c"] } else { &["build"] };
        go.args(build).args(["-trimpath", "-ldflags", flags, "-o"]).arg(output).arg(package);
        go.current_dir(source).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").process_group(0);
        let result = go.output().context("cannot run go")?;
        if !result.status.success() {
            bail!("go build of {} failed in {}:\n{}", self.name, source.display(), String::from_utf8_lossy(&result.stderr));
        }
        Ok(())
    }
}

fn go_version() -> Result<String> {
    let output = Command::new("go").args(["env", "GOVERSION", "GOARCH"]).env("GOTOOLCHAIN", "local").output();
    let output = output.context(
        "Go is missing: the lab builds Kubernetes, containerd, etcd and helm from Go modules; install Go 1.26 or later and put it in PATH",
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
