//! What hostile decoders try, and what comes of it.

use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use lvp_image::ErrorKind;
use lvp_image::format::ImageType;
use lvp_image::sandbox::{Parts, Sandbox};
use lvp_testkit::docs::check_section;
use std::io::Write as _;

use super::{MARK, Start, converted, engine, hostile, image_with, refusal};
use crate::support::BINARY;

/// Long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

/// What is tried, by the hostile decoder's word for it.
const ATTEMPTS: &[(&str, &str)] = &[
    ("read-shadow", "read `/etc/shadow`"),
    ("read-proc", "read another process's environment"),
    ("list-files", "list a directory"),
    ("write-file", "write a file"),
    ("remove-file", "remove a file"),
    ("connect", "connect to a TCP port"),
    ("send-datagram", "open a UDP socket"),
    ("connect-unix", "connect to a Unix socket"),
    ("new-descriptor", "make a pipe"),
    ("start-program", "start a program"),
    ("start-thread", "start a thread"),
    ("executable-memory", "make memory executable"),
    ("signal-init", "send a signal to process 1"),
    ("raise-limit", "raise its limit of descriptors"),
    ("become-root", "become root"),
];

/// Attempts that nothing but the filter of system calls refuses.
const FILTER_ALONE: &[&str] = &["executable-memory"];

#[test]
fn the_docs_show_that_nothing_works_that_a_hostile_decoder_tries() {
    let filtered = engine(Start::hostile(), PATIENT);
    let unfiltered = Start {
        is_filtered: false,
        ..Start::hostile()
    };
    let unfiltered = engine(unfiltered, PATIENT);
    let victim = std::path::Path::new("/tmp/lvp-hostile-victim");
    std::fs::write(victim, "still here").expect("there is room");
    let mut table = String::from(
        "| a decoder tries to | the kernel | without the filter of system calls it would get |\n|---|---|---|\n",
    );
    for (word, attempt) in ATTEMPTS {
        let told = refusal(&filtered, word);
        assert!(told.contains("SIGSYS"), "{word}: {told}");
        let told = refusal(&unfiltered, word);
        let errno = told
            .split_once("(exit status ")
            .and_then(|(_, rest)| rest.split_once(')'))
            .and_then(|(number, _)| number.parse().ok())
            .unwrap_or_else(|| panic!("{word}: {told}"));
        let without = match errno {
            0 if FILTER_ALONE.contains(word) => "it".to_owned(),
            0 => panic!("{word} succeeds without the filter"),
            errno => format!("{}", rustix::io::Errno::from_raw_os_error(errno)),
        };
        let without = without
            .split(" (os error")
            .next()
            .unwrap_or_default()
            .to_owned();
        table.push_str(&format!("| {attempt} | kills it (SIGSYS) | {without} |\n"));
    }
    assert!(victim.exists(), "a hostile decoder removed a file");
    std::fs::remove_file(victim).expect("it is ours");
    let parts = unfiltered.sandbox().map(Sandbox::parts);
    // With fewer restrictions other errors come first.
    if parts == Some(Parts::ALL.without(Parts::SECCOMP)) {
        check_section("docs/security.md", "attempts", &table);
    }
    let good = image_with(None);
    for engine in [&filtered, &unfiltered] {
        let (result, disk) = converted(engine, &good.build(), ImageType::Qcow2);
        result.expect("the next image is decoded");
        assert!(disk == good.disk(), "the next disk is wrong");
    }
}

#[test]
fn a_decoder_that_lies_hangs_or_crashes_fails_its_copy_and_the_next_one_succeeds() {
    let patient = engine(Start::hostile(), PATIENT);
    let impatient = engine(Start::hostile(), Duration::from_millis(700));
    for (engine, word, told) in [
        (&patient, "crash", "crashed (signal 6)"),
        (&patient, "exit", "ended before it was done"),
        (&patient, "out-of-turn", "something else than it was asked"),
        (&patient, "gibberish", "something else than it was asked"),
        (&patient, "endless", "something else than it was asked"),
        (&patient, "other-cluster", "answered what it was not asked"),
        (&patient, "long-reason", "a reason that is too long"),
        (&patient, "window", "answered what it was not asked"),
        (&impatient, "hang", "did not answer within 0.7 seconds"),
        (
            &impatient,
            "half-a-reply",
            "did not answer within 0.7 seconds",
        ),
    ] {
        let error = refusal(engine, word);
        assert!(error.contains(told), "{word}: {error}");
        let good = image_with(None);
        let (result, disk) = converted(&patient, &good.build(), ImageType::Qcow2);
        result.expect("the next image is decoded");
        assert!(disk == good.disk(), "the next disk is wrong");
    }
}

/// A raw disk in a gzip stream that is stored, so that the order can be read in it.
fn stream_with(order: &str) -> Vec<u8> {
    let mut disk = vec![7; 3 << 20];
    let text = format!("{MARK}{order} ");
    disk[2 << 20..][..text.len()].copy_from_slice(text.as_bytes());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    gzip.write_all(&disk).expect("in memory");
    gzip.finish().expect("in memory")
}

#[test]
fn a_decoder_of_streams_that_lies_or_crashes_fails_its_copy() {
    let engine = engine(Start::hostile(), PATIENT);
    for (word, told) in [
        ("crash", "crashed (signal 6)"),
        ("read-shadow", "SIGSYS"),
        ("wrong-length", "lengths that cannot be"),
        ("too-much", "lengths that cannot be"),
        ("no-progress", "lengths that cannot be"),
        ("other-cluster", "no known reason"),
        ("window", "too much memory"),
        ("large-window", "too much memory"),
        ("windows", "memory again and again"),
    ] {
        let (result, disk) = converted(&engine, &stream_with(word), ImageType::Raw);
        let error = result.expect_err(word);
        assert_eq!(error.kind(), ErrorKind::Decoder, "{word}: {error}");
        assert!(error.to_string().contains(told), "{word}: {error}");
        assert!(disk.is_empty(), "{word}: a file was published");
    }
    let (result, disk) = converted(&engine, &stream_with("nothing"), ImageType::Raw);
    assert!(result.is_err() || disk.len() == 3 << 20);
}

#[test]
fn the_shipped_program_has_nothing_of_the_hostile_decoder() {
    let holds = |program: &std::path::Path| {
        let bytes = std::fs::read(program).expect("it is there");
        bytes
            .windows(MARK.len())
            .any(|part| part == MARK.as_bytes())
    };
    assert!(
        holds(&hostile()),
        "the mark is not looked for in the right way"
    );
    assert!(!holds(std::path::Path::new(BINARY)));
}
