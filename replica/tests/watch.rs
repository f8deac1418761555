//! The watch on the host's file system. It needs root, who alone may watch.

mod common;

use common::Bench;
use mezzo_replica::host::Queue;
use mezzo_replica::{Noticed, Watch};

fn watch(bench: &Bench) -> Option<Watch> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: to watch a file system needs root");
        return None;
    }
    Some(bench.replica().watch(Queue::Bounded).unwrap())
}

fn look(bench: &Bench, watch: &mut Watch) -> Noticed {
    bench.replica().take_in_watched(watch, &mut || true).unwrap()
}

/// Changes of this process are passed over, so that another has to make them.
fn shell(bench: &Bench, script: &str) {
    let status =
        std::process::Command::new("sh").arg("-ec").arg(script).current_dir(bench.root()).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_others_change_is_taken_in_and_told_as_outdated() {
    let bench = Bench::new();
    let Some(mut watch) = watch(&bench) else { return };
    let replica = bench.replica();
    assert_eq!(replica.outdated(), Default::default());
    std::fs::write(bench.root().join("own"), "passed over").unwrap();
    shell(&bench, "mkdir d; echo 1 >d/f; mv d/f d/g; ln d/g h; chmod 600 h");
    let noticed = look(&bench, &mut watch);
    assert!(noticed.records > 0 && noticed.events > 0 && !noticed.missed, "{noticed:?}");
    let told = replica.outdated();
    let names: Vec<_> = told.names.iter().map(|place| place.name.as_bytes().to_vec()).collect();
    assert!(names.contains(&b"d".to_vec()) && names.contains(&b"h".to_vec()), "{names:?}");
    assert!(!names.contains(&b"own".to_vec()), "{names:?}");
    assert!(told.objects.contains(&bench.find("d/g")) && !told.all);
    assert_eq!(look(&bench, &mut watch).records, 0, "nothing more has happened");
    replica.take_in(&mut |_| true).unwrap();
    bench.check();
}

#[test]
fn an_object_is_known_again_whatever_way_it_went() {
    let bench = Bench::new();
    let Some(mut watch) = watch(&bench) else { return };
    let check = |watch: &mut Watch, script: &str, moves: &[(&str, &str)]| {
        let before: Vec<_> = moves.iter().map(|(from, _)| bench.find(from)).collect();
        shell(&bench, script);
        look(&bench, watch);
        for ((from, to), object) in moves.iter().zip(before) {
            assert_eq!(bench.find(to), object, "{script}: {from} to {to}");
        }
    };
    shell(&bench, "mkdir d e; for f in a b c x d/f; do echo $f >$f; done");
    look(&bench, &mut watch);
    check(&mut watch, "mv a t; mv t a2; mv a2 a3", &[("a", "a3")]);
    check(&mut watch, "mv b b2; echo new >b", &[("b", "b2")]);
    check(&mut watch, "mv c c2; mv x c; mv c2 x", &[("c", "x"), ("x", "c")]);
    check(&mut watch, "mv d e/d; mv e/d/f e/f; mv e d", &[("d/f", "d/f"), ("e", "d")]);
    check(&mut watch, "mv b b3; mv b2 b; mv b3 b2; rm b2", &[("b2", "b")]);
    bench.check();
}

#[test]
fn lost_events_are_told() {
    let bench = Bench::new();
    let Some(mut watch) = watch(&bench) else { return };
    let limit: u32 =
        std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap().trim().parse().unwrap();
    if limit > 100_000 {
        eprintln!("not tried: {limit} events are kept");
        return;
    }
    shell(&bench, &format!("seq {limit} | xargs touch; seq {limit} | xargs rm; echo 1 >last"));
    assert!(look(&bench, &mut watch).missed);
    bench.replica().take_in(&mut |_| true).unwrap();
    bench.check();
    shell(&bench, "echo 1 >later");
    assert!(!look(&bench, &mut watch).missed, "it goes on");
    bench.check();
}
