//! Kubernetes' own test suite, its runner, and the images that its network specs start.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::debian::Debian;
use super::image::{Entry, Image};
use super::{Cache, Extra, coredns, key, layout, product, progress};

/// What images of the suite are called, in the place of the registries that it would ask.
const REGISTRY: &str = "lab.test/e2e";
/// What specs call in a pod: the suite's images are made of another distribution, and have these from there.
const PACKAGES: &[&str] = &[
    "bash",
    "bind9-dnsutils",
    "ca-certificates",
    "conntrack",
    "curl",
    "iperf",
    "iproute2",
    "iptables",
    "netcat-openbsd",
    "procps",
    "wget",
];
/// Every registry that the suite knows.
const REGISTRIES: &[&str] = &[
    "promoterE2eRegistry",
    "buildImageRegistry",
    "gcEtcdRegistry",
    "gcRegistry",
    "sigStorageRegistry",
    "dockerLibraryRegistry",
    "cloudProviderGcpRegistry",
];

/// The built suite.
#[derive(Debug)]
pub struct Suite(PathBuf);

impl Suite {
    /// The image that most specs start, which has whatever they call.
    pub const AGNHOST: &str = "lab.test/e2e/agnhost:2.59";
    /// Images of which specs want a shell, programs of [`Self::AGNHOST`], or only that they run.
    pub const OTHER_NAMES: &[&str] = &[
        "lab.test/e2e/busybox:1.37.0-1",
        "lab.test/e2e/distroless-iptables:v0.8.9",
        "lab.test/e2e/jessie-dnsutils:1.7",
        "lab.test/e2e/nginx:1.14-4",
    ];
    const PAUSE: &str = "lab.test/e2e/pause:3.10.1";
    const BOOM: &str = "lab.test/e2e/regression-issue-74839:1.4";

    /// Builds it, once.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn ensure(cache: &Cache) -> Result<Self> {
        Ok(Self(Extra::Suite.ensure(cache)?))
    }

    /// One of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What the suite reads instead of the registries that it knows.
    #[must_use]
    pub fn registries() -> String {
        REGISTRIES.iter().fold(String::new(), |text, name| format!("{text}{name}: {REGISTRY}\n"))
    }

    /// Makes its images, once.
    ///
    /// # Errors
    /// If Debian's packages or the test tool cannot be had.
    pub fn images(&self, cache: &Cache) -> Result<Vec<PathBuf>> {
        let boom =
            with_signals(Image::new(Self::BOOM, &["/server"], &[])).executable("/server", &self.program("regression-issue-74839"))?;
        let pause = Image::new(Self::PAUSE, &["/pause", "sleep"], &[]).executable("/pause", &super::probe_binary(cache)?)?;
        Ok(vec![
            self.agnhost(cache)?,
            product::write(&cache.path("images/suite-boom.tar"), &boom)?,
            product::write(&cache.path("images/suite-pause.tar"), &pause)?,
        ])
    }

    fn agnhost(&self, cache: &Cache) -> Result<PathBuf> {
        let key = key(&[("packages", PACKAGES.join(" ").as_bytes()), ("suite", self.0.as_os_str().as_encoded_bytes())]);
        let path = cache.path(format!("images/suite-agnhost-{key}.tar"));
        if path.exists() {
            return Ok(path);
        }
        progress("making the suite's image of Debian's packages (once; takes a minute)");
        let tree = path.with_extension("tree");
        Debian { variant: "apt", packages: PACKAGES, hooks: vec![] }.write(&tree)?;
        let mut image = with_signals(Image::new(Self::AGNHOST, &["/agnhost"], &["pause"]));
        let packed = std::fs::File::open(&tree).with_context(|| format!("cannot open {}", tree.display()))?;
        image.entries.extend(layout::read_tar(packed)?.into_iter().map(|(path, (_, entry))| (path, entry)));
        std::fs::remove_file(&tree)?;
        image.entries.insert("agnhost-2".into(), Entry::Link("agnhost".into()));
        image.entries.insert("uploads".into(), Entry::Folder(0o755));
        // What its HTTPS server shows.
        let porter = Extra::Suite.module_folder("k8s.io/kubernetes")?.join("test/images/agnhost/porter");
        for name in ["localhost.crt", "localhost.key"] {
            let content = std::fs::read(porter.join(name)).with_context(|| format!("cannot read {name} of {}", porter.display()))?;
            image.entries.insert(name.to_owned(), Entry::File { mode: 0o644, content });
        }
        let image = image.executable("/agnhost", &self.program("agnhost"))?.executable("/coredns", &coredns(cache)?)?;
        product::write(&path, &image)
    }
}

/// Specs ask servers to end, and look at how they do.
fn with_signals(image: Image) -> Image {
    Image { stop_signal: "SIGTERM", ..image }
}
