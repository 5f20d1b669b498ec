//! Taking `/etc/resolv.conf` over, and giving it back.
//!
//! What was there before is kept inside the file itself, as comments. So it comes back after a crash and after a reboot,
//! there is no second file to lose, and it works where the file is mounted over (`ip netns exec`).

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::resolv_conf;

/// The first line of a file of ours.
const OURS: &str =
    "# postern wrote this file. The lines after '#|' are what was here; they come back when it stops.";
const BEFORE: &str = "#|";
/// The original was a link to this place.
const LINK: &str = "#@link ";
/// There was no file.
const ABSENT: &str = "#@absent";

/// What was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Original {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Link(PathBuf),
    Absent,
}

impl Original {
    /// The DNS servers that the host used.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        resolv_conf::servers(&self.text)
    }

    /// The file that names `server` alone. Search domains and options stay.
    fn replaced_by(&self, server: IpAddr) -> String {
        let mut text = format!("{OURS}\nnameserver {server}\n");
        for line in self.text.lines().filter(|line| {
            let word = line.split_whitespace().next();
            matches!(word, Some("search" | "domain" | "options"))
        }) {
            text.push_str(line);
            text.push('\n');
        }
        match &self.kind {
            Kind::File => {}
            Kind::Link(target) => text.push_str(&format!("{LINK}{}\n", target.display())),
            Kind::Absent => text.push_str(&format!("{ABSENT}\n")),
        }
        for line in self.text.lines() {
            text.push_str(&format!("{BEFORE}{line}\n"));
        }
        text
    }

    /// What a file of ours says was there before; `None` when it is not of ours.
    fn inside(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(OURS) {
            return None;
        }
        let mut original = Self { text: String::new(), kind: Kind::File };
        for line in lines {
            if let Some(line) = line.strip_prefix(BEFORE) {
                original.text.push_str(line);
                original.text.push('\n');
            } else if let Some(target) = line.strip_prefix(LINK) {
                original.kind = Kind::Link(PathBuf::from(target));
            } else if line == ABSENT {
                original.kind = Kind::Absent;
            }
        }
        Some(original)
    }

    /// What is at `path` now.
    fn at(path: &Path) -> io::Result<Self> {
        let kind = match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => Kind::Link(fs::read_link(path)?),
            Ok(_) => Kind::File,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kind::Absent,
            Err(error) => return Err(error),
        };
        Ok(Self { text: resolv_conf::read(path), kind })
    }
}

/// Makes `path` name `server`, and says what was there. A file that is ours already stays as it is.
pub(crate) fn take(path: &Path, server: IpAddr) -> io::Result<Original> {
    if let Some(original) = Original::inside(&resolv_conf::read(path)) {
        let wanted = original.replaced_by(server);
        if resolv_conf::read(path) != wanted {
            replace(path, &wanted)?;
        }
        return Ok(original);
    }
    let original = Original::at(path)?;
    replace(path, &original.replaced_by(server))?;
    Ok(original)
}

/// Puts back what was there before, if the file is ours; somebody else's is left alone.
pub(crate) fn give_back(path: &Path) -> io::Result<()> {
    let Some(original) = Original::inside(&resolv_conf::read(path)) else { return Ok(()) };
    match original.kind {
        Kind::File => replace(path, &original.text),
        Kind::Absent => fs::remove_file(path),
        Kind::Link(target) => {
            let fresh = beside(path);
            let _ = fs::remove_file(&fresh);
            symlink(target, &fresh)?;
            fs::rename(&fresh, path)
        }
    }
}

/// Whether the file at `path` is ours.
pub(crate) fn is_ours(path: &Path) -> bool {
    resolv_conf::read(path).lines().next() == Some(OURS)
}

/// Replaces a file whole, so that no reader sees half of it; in place where it is mounted over or its folder is not ours.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = beside(path);
    let whole = || -> io::Result<()> {
        let mut file = fs::File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        if let Ok(before) = fs::metadata(path) {
            file.set_permissions(before.permissions())?;
        }
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    whole().or_else(|_| {
        let _ = fs::remove_file(&fresh);
        // Through a link this would change somebody else's file.
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            return Err(io::Error::other("the file is a link, and its folder cannot be written"));
        }
        fs::write(path, text)
    })
}

/// Of this process alone: with a file that is mounted over, daemons of several namespaces share the folder.
fn beside(path: &Path) -> PathBuf {
    path.with_extension(format!("postern-{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# mine\nsearch corp.example\nnameserver 192.0.2.1\noptions edns0\nnameserver 2001:db8::1\n";

    fn server() -> IpAddr {
        "100.127.255.53".parse().unwrap()
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_is_taken_over_and_given_back_to_the_byte() {
        let (folder, path) = file(TEXT);

        let original = take(&path, server()).unwrap();
        let taken = fs::read_to_string(&path).unwrap();
        let again = take(&path, server()).unwrap();
        let unchanged = fs::read_to_string(&path).unwrap();
        give_back(&path).unwrap();

        assert_eq!(
            original.servers(),
            ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]
        );
        assert_eq!(resolv_conf::servers(&taken), ["100.127.255.53:53".parse().unwrap()]);
        assert!(taken.contains("\nsearch corp.example\n") && taken.contains("\noptions edns0\n"));
        assert_eq!((again, unchanged), (original, taken));
        assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_link_becomes_a_link_again_and_its_target_is_never_touched() {
        let (folder, target) = file(TEXT);
        let path = folder.path().join("link.conf");
        symlink("resolv.conf", &path).unwrap();

        let original = take(&path, server()).unwrap();
        assert_eq!(original.servers().len(), 2);
        assert!(is_ours(&path) && !fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), TEXT);
        give_back(&path).unwrap();

        assert_eq!(fs::read_link(&path).unwrap(), Path::new("resolv.conf"));
        assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
    }

    #[test]
    fn where_there_was_no_file_there_is_none_again() {
        let (_folder, path) = file("");
        fs::remove_file(&path).unwrap();

        assert_eq!(take(&path, server()).unwrap().servers(), []);
        assert!(is_ours(&path));
        give_back(&path).unwrap();

        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_somebody_else_wrote_meanwhile_is_left_alone() {
        let (_folder, path) = file(TEXT);
        take(&path, server()).unwrap();
        fs::write(&path, "nameserver 192.0.2.9\n").unwrap();

        give_back(&path).unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.9\n");
        assert_eq!(take(&path, server()).unwrap().servers(), ["192.0.2.9:53".parse().unwrap()]);
    }

    #[test]
    fn a_file_that_is_mounted_over_is_written_in_place() {
        crate::testing::in_bare_namespace(|| {
            use nix::mount::{MsFlags, mount};
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            let (_folder, path) = file("nameserver 192.0.2.7\n");
            let (_other, over) = file(TEXT);
            mount(Some(&over), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();

            assert_eq!(take(&path, server()).unwrap().servers().len(), 2);
            assert!(is_ours(&path) && is_ours(&over));
            give_back(&path).unwrap();

            assert_eq!(fs::read_to_string(&over).unwrap(), TEXT);
            nix::mount::umount(&path).unwrap();
        });
    }
}
