//! Links as text: what is read back, and what is refused.

use mezzo_core::FilesetId;
use mezzo_net::identity::{Address, Fingerprint, Link, NotALink, Secret};
use mezzo_net::limits;

const EXAMPLE: &str = "mezzo://files.example:7370/11111111111111111111111111111111\
    ?ca=AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI&secret=AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM";

fn example() -> Link {
    Link {
        addresses: vec![Address::new("files.example", 7370).unwrap()],
        fileset: FilesetId([0x11; 16]),
        authority: Fingerprint([2; 32]),
        secret: Secret::from_bytes([3; 32]),
    }
}

#[test]
fn a_link_reads_back() {
    assert_eq!(example().to_string(), EXAMPLE);
    assert_eq!(EXAMPLE.parse(), Ok(example()));
    let addresses = ["h:1", "[::1]:65535", "10.0.0.1:80", "a-b.c_d:9", "h:2", "h:3", "h:4", "h:5"];
    let many = Link { addresses: addresses.map(|text| text.parse().unwrap()).to_vec(), ..example() };
    assert_eq!(many.to_string().parse(), Ok(many));
}

#[test]
fn the_longest_link_is_not_too_long() {
    let host = "h".repeat(limits::HOST_BYTES);
    let link = Link { addresses: vec![Address::new(&host, 65535).unwrap(); limits::ADDRESSES], ..example() };
    assert_eq!(link.to_string().parse(), Ok(link));
}

#[test]
fn what_is_no_link_is_refused_with_a_reason() {
    let with = |what: &str, with: &str| {
        assert!(EXAMPLE.contains(what), "{what}");
        EXAMPLE.replace(what, with)
    };
    for (text, why) in [
        (String::new(), "it does not begin with mezzo://"),
        ("https://files.example/".to_owned(), "it does not begin with mezzo://"),
        ("mezzo://h:1".to_owned(), "it names no fileset"),
        (EXAMPLE[..50].to_owned(), "it is cut off"),
        (EXAMPLE[..EXAMPLE.len() - 1].to_owned(), "it may be cut off"),
        (format!("{EXAMPLE}A"), "it may be cut off"),
        (format!("{EXAMPLE}\n"), "it may be cut off"),
        // The bits behind the last byte are not 0: the same secret has one text.
        (format!("{}N", &EXAMPLE[..EXAMPLE.len() - 1]), "it may be cut off"),
        (with("7370", "0"), "a port is"),
        (with("7370", "65536"), "a port is"),
        (with("7370", "+1"), "a port is"),
        (with(":7370", ""), "an address is HOST:PORT"),
        (with("files.example", ""), "a host is"),
        (with("files.example", "fi les"), "a host is"),
        (with("files.example", "user@host"), "a host is"),
        (with("files.example", "::1"), "brackets"),
        (with("files.example", "[::g]"), "a host is"),
        (with("files.example", "[host]"), "brackets"),
        (with("1111?", "111?"), "32 hexadecimal digits"),
        (with("1111?", "111g?"), "32 hexadecimal digits"),
        (with("ca=", "cb="), "a part that is not known"),
        (format!("{EXAMPLE}&v=2"), "a part that is not known"),
        (format!("{EXAMPLE}&"), "a part that is not known"),
        (format!("{EXAMPLE}&ca=AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI"), "twice"),
        (EXAMPLE.split("&secret").next().unwrap().to_owned(), "the secret is missing"),
        (format!("{EXAMPLE}{}", "&at=h:1".repeat(8)), "too many addresses"),
        (format!("{EXAMPLE}{}", "&at=h:1".repeat(1000)), "it is too long"),
    ] {
        match text.parse::<Link>() {
            Err(NotALink(reason)) => assert!(reason.contains(why), "{text}: {reason}"),
            Ok(link) => panic!("{text} is {link:?}"),
        }
    }
}

/// Texts at random, most of them near a link: a link is read from each, or it is refused, and what is read is what was written.
/// The seed is printed; `MEZZO_SEED` takes it back.
#[test]
fn garbage_is_refused_without_harm() {
    let seed = std::env::var("MEZZO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
    });
    println!("MEZZO_SEED={seed}");
    let mut state = seed | 1;
    let mut below = |bound: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    };
    let pieces =
        ["mezzo://", "[", "]", ":", "/", "?", "&", "=", "ca=", "at=", "%00", "é", "\0", "\u{202e}", "1", "A"];
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut text: Vec<char> = if below(8) == 0 { Vec::new() } else { EXAMPLE.chars().collect() };
        for _ in 0..below(4) {
            let at = below(text.len() + 1);
            match below(3) {
                0 => drop(text.drain(at..(at + below(9)).min(text.len()))),
                1 => drop(text.splice(at..at, pieces[below(pieces.len())].chars())),
                _ => text.extend((0..below(40)).filter_map(|_| char::from_u32(below(0x1_0000) as u32))),
            }
        }
        let text: String = text.into_iter().collect();
        match text.parse::<Link>() {
            Ok(link) => {
                assert_eq!(link.to_string().parse::<Link>().as_ref(), Ok(&link), "{text:?}");
                assert!(link.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
                read += 1;
            }
            Err(NotALink(_)) => refused += 1,
        }
    }
    assert!(read > 1_000 && refused > 1_000, "{read} were read, {refused} refused");
}
