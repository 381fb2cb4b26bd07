//! The tags by which a logical volume says what it is.
//!
//! | tag | on | meaning |
//! |---|---|---|
//! | `lvp` | every volume of ours | this program may write it |
//! | `lvp.state=populating` or `ready` | | the state |
//! | `lvp.job=UUID` | | the job that wrote it last |
//! | `lvp.created=UUID` | populating | the job that created it and may remove it |
//! | `lvp.image=HEX` | ready | SHA-256 of the image's bytes |
//! | `lvp.expanded=gpt` | ready | the guest's backup GPT was moved to the volume's end |
//! | `lvp.signer=FORMAT:FINGERPRINT:NAME` | ready | whose signature the image had, if that was verified |
//! | `lvp.ended=UUID` | ready | the job that ended last without writing it, if any since |
//! | `lvp.golden=1:TYPE:HEX` | golden | the image that it is to hold: layout of these tags, format, SHA-256 |
//! | `lvp.content=BYTES:HEX` | golden, clones | size and SHA-256 of the image's disk |
//! | `lvp.sealed=BYTES:BYTES` | golden | size of the volume, and what it took of the pool |
//! | `lvp.clone=HEX` | clones | the image that the volume was cloned with |
//! | `lvp.for=NAME` | clones | the name that the clone gets; it waits for it under another |
//! | `lvp.aside=NAME` | what a clone replaces | the name that the volume had |
//!
//! The last six are of the command that makes the volume, and stay until another job takes it over.
//!
//! `lvp` alone, by `lvpctl volumes adopt` or by hand, hands a volume over: ours to write.

use std::str::FromStr;

use lvp_api::{JobId, Sha256Digest, Signer, VolumeKind, VolumeName, named};

use super::super::clones::{Content, GoldenKey};
use super::super::{Made, Volume, VolumeState};

/// The tag of everything that is ours.
const MARK: &str = "lvp";

/// What the tag of the job that ended last begins with.
const ENDED: &str = "lvp.ended=";

/// What the tag of a golden volume's image begins with, and the number of what these tags say: a program
/// that means something else by them has another, and takes none of these volumes for golden.
const GOLDEN: &str = "lvp.golden=1:";

/// What the tag of a golden volume's content begins with.
const CONTENT: &str = "lvp.content=";

/// What the tag of a golden volume's own measures begins with.
const SEALED: &str = "lvp.sealed=";

/// The tag of a volume whose backup GPT was moved to its end.
const EXPANDED: &str = "lvp.expanded=gpt";

/// What the tag of an image's signer begins with.
const SIGNER: &str = "lvp.signer=";

/// The longest name of a signer, as an LVM tag has at most 1024 characters (`lvm(8)`) and must stay readable.
const SIGNER_NAME_MAX: usize = 256;

/// What a clone's tag begins with.
const CLONE: &str = "lvp.clone=";

/// What the tag of a clone that waits for its name begins with.
const FOR: &str = "lvp.for=";

/// What the tag of a volume that was put aside begins with.
const ASIDE: &str = "lvp.aside=";

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
    /// The image that it is to hold for clones.
    pub(super) golden: Option<GoldenKey>,
    /// What it holds for them, or was cloned with.
    pub(super) content: Option<Content>,
    /// How it was when it was sealed.
    pub(super) sealed: Option<Sealed>,
    /// The image that it was cloned with.
    pub(super) clone_of: Option<Sha256Digest>,
    /// Whether its backup GPT was moved to its end.
    pub(super) expanded: bool,
    /// Whose signature its image had.
    pub(super) signer: Option<Signer>,
    /// The name that it is to get.
    pub(super) waits_for: Option<VolumeName>,
    /// The name that it had.
    pub(super) aside: Option<VolumeName>,
    /// Those of our tags that are as the volume was made.
    pub(super) of_making: Vec<String>,
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
            golden: value::<GoldenTag>(&ours, GOLDEN).flatten().map(|tag| tag.0),
            content: value::<ContentTag>(&ours, CONTENT)
                .flatten()
                .map(|tag| tag.0),
            sealed: value(&ours, SEALED).flatten(),
            clone_of: value(&ours, CLONE).flatten(),
            expanded: ours.iter().any(|tag| tag == EXPANDED),
            signer: value::<SignerTag>(&ours, SIGNER).flatten().map(|tag| tag.0),
            waits_for: value(&ours, FOR).flatten(),
            aside: value(&ours, ASIDE).flatten(),
            of_making: ours
                .iter()
                .filter(|tag| {
                    [GOLDEN, CLONE, CONTENT, FOR]
                        .iter()
                        .any(|of| tag.starts_with(of))
                })
                .cloned()
                .collect(),
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
            tags.extend(of_image(before.expanded, before.signer.as_ref()));
            tags.push(format!("{ENDED}{ended}"));
            // A ready volume that was not written is the clone that it was.
            tags.extend((before.kind == Some(VolumeKind::Clone)).then(|| clone_of(&digest)));
            tags.extend(before.content.as_ref().map(content));
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
pub(super) fn ready(job: JobId, made: &Made) -> Vec<String> {
    let mut tags = vec![
        MARK.to_owned(),
        State::Ready.tag(),
        format!("lvp.job={job}"),
        format!("lvp.image={}", made.digest),
    ];
    tags.extend(of_image(made.expanded, made.signer.as_ref()));
    tags
}

