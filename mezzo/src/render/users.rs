//! Names of users and groups, as this machine knows them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;

use mezzo_core::name::escape;

/// Bytes that an entry of the user or group database may take. A group's entry lists its members.
const ENTRY_BYTES: usize = 1 << 20;

/// Names that were looked up; every number is asked for once.
#[derive(Debug, Default)]
pub struct Users {
    users: RefCell<HashMap<u32, String>>,
    groups: RefCell<HashMap<u32, String>>,
}

impl Users {
    /// The name of user `uid`, or the number where it has none.
    pub fn user(&self, uid: u32) -> String {
        let mut users = self.users.borrow_mut();
        users.entry(uid).or_insert_with(|| user_name(uid).unwrap_or_else(|| uid.to_string())).clone()
    }

    /// The name of group `gid`, or the number where it has none.
    pub fn group(&self, gid: u32) -> String {
        let mut groups = self.groups.borrow_mut();
        groups.entry(gid).or_insert_with(|| group_name(gid).unwrap_or_else(|| gid.to_string())).clone()
    }
}

/// The user with this name or number.
pub fn uid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(uid) => Ok(uid),
        Err(_) => uid_of(text).ok_or_else(|| "no user has this name, and it is no number".to_owned()),
    }
}

fn uid_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    find(
        // SAFETY: the name ends with a NUL, and `find` hands in what the call may write to.
        |entry, buffer, bytes, found| unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, bytes, found) },
        |entry: &libc::passwd| entry.pw_uid,
    )
}

fn user_name(uid: u32) -> Option<String> {
    find(
        // SAFETY: `find` hands in what the call may write to.
        |entry, buffer, bytes, found| unsafe { libc::getpwuid_r(uid, entry, buffer, bytes, found) },
        // SAFETY: a user that was found has a name, which ends with a NUL.
        |entry: &libc::passwd| shown(unsafe { CStr::from_ptr(entry.pw_name) }),
    )
}

fn group_name(gid: u32) -> Option<String> {
    find(
        // SAFETY: `find` hands in what the call may write to.
        |entry, buffer, bytes, found| unsafe { libc::getgrgid_r(gid, entry, buffer, bytes, found) },
        // SAFETY: a group that was found has a name, which ends with a NUL.
        |entry: &libc::group| shown(unsafe { CStr::from_ptr(entry.gr_name) }),
    )
}

fn shown(name: &CStr) -> String {
    escape(name.to_bytes())
}

/// Calls one of the C library's `get..._r` with ever more room, and reads the entry that it found.
fn find<E, T>(
    call: impl Fn(*mut E, *mut c_char, usize, *mut *mut E) -> c_int,
    read: impl Fn(&E) -> T,
) -> Option<T> {
    let mut bytes = 1024;
    while bytes <= ENTRY_BYTES {
        let mut buffer = vec![0; bytes];
        let mut entry = MaybeUninit::uninit();
        let mut found = std::ptr::null_mut();
        match call(entry.as_mut_ptr(), buffer.as_mut_ptr(), bytes, &mut found) {
            libc::ERANGE => bytes *= 2,
            // SAFETY: it is null, or points to the entry, which was then filled and whose texts are in the buffer.
            _ => return unsafe { found.as_ref() }.map(read),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that no system gives to a user or a group.
    const NOBODY: u32 = 3_999_999_999;

    #[test]
    fn names_and_numbers() {
        let users = Users::default();
        assert_eq!([users.user(0), users.group(0)], ["root", "root"]);
        assert_eq!(users.user(NOBODY), NOBODY.to_string());
        assert_eq!(users.group(NOBODY), NOBODY.to_string());
        assert_eq!([uid("root"), uid("17")], [Ok(0), Ok(17)]);
        assert!(uid("no such user").is_err());
        assert!(uid("-1").is_err());
    }
}
