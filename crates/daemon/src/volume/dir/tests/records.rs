//! Records of files that are not the ones they were made for.

use super::*;

/// Says on the record of `vm` what the file system would have made true of another file.
fn change_record(f: &Fixture, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = f.path(".lvp/vm.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(record.as_object_mut().unwrap());
    fs::write(&path, record.to_string()).unwrap();
}

fn born_ns(path: &Path) -> u64 {
    let born = fs::metadata(path).unwrap().created().unwrap();
    let since = born.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

#[tokio::test]
async fn a_new_file_under_the_number_of_ours_is_neither_removed_nor_believed() {
    for finished in [true, false] {
        let f = fixture();
        let (vm, job) = (name("vm"), JobId::random());
        let volume = f.volumes.create(&vm, MIB, job).await.unwrap();
        if finished {
            f.volumes
                .mark_ready(&volume, job, &digest(1).into())
                .await
                .unwrap();
        }
        fs::remove_file(f.path("vm")).unwrap();
        f.foreign("vm", MIB);
        let inode = fs::metadata(f.path("vm")).unwrap().ino();
        change_record(&f, |record| {
            record.insert("inode".to_owned(), inode.into());
        });
        assert_eq!(f.found(&vm).await.state, VolumeState::Untagged);
        let removed = f.volumes.remove_created(&vm, job).await.unwrap();
        assert_eq!(removed, Removed::Kept);
        // And where the file system knows no time of birth: by the word in the file.
        let born = born_ns(&f.path("vm"));
        change_record(&f, |record| {
            record.insert("born_ns".to_owned(), born.into());
        });
        assert_eq!(f.found(&vm).await.state, VolumeState::Untagged);
        assert_eq!(fs::read(f.path("vm")).unwrap()[0], 0xaa);
    }
}

#[tokio::test]
async fn a_record_of_an_older_release_holds_for_the_file_that_was_there_before_it() {
    let f = fixture();
    let (vm, job) = (name("vm"), JobId::random());
    let volume = f.volumes.create(&vm, MIB, job).await.unwrap();
    f.volumes
        .mark_ready(&volume, job, &digest(1).into())
        .await
        .unwrap();
    let ready = VolumeState::Ready {
        job: Some(job),
        digest: digest(1),
    };
    let as_before = |record: &mut serde_json::Map<String, Value>| {
        assert!(record.remove("born_ns").is_some());
        record.remove("word");
    };
    change_record(&f, as_before);
    assert_eq!(f.found(&vm).await.state, ready);
    // The next job's record has all.
    let next = JobId::random();
    f.volumes
        .mark_populating(&volume, next, Unmarked::Refuse)
        .await
        .unwrap();
    let record: Value = serde_json::from_slice(&fs::read(f.path(".lvp/vm.json")).unwrap()).unwrap();
    assert_eq!(record["born_ns"], born_ns(&f.path("vm")));

    // A file that was born after the record was written is another one.
    change_record(&f, as_before);
    let written = fs::metadata(f.path(".lvp/vm.json")).unwrap();
    let (inode, written) = (
        fs::metadata(f.path("vm")).unwrap().ino(),
        written.modified().unwrap(),
    );
    let mut tries = 0;
    fs::remove_file(f.path("vm")).unwrap();
    while fs::metadata(f.path("vm")).is_err() || born_ns(&f.path("vm")) <= nanoseconds(written) {
        f.foreign("vm", MIB);
        let born = born_ns(&f.path("vm"));
        if born <= nanoseconds(written) {
            fs::remove_file(f.path("vm")).unwrap();
        }
        tries += 1;
        assert!(tries < 1_000_000, "the clock stands");
    }
    let record = fs::read(f.path(".lvp/vm.json")).unwrap();
    let now = fs::metadata(f.path("vm")).unwrap().ino();
    let record = String::from_utf8(record).unwrap();
    let record = record.replace(&format!("\"inode\":{inode}"), &format!("\"inode\":{now}"));
    fs::write(f.path(".lvp/vm.json"), record).unwrap();
    File::options()
        .write(true)
        .open(f.path(".lvp/vm.json"))
        .unwrap()
        .set_modified(written)
        .unwrap();
    assert_eq!(f.found(&vm).await.state, VolumeState::Untagged);
}

fn nanoseconds(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}
