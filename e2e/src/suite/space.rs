//! Whether the disk has room for what the tests build, which is better known before them than in their middle.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::build::{Cache, checkout};

const GIB: u64 = 1 << 30;
/// What any run adds; what is built in a checkout that has nothing yet; and in a cache that has none of the tools and earlier versions.
const RUN: u64 = 2 * GIB;
const BUILDS: u64 = 7 * GIB;
const TOOLS: u64 = 5 * GIB;

/// Fails where the disk of the checkout or of the cache is too full for a run.
///
/// # Errors
/// If there is too little room, or a disk cannot be asked.
pub fn require_space(cache: &Cache) -> Result<()> {
    let (checkout, cache) = (checkout(), cache.path(""));
    let lacks = |folder: &Path, below: &str, size| if folder.join(below).exists() { 0 } else { size };
    let needed = RUN + lacks(&checkout, "target/debug/examples", BUILDS) + lacks(&cache, "tools", TOOLS);
    for folder in [&checkout, &cache] {
        require(folder, needed, free(folder)?)?;
    }
    Ok(())
}

fn free(folder: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(folder).with_context(|| format!("cannot ask the disk of {}", folder.display()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn require(folder: &Path, needed: u64, free: u64) -> Result<()> {
    if free < needed {
        let (needed, free) = (needed / GIB, free / GIB);
        bail!("the tests need {needed} GiB of disk at {}, and {free} GiB are free: make room, or set CARGO_TARGET_DIR", folder.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_told_before_anything_is_built() {
        let error = require(Path::new("/checkout"), RUN + BUILDS, 8 * GIB).unwrap_err().to_string();
        assert!(error.contains("need 9 GiB") && error.contains("8 GiB are free"), "{error}");
        require(Path::new("/checkout"), RUN, 8 * GIB).unwrap();
    }
}
