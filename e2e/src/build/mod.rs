//! Everything the lab runs that has to be built first: tools from Go modules, the product's own binaries, container images.
//!
//! Results live in a cache outside the checkout, each under the hash of what it is made from, so an unchanged input costs nothing.

mod architecture;
mod cargo;
mod compiler;
mod container;
mod debian;
mod dns;
mod earlier;
mod image;
mod layout;
mod packages;
mod product;
mod suite;
mod tools;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

pub use architecture::Architecture;
pub use cargo::{SIMULATE, cargo};
pub use container::Store;
pub use dns::{COREDNS_IMAGE, coredns, coredns_image};
pub use earlier::{EARLIER_IMAGE, EARLIER_MARK, Earlier, earlier};
pub use image::{Entry, Image};
pub use layout::Layout;
pub use packages::{require_browser, require_emulator, require_packages};
pub use product::{
    OPERATOR_IMAGE, Operator, PAUSE_IMAGE, PROBE_IMAGE, Product, empty_program, image_of_probe, operator_for_here, operator_image,
    pause_image, plugins, plugins_for, probe_binary, product,
};
pub use suite::Suite;
pub use tools::{Extra, Tools};

/// Where built things are kept between runs.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// Opens the cache: `$AZURE_VNET_CACHE`, else `$XDG_CACHE_HOME`, else `~/.cache`, each with `azure-vnet-lab` below it.
    ///
    /// # Errors
    /// If no home directory is known or the folder cannot be made.
    pub fn open() -> Result<Self> {
        let base = ["AZURE_VNET_CACHE", "XDG_CACHE_HOME"]
            .iter()
            .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .context("no cache folder: set AZURE_VNET_CACHE")?;
        let root = std::path::absolute(base)?.join("azure-vnet-lab");
        fs::create_dir_all(&root).with_context(|| format!("cannot make the cache {}", root.display()))?;
        Ok(Self(root))
    }

    /// The folder below the cache in which running labs keep their state.
    #[must_use]
    pub fn labs(&self) -> PathBuf {
        self.0.join("labs")
    }

    /// A path below the cache.
    #[must_use]
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.0.join(below)
    }

    /// Holds the lock under which one build at a time runs, until the file is dropped.
    fn lock(&self) -> Result<fs::File> {
        self.lock_of("build")
    }

    /// The same for something that builds may need.
    fn lock_of(&self, name: &str) -> Result<fs::File> {
        let file = fs::File::create(self.0.join(format!("{name}.lock")))?;
        file.lock()?;
        Ok(file)
    }
}

/// The checkout this program was built from.
#[must_use]
pub fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Prints one line of progress to standard error.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "  {line}");
}

/// Hashes named parts into sixteen hex digits; the names keep parts from running into each other.
fn key(parts: &[(&str, &[u8])]) -> String {
    let mut hash = Sha256::new();
    for (name, content) in parts {
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    }
    hex(&hash.finalize()).chars().take(16).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Replaces a file in one step, so that a reader sees the old or the new.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension(format!("tmp{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(())
}