fn of_image(expanded: bool, signer: Option<&Signer>) -> Vec<String> {
    let mut tags = Vec::new();
    tags.extend(expanded.then(|| EXPANDED.to_owned()));
    tags.extend(signer.map(SignerTag::tag));
    tags
}

/// `FORMAT:FINGERPRINT:NAME`. LVM's tags allow few characters, so others in a name become `_`.
struct SignerTag(Signer);

impl SignerTag {
    fn tag(signer: &Signer) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-/=!:&#".contains(c);
        let plain = |text: &str| -> String {
            let characters = text.chars().take(SIGNER_NAME_MAX);
            characters
                .map(|c| if allowed(c) { c } else { '_' })
                .collect()
        };
        let mut tag = format!("{SIGNER}{}:{}", signer.format, plain(&signer.fingerprint));
        if let Some(name) = &signer.name {
            tag.push(':');
            tag.push_str(&plain(name));
        }
        tag
    }
}

impl FromStr for SignerTag {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, ':');
        let format = parts.next().ok_or(())?.parse().map_err(drop)?;
        let fingerprint = parts.next().filter(|text| !text.is_empty()).ok_or(())?;
        Ok(Self(Signer {
            format,
            fingerprint: fingerprint.to_owned(),
            name: parts.next().map(str::to_owned),
        }))
    }
}

/// The tag of a volume that is to be golden.
pub(super) fn golden(key: &GoldenKey) -> String {
    format!("{GOLDEN}{}:{}", key.image_type.as_str(), key.digest)
}

/// The tag of what a golden volume and its clones hold.
pub(super) fn content(content: &Content) -> String {
    format!("{CONTENT}{}:{}", content.size_bytes, content.digest)
}

/// The tag of how a golden volume was when it was sealed.
pub(super) fn sealed(sealed: &Sealed) -> String {
    format!("{SEALED}{}:{}", sealed.volume_bytes, sealed.mapped_bytes)
}

/// The tag of a clone.
pub(super) fn clone_of(digest: &Sha256Digest) -> String {
    format!("{CLONE}{digest}")
}

/// The tag of a clone that waits for its name.
pub(super) fn waits_for(name: &VolumeName) -> String {
    format!("{FOR}{name}")
}

/// The tag of a volume that a clone replaces.
pub(super) fn aside(name: &VolumeName) -> String {
    format!("{ASIDE}{name}")
}

/// `TYPE:HEX`.
struct GoldenTag(GoldenKey);

impl FromStr for GoldenTag {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (image_type, digest) = text.split_once(':').ok_or(())?;
        Ok(Self(GoldenKey {
            digest: digest.parse().map_err(drop)?,
            image_type: image_type.parse().map_err(drop)?,
        }))
    }
}

/// `BYTES:HEX`.
struct ContentTag(Content);

impl FromStr for ContentTag {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (size_bytes, digest) = text.split_once(':').ok_or(())?;
        Ok(Self(Content {
            size_bytes: size_bytes.parse().map_err(drop)?,
            digest: digest.parse().map_err(drop)?,
        }))
    }
}

/// How a golden volume was when it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sealed {
    /// Its size.
    pub(super) volume_bytes: u64,
    /// What it took of the pool.
    pub(super) mapped_bytes: u64,
}

impl FromStr for Sealed {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (volume_bytes, mapped_bytes) = text.split_once(':').ok_or(())?;
        Ok(Self {
            volume_bytes: volume_bytes.parse().map_err(drop)?,
            mapped_bytes: mapped_bytes.parse().map_err(drop)?,
        })
    }
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
mod tests;
