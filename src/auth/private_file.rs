//! Files that are nobody else's: the secrets in the data directory.
//!
//! One that others may read, or that is no plain file of ours, is refused: it may be known already,
//! or be somebody's trap.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

/// Why a file is not used.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// It cannot be read or made.
    #[error("{} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is a symbolic link, a FIFO, a directory, …
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Others may read it.
    #[error("{} can be read by others: chmod 600 it", .0.display())]
    Readable(PathBuf),
    /// It belongs to another user.
    #[error("{} belongs to another user", .0.display())]
    Owner(PathBuf),
}

impl PrivateFileError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads the first bytes of a file, up to so many.
///
/// # Errors
/// When it is unusable, or usable by others.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PrivateFileError> {
    let io_error = |source: io::Error| PrivateFileError::Io { path: path.to_owned(), source };
    // Without O_NONBLOCK the open of a FIFO would wait for a writer for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(PrivateFileError::NotAFile(path.to_owned())),
        Err(error) => return Err(io_error(error.into())),
    };
    let metadata = file.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(PrivateFileError::NotAFile(path.to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(PrivateFileError::Readable(path.to_owned()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(PrivateFileError::Owner(path.to_owned()));
    }
    let mut content = Vec::new();
    file.take(bytes_max).read_to_end(&mut content).map_err(io_error)?;
    Ok(content)
}

/// Makes a file, if there is none. A crash leaves a whole file or none, and one that is there is
/// never replaced: that is the error `AlreadyExists`.
///
/// # Errors
/// When there is one, or it cannot be made.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = draft(path, content)?;
    let placed = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    placed?;
    sync_folder(path)
}

/// Makes a file, or puts another in its place.
///
/// # Errors
/// When it cannot be made.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::rename(draft(path, content)?, path)?;
    sync_folder(path)
}

/// The content, durable beside its place.
fn draft(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let _ = fs::remove_file(&draft);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content).and_then(|()| file.sync_all())?;
    Ok(draft)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_made_whole_private_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(read(&path, 9).unwrap_err().is_absence());
        create(&path, b"one").unwrap();
        assert_eq!(create(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path, 9).unwrap(), b"one");
        assert_eq!(read(&path, 2).unwrap(), b"on");
        replace(&path, b"three").unwrap();
        assert_eq!(read(&path, 9).unwrap(), b"three");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_others_may_read_or_is_no_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, b"one").unwrap();
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path, 9), Err(PrivateFileError::Readable(_))));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read(&link, 9), Err(PrivateFileError::NotAFile(_))));
        let fifo = dir.path().join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(matches!(read(&fifo, 9), Err(PrivateFileError::NotAFile(_))));
        assert!(matches!(read(dir.path(), 9), Err(PrivateFileError::NotAFile(_))));
    }
}
