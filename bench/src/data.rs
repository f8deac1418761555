//! Reads and writes of one large file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::Measured;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Each way to read and write a file of `mib` MiB, which stays below `directory`: a version before is there from the second
/// round on.
pub fn round(directory: &Path, mib: usize) -> Vec<Measured> {
    let path = directory.join("data");
    let bytes = mib * MIB;
    let mut buffer = vec![7; MIB];
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let mut measured = Vec::new();

    let file = File::create(&path).unwrap();
    measured.push(parts("write 1 MiB, new", bytes, MIB, |at| file.write_all_at(&buffer, at).unwrap()));
    drop(file);
    // Later steps shall not wait for the disk that this one filled.
    rustix::fs::sync();

    let file = open();
    measured.push(parts("rewrite 1 MiB", bytes, MIB, |at| file.write_all_at(&buffer, at).unwrap()));
    measured.push(parts("rewrite 4 KiB", bytes, PAGE, |at| file.write_all_at(&buffer[..PAGE], at).unwrap()));
    drop(file);
    rustix::fs::sync();

    let file = open();
    measured.push(parts("read 1 MiB", bytes, MIB, |at| file.read_exact_at(&mut buffer, at).unwrap()));
    measured
        .push(parts("read 4 KiB", bytes, PAGE, |at| file.read_exact_at(&mut buffer[..PAGE], at).unwrap()));
    let pages = (bytes / PAGE) as u64;
    let mut random = 12345_u64;
    measured.push(parts("read 4 KiB at random", bytes.min(256 * MIB), PAGE, |_| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        file.read_exact_at(&mut buffer[..PAGE], (random >> 33) % pages * PAGE as u64).unwrap();
    }));
    measured.push(parts("write 4 KiB, fdatasync", 100 * PAGE, PAGE, |at| {
        file.write_all_at(&buffer[..PAGE], at).unwrap();
        file.sync_data().unwrap();
    }));
    measured
}

/// Seconds for each part.
fn parts(name: &'static str, bytes: usize, part: usize, mut call: impl FnMut(u64)) -> Measured {
    let begun = Instant::now();
    (0..bytes / part).for_each(|number| call((number * part) as u64));
    (name, begun.elapsed().as_secs_f64() / (bytes / part) as f64)
}
