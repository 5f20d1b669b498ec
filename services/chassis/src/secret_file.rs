//! Files that only their owner may read: tokens, keys, profiles.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use protocol_identity::{Token, TokenKind};

use crate::failure::Failure;

/// No token or key is longer; a larger file is a mistake.
const LARGEST: u64 = 64 * 1024;

/// Writes a new file with mode 0600. An existing file is never overwritten.
pub fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Replaces a file with mode 0600, in one step: a reader sees the old text or the new one.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    write_new(Path::new(&beside), text)?;
    fs::rename(&beside, path)
}

/// Makes a directory (and its parents) that only the owner may enter.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads a small text file, or standard input for `-`.
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().lock().take(LARGEST).read_to_string(&mut text)?;
    } else {
        fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Whether others than the owner may read the file.
pub fn is_exposed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o077 != 0)
}

/// Reads a token of one kind from a file (`-` is standard input), and says what is wrong without repeating it.
pub fn read_token(path: &Path, kind: TokenKind) -> Result<Token, Failure> {
    let shown = path.display();
    let text = read(path).map_err(|error| {
        Failure::usage(format!("cannot read the token file {shown}: {error}"))
            .fix("name a file that this user may read with --token-file")
    })?;
    if is_exposed(path) {
        eprintln!("warning: others may read {shown}; chmod 600 {shown}");
    }
    parse_token(&text, kind, &format!("the token in {shown}"))
}

/// A token of one kind from text; `whence` says where the text came from.
pub fn parse_token(text: &str, kind: TokenKind, whence: &str) -> Result<Token, Failure> {
    let token = text.parse::<Token>().map_err(|error| Failure::usage(format!("{whence}: {error}")))?;
    if token.kind() == kind {
        return Ok(token);
    }
    let made_by = match kind {
        TokenKind::Admin => "`postern-control init` writes one to <state-dir>/admin.token",
        TokenKind::Gateway => "`postern admin gateway-token create` makes one",
        TokenKind::Relay => "`postern admin relay-token create` makes one",
        TokenKind::ServiceAccount => "`postern admin service-account create` makes one",
    };
    Err(Failure::usage(format!(
        "{whence} starts with {}, but {} is needed here",
        token.kind().prefix(),
        kind.prefix()
    ))
    .fix(made_by))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_for_its_owner_only_and_is_never_overwritten_by_write_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");

        write_new(&path, "one").unwrap();
        let second = write_new(&path, "two");

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    }

    #[test]
    fn replacing_keeps_the_mode_tight() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile");
        fs::write(&path, "old").unwrap();

        replace(&path, "new").unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(!is_exposed(&path));
    }

    #[test]
    fn a_token_of_the_wrong_kind_is_refused_with_the_way_to_the_right_one() {
        let gateway = Token::generate(TokenKind::Gateway).unwrap().reveal();

        let failure = parse_token(&gateway, TokenKind::Admin, "the token").unwrap_err();

        assert!(failure.what.contains("pst_gateway_") && failure.what.contains("pst_admin_"));
        assert!(!failure.to_string().contains(&gateway[12..]));
        assert!(failure.fix.unwrap().contains("postern-control init"));
    }
}
