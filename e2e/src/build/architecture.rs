//! The kinds of processors that plugins are built for.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the lab and the archives are made on amd64 and arm64 only");

/// A kind of processor, by the name that container tools give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// All that archives are made for.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// What this program was built for.
    #[must_use]
    pub const fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    /// Its name in archives and images.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its name to compilers and to the kernel.
    #[must_use]
    pub const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Rust's target whose programs need nothing of the machine.
    pub(super) fn musl(self) -> String {
        format!("{}-unknown-linux-musl", self.machine())
    }

    /// Rust's target of Debian's own programs.
    pub(super) fn glibc(self) -> String {
        format!("{}-unknown-linux-gnu", self.machine())
    }

    /// Where Debian has musl.
    pub(super) fn musl_folder(self) -> PathBuf {
        Path::new("/usr/lib").join(format!("{}-linux-musl", self.machine()))
    }

    /// The program that links for it.
    pub(super) fn linker(self) -> String {
        if self == Self::of_this_machine() { "cc".to_owned() } else { format!("{}-linux-gnu-gcc", self.machine()) }
    }
}
