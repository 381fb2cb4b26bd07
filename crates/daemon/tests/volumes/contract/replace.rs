//! Clones that take the place of a volume.

use super::*;

pub(crate) async fn a_volume_is_replaced_by_a_clone_at_once_and_as_a_whole(place: &dyn Place) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (old_image, new_image) = (golden(volumes, 5).await, golden(volumes, 6).await);
    let (first, second) = (JobId::random(), JobId::random());
    let vm = name("suite-swap");
    ready(volumes, &old_image, &vm, first).await;
    let old = look(volumes, &vm).await;
    let clones = clones(volumes).await;
    assert!(clones.is_replaceable(&old));
    clones.check_unused(&old).await.unwrap();

    let clone = clones
        .clone_golden(&new_image, &vm, old.size_bytes, second)
        .await
        .unwrap();
    assert_eq!(clone.name, waiting_name(second));
    assert_eq!(clones.waiting().await.unwrap(), [second]);
    let listed = volumes.list().await.unwrap();
    assert!(listed.iter().all(|volume| volume.name != clone.name));
    assert_eq!(look(volumes, &vm).await.state, old.state);
    // Not before it is ready.
    clones.replace(&old, &clone, second).await.unwrap_err();
    holds(volumes, &look(volumes, &vm).await, 5).await;
    let digest = new_image.key.digest;
    volumes
        .mark_ready(&clone, second, &digest.into())
        .await
        .unwrap();

    // Not while somebody has the old one.
    let guest = std::fs::File::open(&old.path).unwrap();
    let refused = kind(clones.check_unused(&old).await);
    assert_eq!(refused, VolumeErrorKind::InUse);
    let refused = kind(clones.replace(&old, &clone, second).await);
    assert_eq!(refused, VolumeErrorKind::InUse);
    holds(volumes, &look(volumes, &vm).await, 5).await;
    drop(guest);

    for _ in 0..2 {
        let replaced = clones.replace(&old, &clone, second).await.unwrap();
        let state = VolumeState::Ready {
            job: Some(second),
            digest,
        };
        assert_eq!((&replaced.name, replaced.state), (&vm, state));
        assert_eq!(replaced.path, old.path);
        let found = look(volumes, &vm).await;
        assert_eq!(found.state, state);
        holds(volumes, &found, 6).await;
        assert_eq!(clones.waiting().await.unwrap(), []);
    }
    // A volume as any other.
    let third = JobId::random();
    let marked = volumes
        .mark_populating(&look(volumes, &vm).await, third, Unmarked::Refuse)
        .await
        .unwrap();
    assert_eq!(marked.state, populating(third, false));
    volumes.leave(&look(volumes, &vm).await, third).await.ok();
    for golden in [old_image, new_image] {
        clones.remove_golden(&golden).await.unwrap();
    }
}

pub(crate) async fn a_clone_that_waits_is_removed_and_the_volume_stays(place: &dyn Place) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let golden = golden(volumes, 7).await;
    let (first, second) = (JobId::random(), JobId::random());
    let vm = name("suite-waiting");
    ready(volumes, &golden, &vm, first).await;
    let clones = clones(volumes).await;
    for is_ready in [false, true] {
        let clone = clones
            .clone_golden(&golden, &vm, SIZE, second)
            .await
            .unwrap();
        assert_eq!(clone.name, waiting_name(second));
        if is_ready {
            let digest = golden.key.digest;
            volumes
                .mark_ready(&clone, second, &digest.into())
                .await
                .unwrap();
        }
        let removed = clones.remove_waiting(second).await.unwrap();
        assert_eq!(removed, Removed::Removed);
        let again = clones.remove_waiting(second).await.unwrap();
        assert_eq!(again, Removed::Absent);
        assert_eq!(clones.waiting().await.unwrap(), []);
        holds(volumes, &look(volumes, &vm).await, 7).await;
    }
    clones.remove_golden(&golden).await.unwrap();
}

pub(crate) async fn only_this_program_s_volumes_are_replaced(place: &dyn Place) {
    let volumes = volumes(place);
    let clones = clones(&*volumes).await;
    let plain = make(place, "suite-not-replaced");
    assert!(!clones.is_replaceable(&look(&*volumes, &plain).await));
    volumes.adopt(&plain).await.unwrap();
    assert!(!clones.is_replaceable(&look(&*volumes, &plain).await));
}

pub(crate) async fn a_volume_that_is_written_in_place_is_no_clone_any_more(place: &dyn Place) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (golden, job) = (golden(volumes, 8).await, JobId::random());
    let vm = name("suite-rewritten");
    ready(volumes, &golden, &vm, job).await;
    let next = JobId::random();
    // Marked and left unwritten it says what it said.
    let before = look(volumes, &vm).await;
    let mark = async || {
        let found = look(volumes, &vm).await;
        volumes
            .mark_populating(&found, next, Unmarked::Refuse)
            .await
            .unwrap()
    };
    mark().await;
    assert_eq!(look(volumes, &vm).await.content, None, "while it is marked");
    volumes.leave(&before, next).await.unwrap();
    assert_eq!(look(volumes, &vm).await.content, golden.content);
    let marked = mark().await;
    write(volumes, &marked, 9).await;
    volumes
        .mark_ready(&marked, next, &digest(9).into())
        .await
        .unwrap();
    assert_eq!(look(volumes, &vm).await.content, None);
    clones(volumes).await.remove_golden(&golden).await.unwrap();
}
