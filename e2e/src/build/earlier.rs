//! The version before this one, built from the checkout's own history: what an upgrade begins with, and where going back ends.
//!
//! That is the last tag before the commit that is checked out, else the commit at which the product was first whole. Nothing is fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::compiler::Compiler;
use super::product::{QUICK, Tree, target_folder, write};
use super::{Cache, Entry, Image, Operator, checkout, key, progress};

/// The earlier version's image.
pub const EARLIER_IMAGE: &str = "lab.test/azure-vnet:earlier";
/// What its plugins end with. The kernel loads what the headers name and nothing after it; plugins that did not change since are told apart by this.
pub const EARLIER_MARK: &[u8] = b"\nan earlier version\n";

/// The first commit whose every test passed, as long as nothing before this version has a tag.
const FIRST: &str = "7d6eacef1857bb1baf4a816e4924e265214e01ba";
const IMAGE_FILE: &str = "azure-vnet-earlier.tar";
/// To be changed with what is done here, so that what was built otherwise is not used.
const RECIPE: &[u8] = b"1";

/// What is used of it.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// Its chart, with the definitions that were its own.
    pub chart: PathBuf,
    /// Its image, named [`EARLIER_IMAGE`].
    pub image: PathBuf,
}

/// Builds it, unless it was built before. To be called after this version was built, whose dependencies it takes over.
///
/// # Errors
/// If the history lacks its commit, or it cannot be built.
pub fn earlier(cache: &Cache) -> Result<Earlier> {
    let commit = commit(&checkout())?;
    let folder = cache.path("earlier").join(key(&[("commit", commit.as_bytes()), ("recipe", RECIPE)]));
    if !folder.exists() {
        build(cache, &commit, &folder)?;
    }
    Ok(Earlier { chart: folder.join("chart"), image: folder.join(IMAGE_FILE) })
}

