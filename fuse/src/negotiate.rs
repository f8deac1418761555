//! What the kernel offers, what the file system wants, and what comes of it. Pure: no message is sent here.

use crate::abi::{self, InitIn, InitInExt, InitOut, init};

/// What a file system wants of the kernel. What the kernel lacks is left out; [`Granted`] tells.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Files may be read and written past us. Excludes the write-back cache; needs CAP_SYS_ADMIN.
    pub passthrough: bool,
    /// How deep the file systems below backing files may be stacked: 1 or 2. With 2 nothing may be stacked on
    /// us.
    pub max_stack_depth: u32,
    /// We clear set-user-id, set-group-id and capabilities on write, truncation and chown.
    pub handle_killpriv_v2: bool,
    /// POSIX ACLs are stored and obeyed as extended attributes.
    pub posix_acl: bool,
    /// Directories are listed with attributes.
    pub readdirplus: bool,
    /// The kernel decides when to (needs `readdirplus`).
    pub readdirplus_auto: bool,
    /// Answering ENOSYS to OPENDIR stops it. Nothing is negotiated: this asks whether the kernel knows it.
    pub no_opendir: bool,
    /// fcntl(2) locks are ours to keep.
    pub posix_locks: bool,
    /// flock(2) locks are ours to keep.
    pub flock_locks: bool,
    /// Nodes are reached by file handles that lead to their ids and generations, also those that the kernel has forgotten:
    /// it looks up "." in them, and ".." in directories.
    pub export_support: bool,
    /// The kernel collects writes.
    pub writeback_cache: bool,
    /// O_TRUNC comes with OPEN; else as SETATTR before it.
    pub atomic_o_trunc: bool,
    /// Cached data are dropped only when told to ([`crate::Notifier::inval_inode`]).
    pub explicit_invalidation: bool,
    /// Cached data are dropped when size or time of modification change. Gives way to
    /// `explicit_invalidation`.
    pub automatic_invalidation: bool,
    /// Targets of symbolic links are cached.
    pub cache_symlinks: bool,
    /// Lookups and listings of one directory may come side by side.
    pub parallel_directory_operations: bool,
    /// Direct I/O may come in parallel pieces.
    pub async_direct_io: bool,
    /// Files opened with `DIRECT_IO` may be mapped shared.
    pub direct_io_allow_mmap: bool,
    /// Creations tell the caller's group that the directory has ([`crate::Request::supplementary_group`]).
    pub create_supplementary_group: bool,
    /// Requests come over io_uring ([`crate::enable_io_uring`] before the mount), to a thread on the caller's
    /// processor.
    pub io_uring: bool,
    /// How many requests per processor can be open with io_uring, at most 1024. A request that is answered
    /// later counts until it is answered; when none is left, callers on that processor wait. Each has a
    /// buffer of the largest write, which takes memory when it is used; those used last are used first.
    pub ring_depth: usize,
    /// Largest write and read, in bytes. Rounded to pages; limited by the kernel (usually to 1 MiB).
    pub max_write: u32,
    /// Largest read-ahead, in bytes; the kernel's limit is usually 128 KiB.
    pub max_readahead: u32,
    /// How many background requests (read-ahead, releases, write-back) may be open.
    pub max_background: u16,
    /// From how many on the kernel slows down.
    pub congestion_threshold: u16,
    /// Seconds after which an unanswered request aborts the connection; 0 for never.
    pub request_timeout_s: u16,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted {
            passthrough: false,
            max_stack_depth: 1,
            handle_killpriv_v2: false,
            posix_acl: false,
            readdirplus: true,
            readdirplus_auto: true,
            no_opendir: false,
            posix_locks: false,
            flock_locks: false,
            export_support: false,
            writeback_cache: false,
            atomic_o_trunc: false,
            explicit_invalidation: false,
            automatic_invalidation: true,
            cache_symlinks: true,
            parallel_directory_operations: true,
            async_direct_io: true,
            direct_io_allow_mmap: true,
            create_supplementary_group: false,
            io_uring: false,
            ring_depth: 16,
            max_write: 1 << 20,
            max_readahead: 1 << 20,
            max_background: 64,
            congestion_threshold: 48,
            request_timeout_s: 0,
        }
    }
}

