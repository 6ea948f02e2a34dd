//! What a lab gets while it is up: further images, and programs in the fabric.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Lab, run, state};

impl Lab {
    /// Brings an image to all nodes; a reboot brings it again.
    ///
    /// # Errors
    /// If a node is off, or its containerd refuses the image.
    pub fn bring_image(&self, image: &Path) -> Result<()> {
        let name = image.file_name().context("an image is a file")?.to_string_lossy();
        state::link(image, &self.state.path("images").join(&*name))?;
        for node in self.nodes() {
            node.exec(&["ctr", "-n", "k8s.io", "images", "import", "--local", &format!("/kube/images/{name}")])?;
        }
        Ok(())
    }

    /// Gives an image that all nodes have another name as well.
    ///
    /// # Errors
    /// If a node is off or has no such image.
    pub fn name_image(&self, image: &str, name: &str) -> Result<()> {
        for node in self.nodes() {
            node.exec(&["ctr", "-n", "k8s.io", "images", "tag", "--force", image, name])?;
        }
        Ok(())
    }

    /// Starts a program in the fabric, where Azure's own addresses are; it ends with the lab, and its log lies beside the others.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_in_fabric(&self, name: &str, program: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = self.inside();
        command.arg(program).args(arguments);
        self.adopt(run::start(&mut command, &self.state.path("log").join(name))?);
        Ok(())
    }
}