fn build(cache: &Cache, commit: &str, folder: &Path) -> Result<()> {
    let _lock = cache.lock()?;
    // Somebody else may have built it while this one waited.
    if folder.exists() {
        return Ok(());
    }
    let begun = Instant::now();
    progress(&format!("building the version before this one, {commit:.12} (once; takes one to three minutes)"));
    let work = folder.with_extension("unfinished");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let tree = Tree { source: work.join("source"), target: work.join("target") };
    // As old as they are unpacked: cargo builds anew what is younger than its result.
    let archive = git(&checkout(), &["archive", "--format=tar", commit])?;
    let mut archive = tar::Archive::new(archive.as_slice());
    archive.set_preserve_mtime(false);
    archive.unpack(&tree.source)?;
    for part in [QUICK.to_owned(), "static/release".to_owned(), format!("static/{}/release", Compiler::find(cache).target)] {
        take_over(&target_folder()?.join(&part), &tree.target.join(&part))?;
    }
    tree.gather(cache, Operator::Quick, &work.join("bin"))?;
    tree.lay_out(&work.join("bin"), &work.join("rootfs"))?;
    write(&work.join(IMAGE_FILE), &image(&work.join("rootfs"))?)?;
    fs::rename(tree.source.join("charts/azure-vnet"), work.join("chart"))?;
    for part in ["source", "target", "bin", "rootfs"] {
        fs::remove_dir_all(work.join(part))?;
    }
    fs::rename(&work, folder)?;
    progress(&format!("built it in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// The last tag of a version before the commit that is checked out, else [`FIRST`].
fn commit(repository: &Path) -> Result<String> {
    let tag = git(repository, &["describe", "--tags", "--abbrev=0", "--match=v[0-9]*", "HEAD^"]).and_then(line);
    let name = tag.unwrap_or_else(|_| FIRST.to_owned());
    let commit = git(repository, &["rev-parse", "--quiet", "--verify", &format!("{name}^{{commit}}")]);
    commit.and_then(line).with_context(|| {
        format!(
            "an upgrade is tried from {name}, which the history of {} lacks: it takes a whole clone (git fetch --unshallow --tags)",
            repository.display()
        )
    })
}

fn line(output: Vec<u8>) -> Result<String> {
    Ok(String::from_utf8(output)?.trim().to_owned())
}

/// Runs git, also in a checkout that belongs to somebody else.
fn git(repository: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = command(repository, arguments).output().context("cannot run git, which brings the version before this one")?;
    ensure!(output.status.success(), "git {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

/// Git as if nobody had told it of a repository: a hook that runs the tests does, and its own would be read, or written, in place of this one.
fn command(repository: &Path, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
        git.env_remove(name);
    }
    git.args(["-c", "safe.directory=*", "-C"]).arg(repository).args(arguments);
    git
}

/// Copies what cargo has built, but for the project's own crates: cargo knows these by their place in the workspace, and would take one version's for the
/// other's.
fn take_over(from: &Path, to: &Path) -> Result<()> {
    for part in [".fingerprint", "build", "deps"] {
        let Ok(entries) = fs::read_dir(from.join(part)) else { continue };
        let is_of_others = |path: &PathBuf| !path.to_string_lossy().replace('-', "_").contains("azure_vnet");
        let names = entries.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect::<Result<Vec<_>>>()?;
        let of_others: Vec<PathBuf> = names.into_iter().filter(is_of_others).collect();
        if !of_others.is_empty() {
            fs::create_dir_all(to.join(part))?;
            let mut cp = Command::new("cp");
            cp.current_dir(from.join(part)).args(["--archive", "--reflink=auto", "--target-directory"]).arg(to.join(part)).args(of_others);
            crate::lab::finish(&mut cp)?;
        }
    }
    Ok(())
}

fn image(root: &Path) -> Result<Image> {
    let mut image = Image::new(EARLIER_IMAGE, &["/usr/bin/azure-vnet-operator"], &[]).tree(root)?;
    for name in ["azure-vnet", "azure-vnet-ipam"] {
        let entry = image.entries.get_mut(&format!("opt/azure-vnet/bin/{name}"));
        let Some(Entry::File { content, .. }) = entry else { bail!("the image has no plugin {name}") };
        content.extend_from_slice(EARLIER_MARK);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with two commits; the names of both.
    fn repository(folder: &Path) -> [String; 2] {
        let run = |arguments: &[&str]| git(folder, arguments).unwrap();
        run(&["init", "--quiet"]);
        ["first", "second"].map(|message| {
            let author = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
            run(&[&author[..], &["commit", "--quiet", "--allow-empty", "--message", message]].concat());
            line(run(&["rev-parse", "HEAD"])).unwrap()
        })
    }

    #[test]
    fn the_version_before_is_the_last_tag_that_is_not_on_this_commit() {
        let folder = tempfile::tempdir().unwrap();
        let [first, _] = repository(folder.path());
        for (tag, on) in [("v0.1.0", "HEAD^"), ("other", "HEAD^"), ("v0.2.0", "HEAD")] {
            git(folder.path(), &["tag", tag, on]).unwrap();
        }
        assert_eq!(commit(folder.path()).unwrap(), first);
    }

    #[test]
    fn a_repository_that_the_environment_names_is_not_read_in_its_place() {
        let other = tempfile::tempdir().unwrap();
        let test = format!("{}::the_version_before_is_the_last_tag_that_is_not_on_this_commit", module_path!());
        let test = test.split_once("::").unwrap().1;
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", test]).env("GIT_DIR", other.path()).env("GIT_WORK_TREE", other.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_history_without_the_version_before_says_what_to_fetch() {
        let folder = tempfile::tempdir().unwrap();
        repository(folder.path());
        let said = format!("{:#}", commit(folder.path()).unwrap_err());
        assert!(said.contains(FIRST) && said.contains("git fetch --unshallow --tags"), "{said}");
    }
}
