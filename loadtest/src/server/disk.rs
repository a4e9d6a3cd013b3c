//! A disk that can lose its power: ext4 on a loop device over a file in memory.
//!
//! A power cut is the kernel's own `EXT4_IOC_SHUTDOWN` without a flush of the journal: what was not
//! synced is gone, and the next mount replays the journal, as after a real one.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::Failure;

/// The call takes a pointer, which our own code has no safe way to make. The program opens the disk
/// beforehand, so that the cut comes within microseconds of the word.
const CUTTER: &str = "
import fcntl, os, struct, sys
disk = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
if sys.stdin.readline():
    fcntl.ioctl(disk, 0x8004587d, struct.pack('I', 2))
    print('cut', flush=True)
";

/// A mounted disk. Dropping it unmounts and removes it.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    cutter: Option<Cutter>,
}

#[derive(Debug)]
struct Cutter {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Disk {
    /// Makes a disk of this size, of which its file takes what is used, and mounts it in this folder.
    pub(crate) fn make(folder: &Path, bytes: u64) -> Result<Self, Failure> {
        let must = |holds: bool, what: &str| {
            if holds {
                return Ok(());
            }
            let error = anyhow!("a power cut needs {what}, which is not here");
            Err(Failure::Configuration(error))
        };
        must(rustix::process::geteuid().is_root(), "root")?;
        must(Path::new("/dev/loop-control").exists(), "loop devices")?;
        must(Path::new("/dev/shm").is_dir(), "/dev/shm")?;
        for program in ["mkfs.ext4", "mount", "umount", "python3"] {
            must(is_installed(program), program)?;
        }
        let name = format!("hubbub-loadtest-{}.ext4", std::process::id());
        let disk = Self {
            image: Path::new("/dev/shm").join(name),
            mount: folder.join("disk"),
            cutter: None,
        };
        File::create(&disk.image)?.set_len(bytes)?;
        fs::create_dir_all(&disk.mount)?;
        call(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        // The first mount tells whether this machine can do it at all.
        let mut disk = disk;
        disk.mount()
            .context("a power cut needs a disk that can be mounted, which is not here")
            .map_err(Failure::Configuration)?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it, which replays the journal after a cut.
    pub(crate) fn mount(&mut self) -> Result<()> {
        call(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        let mut child = Command::new("python3")
            .args(["-c", CUTTER])
            .arg(&self.mount)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("the cutter has no standard input")?;
        let stdout = child.stdout.take().context("the cutter has no standard output")?;
        let mut cutter = Cutter { child, stdin, stdout: BufReader::new(stdout) };
        let answer = cutter.answer();
        self.cutter = Some(cutter);
        if answer? != "ready" {
            bail!("the helper that cuts the power did not start");
        }
        Ok(())
    }

    /// Cuts the power. Nothing that is not synced by now will be found at the next mount.
    pub(crate) fn cut(&mut self) -> Result<()> {
        let mut cutter = self.cutter.take().context("the power is cut already")?;
        cutter.stdin.write_all(b"now\n")?;
        if cutter.answer()? != "cut" {
            bail!("the power could not be cut");
        }
        cutter.child.wait()?;
        Ok(())
    }

    /// Writes what is not written yet, as the kernel does by itself sooner or later.
    pub(crate) fn settle(&self) -> Result<()> {
        call(Command::new("sync").arg("--file-system").arg(&self.mount))
    }

    /// Unmounts it. Nobody may have a file open on it.
    pub(crate) fn unmount(&mut self) -> Result<()> {
        call(Command::new("umount").arg(&self.mount))
    }
}

impl Cutter {
    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(Cutter { mut child, stdin, .. }) = self.cutter.take() {
            drop(stdin);
            let _ = child.wait();
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.contains(&*self.mount.to_string_lossy()) {
            // Lazily: a server that is just being killed may still hold it for a moment.
            let _ = call(Command::new("umount").arg("--lazy").arg(&self.mount));
        }
        let _ = fs::remove_file(&self.image);
    }
}

pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

pub(super) fn call(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
