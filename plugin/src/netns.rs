//! Network namespaces by path: open, enter, tell apart. Never creates or removes one.

#![expect(unsafe_code, reason = "SO_NETNS_COOKIE and SIOCGSKNS have no safe wrappers; a call of each below")]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _},
    thread,
    time::Duration,
};

use rustix::{fs::OFlags, io::Errno, thread::LinkNameSpaceType};

use crate::{
    netlink::{Netlink, NetlinkError},
    small,
};

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no such file.
    #[error("there is no namespace at {path}")]
    Gone {
        /// The path.
        path: String,
    },
    /// It cannot be opened.
    #[error("cannot open the namespace at {path}")]
    Open {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else is there.
    #[error("{path} is no network namespace")]
    NotOne {
        /// The path.
        path: String,
    },
    /// It is the host's.
    #[error("{path} is the namespace that this plugin runs in")]
    Own {
        /// The path.
        path: String,
    },
    /// It cannot be entered.
    #[error("cannot enter the namespace at {path}")]
    Enter {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that went there cannot come back: what it sees from now on is not the host's.
    #[error("cannot come back from the namespace at {path}")]
    Astray {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No IPv6 in it.
    #[error("there is no IPv6 in the namespace at {path}")]
    Ipv6 {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No socket in it.
    #[error("cannot talk to the kernel about the namespace at {path}")]
    Socket {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// A network namespace, held open, that is not the caller's own. For the thread that opened it, and threads of the same namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    own: File,
    path: String,
}

impl Netns {
    /// Opens the namespace at a path.
    ///
    /// # Errors
    /// Nothing is there ([`NetnsError::Gone`]), it is no network namespace, it is the caller's own, or the kernel gives no socket.
    pub fn open(path: &str) -> Result<Self, NetnsError> {
        let own = Netlink::open().map_err(|source| NetnsError::Socket { path: path.to_owned(), source })?;
        Self::beside(&own, path)
    }

    /// As [`Self::open`], of a caller who has a socket of its own namespace.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn beside(own: &Netlink, path: &str) -> Result<Self, NetnsError> {
        // A pipe that nobody writes into is not waited for.
        let file = small::open(path.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK).map_err(|source| {
            let path = path.to_owned();
            match Errno::from_io_error(&source) {
                Some(Errno::NOENT) => NetnsError::Gone { path },
                // A socket, a device, a link that leads to itself.
                Some(Errno::NXIO | Errno::NODEV | Errno::LOOP) => NetnsError::NotOne { path },
                Some(_) | None => NetnsError::Open { path, source },
            }
        })?;
        let failed = |source| NetnsError::Open { path: path.to_owned(), source };
        let own = of_socket(own.as_fd()).map_err(failed)?;
        let [this, here] = [&file, &own].map(|file| rustix::fs::fstat(file).map_err(|errno| failed(errno.into())));
        let (this, here) = (this?, here?);
        // Namespaces are all of one file system. A pinned one whose mount is gone leaves an empty file of another.
        if this.st_dev != here.st_dev {
            return Err(NetnsError::NotOne { path: path.to_owned() });
        }
        if this.st_ino == here.st_ino {
            return Err(NetnsError::Own { path: path.to_owned() });
        }
        Ok(Self { file, own, path: path.to_owned() })
    }

    /// Opens a socket inside. The calling thread goes there and comes back.
    ///
    /// # Errors
    /// The thread cannot go, cannot come back, or the kernel gives no socket.
    pub fn netlink(&self) -> Result<Netlink, NetnsError> {
        self.inside(Netlink::open)?.map_err(|source| NetnsError::Socket { path: self.path.clone(), source })
    }

    /// The kernel's number of this namespace, never used again in this boot (`SO_NETNS_COOKIE`, Linux 5.14); none on older kernels.
    ///
    /// # Errors
    /// The thread cannot go, or cannot come back.
    pub fn cookie(&self) -> Result<Option<u64>, NetnsError> {
        self.inside(own_cookie)
    }

    /// Opens a socket inside and reads the kernel's number of the namespace through it: one visit for both.
    ///
    /// # Errors
    /// As [`Self::netlink`].
    pub fn netlink_and_cookie(&self) -> Result<(Netlink, Option<u64>), NetnsError> {
        let netlink = self.netlink()?;
        let cookie = cookie_of(netlink.as_fd());
        Ok((netlink, cookie))
    }

    /// Lets the namespace have IPv6 addresses, which runtimes turn off in containers.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel has no IPv6.
    pub fn enable_ipv6(&self) -> Result<(), NetnsError> {
        const SWITCH: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
        let enable = || {
            if std::fs::read_to_string(SWITCH)?.trim() == "0" { Ok(()) } else { std::fs::write(SWITCH, "0") }
        };
        self.inside(enable)?.map_err(|source| NetnsError::Ipv6 { path: self.path.clone(), source })
    }

    fn inside<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let path = || self.path.clone();
        enter(self.file.as_fd()).map_err(|errno| match errno {
            // A namespace, but of mounts or processes, say.
            Errno::INVAL => NetnsError::NotOne { path: path() },
            errno => NetnsError::Enter { path: path(), source: errno.into() },
        })?;
        let result = work();
        self.come_back().map_err(|errno| NetnsError::Astray { path: path(), source: errno.into() })?;
        Ok(result)
    }

    /// Who cannot come back has to end, so that a kernel which is short of memory for a moment gets that moment.
    fn come_back(&self) -> Result<(), Errno> {
        const TRIES: usize = 16;
        const PAUSE: Duration = Duration::from_millis(1);
        for _ in 1..TRIES {
            match enter(self.own.as_fd()) {
                Ok(()) => return Ok(()),
                Err(_) => thread::sleep(PAUSE),
            }
        }
        enter(self.own.as_fd())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn enter(netns: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
}

fn own_cookie() -> Option<u64> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?;
    cookie_of(socket.as_fd())
}

/// The namespace of a socket, held open. Its path in /proc would be made for each process, and be walked: six times as long.
fn of_socket(socket: BorrowedFd<'_>) -> io::Result<File> {
    /// `SIOCGSKNS`, of Linux 4.9, which libc does not name.
    const NAMESPACE_OF_SOCKET: libc::Ioctl = 0x894c;
    // SAFETY: the call reads and writes no memory of ours.
    let opened = unsafe { libc::ioctl(socket.as_raw_fd(), NAMESPACE_OF_SOCKET) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now, for us alone.
    Ok(unsafe { File::from_raw_fd(opened) })
}

/// `SO_NETNS_COOKIE` of a socket.
fn cookie_of(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = size_of::<u64>().try_into().ok()?;
    // SAFETY: `cookie` and `len` outlive the call, and `len` is the size of `cookie`.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len) };
    (result == 0).then_some(cookie)
}
