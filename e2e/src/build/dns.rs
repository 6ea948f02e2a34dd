//! `CoreDNS`: the resolver of most clusters, and here also Azure's own.

use std::path::PathBuf;

use anyhow::Result;

use super::{Cache, Extra, Image, product};

/// The image of `CoreDNS`.
pub const COREDNS_IMAGE: &str = "lab.test/coredns:1";

/// Builds `CoreDNS`, once, and answers where its executable is.
///
/// # Errors
/// If it cannot be built.
pub fn coredns(cache: &Cache) -> Result<PathBuf> {
    Ok(Extra::CoreDns.ensure(cache)?.join("coredns"))
}

/// Makes its image.
///
/// # Errors
/// If it cannot be built.
pub fn coredns_image(cache: &Cache) -> Result<PathBuf> {
    let image = Image::new(COREDNS_IMAGE, &["/coredns"], &[]).executable("/coredns", &coredns(cache)?)?;
    product::write(&cache.path("images/coredns.tar"), &image)
}