/// What was agreed on. Fields mean what they mean in [`Wanted`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Told there.
pub struct Granted {
    /// Minor version of the protocol (7.x) in use.
    pub minor: u32,
    pub passthrough: bool,
    pub max_stack_depth: u32,
    pub handle_killpriv_v2: bool,
    pub posix_acl: bool,
    pub readdirplus: bool,
    pub readdirplus_auto: bool,
    pub no_opendir: bool,
    pub posix_locks: bool,
    pub flock_locks: bool,
    pub export_support: bool,
    pub writeback_cache: bool,
    pub atomic_o_trunc: bool,
    pub explicit_invalidation: bool,
    pub automatic_invalidation: bool,
    pub cache_symlinks: bool,
    pub parallel_directory_operations: bool,
    pub async_direct_io: bool,
    pub direct_io_allow_mmap: bool,
    pub create_supplementary_group: bool,
    /// [`crate::Notifier::expire_entry`] works.
    pub expire_entry: bool,
    /// [`crate::Notifier::increment_epoch`] works.
    pub increment_epoch: bool,
    /// [`crate::Notifier::prune`] works.
    pub prune: bool,
    pub max_write: u32,
    pub max_readahead: u32,
    /// Whether requests come over io_uring; if not, why.
    pub io_uring: Result<(), String>,
    pub(crate) setxattr_ext: bool,
}

/// What the kernel's INIT and its settings offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub minor: u32,
    pub flags: u64,
    pub max_readahead: u32,
    /// Most pages of one request.
    pub max_pages: u32,
    /// Bytes of a page.
    pub page_size: u32,
}

impl Offer {
    /// The offer of an INIT message.
    pub fn new(greeting: InitIn, extension: Option<InitInExt>, max_pages: u32, page_size: u32) -> Offer {
        let high = match extension {
            Some(extension) if u64::from(greeting.flags) & init::INIT_EXT != 0 => extension.flags2,
            _ => 0,
        };
        Offer {
            minor: greeting.minor,
            flags: u64::from(greeting.flags) | u64::from(high) << 32,
            max_readahead: greeting.max_readahead,
            max_pages,
            page_size,
        }
    }

    /// The pages for requests of `size` bytes: at least one. Without MAX_PAGES the kernel has 32.
    fn pages(&self, size: u32) -> u32 {
        let limit = if self.flags & init::MAX_PAGES != 0 { self.max_pages.min(0xffff) } else { 32 };
        size.div_ceil(self.page_size).clamp(1, limit.max(1))
    }
}

/// The answer to INIT, and what it amounts to. `ring` is why io_uring can't be used, or nothing.
pub(crate) fn negotiate(offer: &Offer, wanted: &Wanted, ring: Result<(), String>) -> (InitOut, Granted) {
    let io_uring = match (wanted.io_uring, offer.flags & init::OVER_IO_URING != 0) {
        (false, _) => Err("not wanted".into()),
        (true, false) => Err("the kernel doesn't offer it (is fuse.enable_uring set?)".into()),
        (true, true) => ring,
    };
    let flags = offer.flags & asked(wanted, io_uring.is_ok());
    let pages = offer.pages(wanted.max_write);
    let granted = granted(offer, wanted, flags, pages * offer.page_size, io_uring);
    (answer(wanted, &granted, flags, pages), granted)
}

