//! Which fileset's log, and which path in it.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::Failure;
use crate::find::{self, Found};

/// The fileset, and the path in it if not all of it is meant: `directory` with `path` from there, or one path that is
/// either, or neither: then it is the fileset that this process stands in.
pub fn locate(directory: Option<&Path>, path: Option<&Path>) -> Result<(Found, Option<Vec<u8>>), Failure> {
    let (found, inside) = match (directory, path) {
        (None, _) => (find::fileset(Path::new("."))?, PathBuf::new()),
        (Some(one), None) => in_fileset(one)?,
        (Some(directory), Some(path)) => in_fileset(&directory.join(path))?,
    };
    let inside = inside.as_os_str().as_bytes().to_vec();
    Ok((found, Some(inside).filter(|inside| !inside.is_empty())))
}

/// The fileset that `path` is in, or was in before something on the way was removed.
fn in_fileset(path: &Path) -> Result<(Found, PathBuf), Failure> {
    let path = std::path::absolute(path)?;
    if let Some(found) = link_in_fileset(&path) {
        return Ok(found);
    }
    let there = path.ancestors().find(|path| is_there(path)).unwrap_or(&path);
    let gone = path.strip_prefix(there).unwrap_or(Path::new(""));
    let found = find::fileset(there)?;
    let inside = without_dots(&found.inside.join(gone));
    Ok((found, inside))
}

/// A symbolic link in a fileset is meant itself, and not what it leads to. One outside may lead to a fileset.
fn link_in_fileset(path: &Path) -> Option<(Found, PathBuf)> {
    let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    let (parent, name) = (path.parent()?, path.file_name()?);
    let found = is_link.then(|| find::fileset(parent).ok()).flatten()?;
    let inside = found.inside.join(name);
    Some((found, inside))
}

/// A dead mount is there: that it can't be used is found out later, and told.
fn is_there(path: &Path) -> bool {
    match path.symlink_metadata() {
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        Ok(_) => true,
    }
}

/// `a/./b/../c` as `a/c`: where nothing is any more, nothing can be asked what `..` leads to.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut kept, component| {
        match component {
            Component::ParentDir => drop(kept.pop()),
            Component::Normal(name) => kept.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory with a fileset `f` and a link to it; what makes it one to `find` is the file alone.
    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("f/.mezzo")).unwrap();
        fs::write(at("f/.mezzo/fileset.toml"), "").unwrap();
        fs::create_dir(at("f/sub")).unwrap();
        symlink("sub", at("f/link")).unwrap();
        symlink("f", at("to-f")).unwrap();
        directory
    }

    #[test]
    fn which_path_is_meant() {
        let directory = directory();
        let check = |one: &str, two: Option<&str>, expected: Option<&str>| {
            let (found, inside) = locate(Some(&directory.path().join(one)), two.map(Path::new)).unwrap();
            assert_eq!(found.path, directory.path().canonicalize().unwrap().join("f"));
            assert_eq!(inside.as_deref(), expected.map(str::as_bytes), "{one} {two:?}");
        };
        check("f", None, None);
        check("f/", None, None);
        check("f/.", None, None);
        check("to-f", None, None);
        check("f/sub", None, Some("sub"));
        check("f/sub/..", None, None);
        check("to-f/sub", None, Some("sub"));
        check("f/link", None, Some("link"));
        check("f/gone", None, Some("gone"));
        check("to-f/gone/deep/./er/../x", None, Some("gone/deep/x"));
        check("f", Some("sub"), Some("sub"));
        check("f", Some("."), None);
        check("f/sub", Some("gone"), Some("sub/gone"));
        check("to-f", Some("gone/deep"), Some("gone/deep"));
    }

    #[test]
    fn outside_a_fileset() {
        let directory = directory();
        assert!(locate(Some(directory.path()), None).is_err());
        assert!(locate(Some(&directory.path().join("f")), Some(Path::new(".."))).is_err());
    }
}
