//! Tells when a file is written, by whichever process: inotify, asked for by the kernel's own calls, so that an idle daemon
//! sleeps. It does not say who wrote, or what.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Notices of one file.
pub struct Notices {
    queue: AsyncFd<OwnedFd>,
}

impl Notices {
    /// Notices of writes to a file, which must be there, and which is not replaced as long as this lives.
    ///
    /// # Errors
    /// The system's: no file, or no more watches for this user.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&queue, path, WatchFlags::MODIFY)?;
        #[expect(deprecated, reason = "its successor is unsafe, and asks for what an owned descriptor gives")]
        let queue = AsyncFd::new(queue)?;
        Ok(Self { queue })
    }

    /// Waits until something was written since the last call. Safe to drop while it waits.
    ///
    /// # Errors
    /// The system's; nothing more will be told.
    pub async fn next(&mut self) -> std::io::Result<()> {
        let mut ready = self.queue.readable().await?;
        // What came is one and the same: somebody wrote. The queue is emptied, so that it tells of later writes only.
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        while let Ok(read) = ready.try_io(|queue| Ok(rustix::io::read(queue.get_ref(), &mut buffer)?.0.len())) {
            if read? == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn writes_are_told_and_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(Notices::of(&path).is_err(), "what is not there cannot be watched");
        std::fs::write(&path, "a").unwrap();
        let mut notices = Notices::of(&path).unwrap();
        std::fs::read(&path).unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(50), notices.next()).await;
        assert!(silence.is_err());
        for text in ["b", "c"] {
            std::fs::write(&path, text).unwrap();
            tokio::time::timeout(Duration::from_secs(60), notices.next()).await.unwrap().unwrap();
        }
        let silence = tokio::time::timeout(Duration::from_millis(50), notices.next()).await;
        assert!(silence.is_err(), "each write is told once");
    }
}