/// The bits asked for.
fn asked(wanted: &Wanted, io_uring: bool) -> u64 {
    let always = init::ASYNC_READ
        | init::BIG_WRITES
        | init::DONT_MASK
        | init::HAS_IOCTL_DIR
        | init::ABORT_ERROR
        | init::MAX_PAGES
        | init::NO_OPENDIR_SUPPORT
        | init::SETXATTR_EXT
        | init::INIT_EXT
        | init::HAS_EXPIRE_ONLY;
    [
        (wanted.passthrough, init::PASSTHROUGH),
        (wanted.handle_killpriv_v2, init::HANDLE_KILLPRIV_V2),
        (wanted.posix_acl, init::POSIX_ACL),
        (wanted.readdirplus, init::DO_READDIRPLUS),
        (wanted.readdirplus && wanted.readdirplus_auto, init::READDIRPLUS_AUTO),
        (wanted.posix_locks, init::POSIX_LOCKS),
        (wanted.flock_locks, init::FLOCK_LOCKS),
        (wanted.export_support, init::EXPORT_SUPPORT),
        (wanted.writeback_cache && !wanted.passthrough, init::WRITEBACK_CACHE),
        (wanted.atomic_o_trunc, init::ATOMIC_O_TRUNC),
        (wanted.explicit_invalidation, init::EXPLICIT_INVAL_DATA),
        (wanted.automatic_invalidation && !wanted.explicit_invalidation, init::AUTO_INVAL_DATA),
        (wanted.cache_symlinks, init::CACHE_SYMLINKS),
        (wanted.parallel_directory_operations, init::PARALLEL_DIROPS),
        (wanted.async_direct_io, init::ASYNC_DIO),
        (wanted.direct_io_allow_mmap, init::DIRECT_IO_ALLOW_MMAP),
        (wanted.create_supplementary_group, init::CREATE_SUPP_GROUP),
        (wanted.request_timeout_s != 0, init::REQUEST_TIMEOUT),
        (io_uring, init::OVER_IO_URING),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(always, |flags, (_, flag)| flags | flag)
}

fn granted(
    offer: &Offer,
    wanted: &Wanted,
    flags: u64,
    max_write: u32,
    io_uring: Result<(), String>,
) -> Granted {
    let has = |flag: u64| flags & flag != 0;
    let minor = offer.minor.min(abi::MINOR);
    Granted {
        minor,
        passthrough: has(init::PASSTHROUGH),
        max_stack_depth: if has(init::PASSTHROUGH) { wanted.max_stack_depth.clamp(1, 2) } else { 0 },
        handle_killpriv_v2: has(init::HANDLE_KILLPRIV_V2),
        posix_acl: has(init::POSIX_ACL),
        readdirplus: has(init::DO_READDIRPLUS),
        readdirplus_auto: has(init::READDIRPLUS_AUTO),
        no_opendir: wanted.no_opendir && has(init::NO_OPENDIR_SUPPORT),
        posix_locks: has(init::POSIX_LOCKS),
        flock_locks: has(init::FLOCK_LOCKS),
        export_support: has(init::EXPORT_SUPPORT),
        writeback_cache: has(init::WRITEBACK_CACHE),
        atomic_o_trunc: has(init::ATOMIC_O_TRUNC),
        explicit_invalidation: has(init::EXPLICIT_INVAL_DATA),
        automatic_invalidation: has(init::AUTO_INVAL_DATA),
        cache_symlinks: has(init::CACHE_SYMLINKS),
        parallel_directory_operations: has(init::PARALLEL_DIROPS),
        async_direct_io: has(init::ASYNC_DIO),
        direct_io_allow_mmap: has(init::DIRECT_IO_ALLOW_MMAP),
        create_supplementary_group: has(init::CREATE_SUPP_GROUP),
        expire_entry: has(init::HAS_EXPIRE_ONLY),
        increment_epoch: minor >= 44,
        prune: minor >= 45,
        max_write,
        max_readahead: wanted.max_readahead.min(offer.max_readahead),
        io_uring,
        setxattr_ext: has(init::SETXATTR_EXT),
    }
}

fn answer(wanted: &Wanted, granted: &Granted, flags: u64, pages: u32) -> InitOut {
    InitOut {
        major: abi::MAJOR,
        minor: granted.minor,
        max_readahead: granted.max_readahead,
        flags: flags as u32,
        max_background: wanted.max_background,
        congestion_threshold: wanted.congestion_threshold,
        max_write: granted.max_write,
        time_gran: 1,
        max_pages: pages as u16,
        map_alignment: 0,
        flags2: (flags >> 32) as u32,
        max_stack_depth: granted.max_stack_depth,
        request_timeout: wanted.request_timeout_s,
        unused: [0; 11],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: u64 = u64::MAX;

    fn offer(minor: u32, flags: u64) -> Offer {
        Offer { minor, flags, max_readahead: 131_072, max_pages: 256, page_size: 4096 }
    }

    fn agree(minor: u32, flags: u64, wanted: &Wanted) -> (InitOut, Granted) {
        negotiate(&offer(minor, flags), wanted, Ok(()))
    }

    #[test]
    fn the_smaller_minor_version_wins() {
        for (kernel, agreed) in [(31, 31), (38, 38), (45, 45), (99, 45)] {
            let (answer, granted) = agree(kernel, EVERYTHING, &Wanted::default());
            assert_eq!((answer.major, answer.minor, granted.minor), (7, agreed, agreed));
        }
    }

    #[test]
    fn nothing_is_asked_that_isn_t_offered() {
        let wanted = Wanted { passthrough: true, posix_acl: true, io_uring: true, ..Wanted::default() };
        let (answer, granted) = agree(45, init::ASYNC_READ | init::POSIX_ACL, &wanted);
        assert_eq!((answer.flags, answer.flags2), ((init::ASYNC_READ | init::POSIX_ACL) as u32, 0));
        assert!(granted.posix_acl && !granted.passthrough && granted.io_uring.is_err());
        assert_eq!(answer.max_stack_depth, 0);
    }

    #[test]
    fn passthrough_excludes_the_write_back_cache() {
        let wanted = Wanted { passthrough: true, writeback_cache: true, ..Wanted::default() };
        let (answer, granted) = agree(45, EVERYTHING, &wanted);
        assert!(granted.passthrough && !granted.writeback_cache);
        assert_eq!(answer.max_stack_depth, 1);
        let (_, granted) =
            agree(45, EVERYTHING & !init::PASSTHROUGH, &Wanted { passthrough: false, ..wanted });
        assert!(granted.writeback_cache);
    }

    #[test]
    fn explicit_invalidation_excludes_the_automatic() {
        let (_, granted) = agree(45, EVERYTHING, &Wanted::default());
        assert!(granted.automatic_invalidation && !granted.explicit_invalidation);
        let wanted = Wanted { explicit_invalidation: true, ..Wanted::default() };
        let (_, granted) = agree(45, EVERYTHING, &wanted);
        assert!(!granted.automatic_invalidation && granted.explicit_invalidation);
    }

    #[test]
    fn writes_are_limited_to_the_kernel_s_pages() {
        let rows = [
            (EVERYTHING, 256, 1 << 20, 1 << 20),
            (EVERYTHING, 256, 8 << 20, 1 << 20),
            (EVERYTHING, 256, 5000, 8192),
            (EVERYTHING, 256, 0, 4096),
            (EVERYTHING, 0, 1 << 20, 4096),
            (!init::MAX_PAGES, 256, 1 << 20, 131_072),
        ];
        for (flags, max_pages, wanted, agreed) in rows {
            let offer = Offer { max_pages, ..offer(45, flags) };
            let wanted = Wanted { max_write: wanted, ..Wanted::default() };
            let (answer, granted) = negotiate(&offer, &wanted, Ok(()));
            assert_eq!((answer.max_write, granted.max_write), (agreed, agreed));
            assert_eq!(u32::from(answer.max_pages) * 4096, agreed);
        }
    }

    #[test]
    fn the_high_flags_need_the_extension_bit() {
        let extension = Some(InitInExt { flags2: (init::PASSTHROUGH >> 32) as u32, ..Default::default() });
        let greeting = InitIn { major: 7, minor: 45, max_readahead: 0, flags: 0 };
        assert_eq!(Offer::new(greeting, extension, 256, 4096).flags, 0);
        let greeting = InitIn { flags: init::INIT_EXT as u32, ..greeting };
        assert_eq!(Offer::new(greeting, extension, 256, 4096).flags, init::INIT_EXT | init::PASSTHROUGH);
        assert_eq!(Offer::new(greeting, None, 256, 4096).flags, init::INIT_EXT);
    }

    #[test]
    fn the_ring_is_used_only_where_it_can_be() {
        let wanted = Wanted { io_uring: true, ..Wanted::default() };
        let (answer, granted) = negotiate(&offer(45, EVERYTHING), &wanted, Err("forbidden".into()));
        assert_eq!(granted.io_uring, Err("forbidden".into()));
        assert_eq!(answer.flags2 & (init::OVER_IO_URING >> 32) as u32, 0);
        let (answer, granted) = negotiate(&offer(45, EVERYTHING), &wanted, Ok(()));
        assert_eq!(granted.io_uring, Ok(()));
        assert_ne!(answer.flags2 & (init::OVER_IO_URING >> 32) as u32, 0);
    }
}
