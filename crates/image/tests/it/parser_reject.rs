//! Every case of the hostile set is refused, as what it is, within a second.

use std::time::{Duration, Instant};

use crate::hostile::cases;
use crate::parser_support::read;

/// What the slowest refusal may take, built without optimisation and on a busy machine.
const MAX_TIME: Duration = Duration::from_secs(1);

#[test]
fn every_hostile_image_is_refused_as_what_it_is_within_a_second() {
    let cases = cases();
    assert!(cases.len() >= 120, "there are only {}", cases.len());
    let mut wrong = Vec::new();
    let mut slowest = (Duration::ZERO, String::new());
    for case in &cases {
        let start = Instant::now();
        let outcome = read(case.bytes.as_slice(), case.declared);
        let took = start.elapsed();
        if took > slowest.0 {
            slowest = (took, case.name.clone());
        }
        match outcome {
            Err(error) if error.kind() == case.kind || Some(error.kind()) == case.or => {
                assert!(error.kind().is_refusal());
            }
            Err(error) => wrong.push(format!(
                "{}: refused as {:?} instead of {:?}: {error}",
                case.name,
                error.kind(),
                case.kind
            )),
            Ok(_) => wrong.push(format!("{}: accepted", case.name)),
        }
    }
    eprintln!("{} cases, the slowest took {slowest:?}", cases.len());
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(slowest.0 < MAX_TIME, "{slowest:?}");
}

#[test]
fn an_unknown_feature_is_refused_by_the_name_that_the_image_gives_it() {
    use crate::hostile::{field, plain};
    use lvp_image::format::ImageType;

    let mut table = vec![0; 96];
    table[..9].copy_from_slice(b"\x01\x2dno this");
    table[48..61].copy_from_slice(b"\x00\x2dtime\x1btravel");
    let mut patient = plain();
    patient
        .u64(field::INCOMPATIBLE, 1 << 45 | 1 << 50)
        .extensions(&[(0x6803_f857, &table)]);
    let error = read(patient.bytes.as_slice(), ImageType::Qcow2).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("bit 45 (\"time?travel\"), bit 50"), "{text}");
}
