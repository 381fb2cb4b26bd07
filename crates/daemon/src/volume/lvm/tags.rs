//! The tags by which a logical volume says what it is.
//!
//! | tag | on | meaning |
//! |---|---|---|
//! | `lvp` | every volume of ours | this program may write it |
//! | `lvp.state=populating` or `ready` | | the state |
//! | `lvp.job=UUID` | | the job that wrote it last |
//! | `lvp.created=UUID` | populating | the job that created it and may remove it |
//! | `lvp.image=HEX` | ready | SHA-256 of the image's bytes |
//! | `lvp.ended=UUID` | ready | the job that ended last without writing it, if any since |
//!
//! `lvp` alone, by `lvpctl volumes adopt` or by hand, hands a volume over: ours to write.

use std::str::FromStr;

use lvp_api::{JobId, Sha256Digest, named};

use super::super::{Volume, VolumeState};

/// The tag of everything that is ours.
const MARK: &str = "lvp";

/// What the tag of the job that ended last begins with.
const ENDED: &str = "lvp.ended=";

/// What the tag of the state begins with.
const STATE: &str = "lvp.state=";

/// The state in its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A job is writing the volume, or was when it ended.
    Populating,
    /// The volume holds an image.
    Ready,
}

named!(State, "state of a volume", { Populating => "populating", Ready => "ready" });

impl State {
    /// The tag that says it.
    pub(super) fn tag(self) -> String {
        format!("{STATE}{self}")
    }
}

/// Tags that other tools put on volumes that they manage: ceph-volume's `ceph.osd_id=...`,
/// Proxmox VE's `pve-vm-100`, oVirt's `IU_`, `PU_` and `MD_` (image, parent, metadata slot),
/// Ganeti's `originstname+...`. Such a volume is theirs, whatever else is on it.
const FOREIGN_PREFIXES: [&str; 6] = ["ceph.", "pve-", "IU_", "PU_", "MD_", "originstname"];

/// A volume's tags, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    /// Whether the volume is marked as ours.
    pub(super) ours: bool,
    /// What it says of itself. Contradictory tags (nothing here writes them) say nothing.
    pub(super) state: VolumeState,
    /// The job that ended last without writing it.
    pub(super) last_ended: Option<JobId>,
    /// The tags that are not ours.
    pub(super) others: Vec<String>,
}

impl Tags {
    /// Understands what LVM reports.
    pub(super) fn parse(tags: &[String]) -> Self {
        let (ours, others): (Vec<_>, Vec<_>) = tags.iter().cloned().partition(|tag| is_ours(tag));
        Self {
            ours: ours.iter().any(|tag| tag == MARK),
            state: parse_state(&ours).unwrap_or(VolumeState::Untagged),
            last_ended: value(&ours, ENDED).flatten(),
            others,
        }
    }

    /// A tag that says the volume is another tool's.
    pub(super) fn of_another_tool(&self) -> Option<&str> {
        let is_foreign = |tag: &&String| FOREIGN_PREFIXES.iter().any(|p| tag.starts_with(p));
        self.others.iter().find(is_foreign).map(String::as_str)
    }
}

/// The tags of a volume that was handed over.
pub(super) fn adopted() -> Vec<String> {
    vec![MARK.to_owned()]
}

/// The tags of a volume that was so before a job which ended and wrote nothing.
pub(super) fn left(before: &Volume, ended: JobId) -> Vec<String> {
    match before.state {
        VolumeState::Untagged => Vec::new(),
        VolumeState::Adopted => adopted(),
        VolumeState::Populating { job, created } => populating(job, created),
        VolumeState::Ready { job, digest } => {
            let by = job.map(|job| format!("lvp.job={job}"));
            let mut tags = vec![MARK.to_owned(), State::Ready.tag()];
            tags.extend(by);
            tags.push(format!("lvp.image={digest}"));
            tags.push(format!("{ENDED}{ended}"));
            tags
        }
    }
}

/// The tags of a volume that a job is writing.
pub(super) fn populating(job: JobId, created: bool) -> Vec<String> {
    let mut tags = vec![
        MARK.to_owned(),
        State::Populating.tag(),
        format!("lvp.job={job}"),
    ];
    if created {
        tags.push(format!("lvp.created={job}"));
    }
    tags
}

/// The tags of a volume that holds an image.
pub(super) fn ready(job: JobId, digest: &Sha256Digest) -> Vec<String> {
    vec![
        MARK.to_owned(),
        State::Ready.tag(),
        format!("lvp.job={job}"),
        format!("lvp.image={digest}"),
    ]
}

/// What to add and what to delete so that our tags become `wanted`; others' stay.
pub(super) fn difference(have: &[String], wanted: &[String]) -> (Vec<String>, Vec<String>) {
    let add = wanted.iter().filter(|tag| !have.contains(tag));
    let delete = have
        .iter()
        .filter(|tag| is_ours(tag) && !wanted.contains(tag));
    (add.cloned().collect(), delete.cloned().collect())
}

fn is_ours(tag: &str) -> bool {
    tag == MARK || tag.starts_with("lvp.")
}

fn parse_state(tags: &[String]) -> Option<VolumeState> {
    if tags == [MARK] {
        return Some(VolumeState::Adopted);
    }
    let job: Option<JobId> = value(tags, "lvp.job=")?;
    let created: Option<JobId> = value(tags, "lvp.created=")?;
    let image: Option<Sha256Digest> = value(tags, "lvp.image=")?;
    let state: Option<State> = value(tags, STATE)?;
    match (state?, job, image) {
        (State::Populating, Some(job), None) => Some(VolumeState::Populating {
            job,
            created: created == Some(job),
        }),
        (State::Ready, job, Some(digest)) if created.is_none() => {
            Some(VolumeState::Ready { job, digest })
        }
        _ => None,
    }
}

/// The value of the one tag with this prefix: `Some(None)` when there is none, `None` when there
/// are several or it cannot be parsed.
fn value<T: FromStr>(tags: &[String], prefix: &str) -> Option<Option<T>> {
    let mut values = tags.iter().filter_map(|tag| tag.strip_prefix(prefix));
    match (values.next(), values.next()) {
        (None, _) => Some(None),
        (Some(value), None) => value.parse().ok().map(Some),
        (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
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
            let mut tags = ready(JobId::random(), &Sha256Digest::new([7; 32]));
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
        let ready = ready(job, &digest);
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
        let ready = ready(job, &digest);
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
}
