use lvp_api::ImageType;

use super::*;

fn state(tags: &[String]) -> VolumeState {
    Tags::parse(tags).state
}

#[test]
fn every_state_s_name_is_read_back_and_an_unknown_one_says_nothing() {
    for known in State::ALL {
        assert_eq!(known.to_string().parse(), Ok(known));
        assert_eq!(value(&[known.tag()], STATE), Some(Some(known)));
    }
    for unknown in ["", "Ready", "polished"] {
        assert!(unknown.parse::<State>().is_err(), "{unknown}");
        let mut tags = ready(JobId::random(), &Sha256Digest::new([7; 32]).into());
        tags.retain(|tag| !tag.starts_with(STATE));
        tags.push(format!("{STATE}{unknown}"));
        assert_eq!(state(&tags), VolumeState::Untagged, "{unknown}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let (job, digest) = (JobId::random(), Sha256Digest::new([7; 32]));
    for created in [true, false] {
        let written = populating(job, created);
        assert_eq!(state(&written), VolumeState::Populating { job, created });
    }
    let ready = ready(job, &digest.into());
    let job = Some(job);
    assert_eq!(state(&ready), VolumeState::Ready { job, digest });
}

#[test]
fn what_a_job_leaves_says_the_same_as_before_and_which_job_ended() {
    let (job, ended, digest) = (JobId::random(), JobId::random(), Sha256Digest::new([7; 32]));
    let created = true;
    for state in [
        VolumeState::Untagged,
        VolumeState::Adopted,
        VolumeState::Populating { job, created },
        VolumeState::Ready {
            job: Some(job),
            digest,
        },
        VolumeState::Ready { job: None, digest },
    ] {
        let name = "vm".parse().unwrap();
        let left = left(&Volume::new(name, "/dev/vg0/vm".into(), 1, state), ended);
        let parsed = Tags::parse(&left);
        assert_eq!(parsed.state, state);
        let is_ready = matches!(state, VolumeState::Ready { .. });
        assert_eq!(parsed.last_ended, is_ready.then_some(ended), "{state:?}");
    }
}

#[test]
fn what_golden_volumes_and_clones_say_is_read_back_and_garble_says_nothing() {
    let digest = Sha256Digest::new([7; 32]);
    let name: VolumeName = "vm-1.a+b_c".parse().unwrap();
    for image_type in ImageType::ALL {
        let key = GoldenKey { digest, image_type };
        assert_eq!(Tags::parse(&[golden(&key)]).golden, Some(key));
    }
    let held = Content {
        size_bytes: u64::MAX,
        digest,
    };
    let measures = Sealed {
        volume_bytes: 7,
        mapped_bytes: 0,
    };
    let all = [
        content(&held),
        sealed(&measures),
        clone_of(&digest),
        waits_for(&name),
        aside(&name),
    ];
    let parsed = Tags::parse(&all);
    assert_eq!(
        (parsed.content, parsed.sealed),
        (Some(held), Some(measures))
    );
    assert_eq!(parsed.clone_of, Some(digest));
    assert_eq!(
        (parsed.waits_for, parsed.aside),
        (Some(name.clone()), Some(name))
    );
    let of_making = [&all[0], &all[2], &all[3]].map(String::clone);
    assert_eq!(parsed.of_making, of_making);
    let other_layout = format!("lvp.golden=2:raw:{digest}");
    for tags in [
        vec![other_layout],
        vec![format!("lvp.golden=1:floppy:{digest}")],
        vec!["lvp.golden=1:raw:77".to_owned()],
        vec![format!("lvp.content=x:{digest}")],
        vec![format!("lvp.content=1:{digest}:1")],
        vec!["lvp.content=1".to_owned()],
        vec![
            format!("lvp.content=1:{digest}"),
            format!("lvp.content=2:{digest}"),
        ],
    ] {
        let parsed = Tags::parse(&tags);
        assert_eq!((parsed.golden, parsed.content), (None, None), "{tags:?}");
    }
}

#[test]
fn a_change_touches_our_tags_only_and_never_both_adds_and_deletes_one() {
    let (first, second) = (JobId::random(), JobId::random());
    let mut have = populating(first, true);
    have.push("backup".to_owned());
    let wanted = populating(second, false);
    let (add, delete) = difference(&have, &wanted);
    assert_eq!(add, [format!("lvp.job={second}")]);
    assert_eq!(
        delete,
        [format!("lvp.job={first}"), format!("lvp.created={first}")]
    );
    assert_eq!(difference(&wanted, &wanted), (vec![], vec![]));
}

#[test]
fn contradictory_or_garbled_tags_never_make_a_volume_ready_or_removable() {
    let (job, digest) = (JobId::random(), Sha256Digest::new([7; 32]));
    let with = |base: &[String], more: &str| [base, &[more.to_owned()]].concat();
    let ready = ready(job, &digest.into());
    for tags in [
        with(&ready, "lvp.state=populating"),
        with(&ready, &format!("lvp.image={}", Sha256Digest::new([8; 32]))),
        with(&ready, &format!("lvp.created={job}")),
        with(
            &populating(job, true),
            &format!("lvp.job={}", JobId::random()),
        ),
        vec!["lvp.state=ready".to_owned(), "lvp.image=77".to_owned()],
        vec!["lvp".to_owned(), "lvp.ended=x".to_owned()],
        vec!["lvp.state=populating".to_owned()],
        vec![],
    ] {
        assert_eq!(state(&tags), VolumeState::Untagged, "{tags:?}");
    }
    let taken_over = with(
        &populating(job, false),
        &format!("lvp.created={}", JobId::random()),
    );
    let created = false;
    assert_eq!(state(&taken_over), VolumeState::Populating { job, created });
}

#[test]
fn a_signer_and_a_moved_gpt_are_said_until_another_job_takes_the_volume() {
    let signer = Signer {
        format: lvp_api::SignatureFormat::OpenPgp,
        fingerprint: "DF9B9C49EAA9298432589D76DA87E80D6294BE9B".to_owned(),
        name: Some("Debian CD: signing <debian-cd@lists.debian.org> é".to_owned()),
    };
    let made = Made {
        digest: Sha256Digest::new([7; 32]),
        expanded: true,
        signer: Some(signer.clone()),
    };
    let written = ready(JobId::random(), &made);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-/=!:&#".contains(c);
    assert!(
        written.iter().all(|tag| tag.chars().all(is_allowed)),
        "{written:?}"
    );
    let parsed = Tags::parse(&written);
    let found = parsed.signer.expect("there is one");
    assert_eq!(
        (found.format, &found.fingerprint),
        (signer.format, &signer.fingerprint)
    );
    let plain = "Debian_CD:_signing__debian-cd_lists.debian.org___";
    assert_eq!(found.name.as_deref(), Some(plain));
    assert!(parsed.expanded);
    // It is said still after a job that wrote nothing.
    let mut volume = Volume::new("vm".parse().unwrap(), "/dev/vg0/vm".into(), 1, parsed.state);
    (volume.expanded, volume.signer) = (true, Some(signer));
    let after = Tags::parse(&left(&volume, JobId::random()));
    assert!(after.expanded && after.signer.is_some());
    assert!(!Tags::parse(&populating(JobId::random(), false)).expanded);
    let minisign = Signer {
        format: lvp_api::SignatureFormat::Minisign,
        fingerprint: "1C7D0B1F2A3E4D5C".to_owned(),
        name: None,
    };
    let tag = SignerTag::tag(&minisign);
    assert_eq!(
        value::<SignerTag>(&[tag], SIGNER)
            .flatten()
            .map(|tag| tag.0),
        Some(minisign)
    );
}
