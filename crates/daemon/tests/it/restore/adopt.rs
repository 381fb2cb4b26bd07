//! Volumes without marks: refused, unless a request or an operator hands them over.

use super::*;

#[tokio::test]
async fn an_unmarked_file_is_refused_unless_the_request_or_an_operator_allows_it() {
    let world = World::new().await;
    let builder = image(32 * MIB, 4, 1);
    let url = world.put("a.qcow2", &builder.build());
    let volume = world.home.volume("vm");
    let strange = vec![0xa5; 32 << 20];
    let daemon = world.start();
    let body = json!({"image_url": url, "volume_name": "vm", "volume_size_bytes": 32 * MIB});
    let ask = async |body| {
        let answer = daemon.call("POST", "/api/v1/jobs", Some(body)).await;
        let answer = answer.expect("an answer");
        let job = answer.body["job_id"].as_str().expect("a job").to_owned();
        ended(&daemon, &job).await
    };
    fs::write(&volume, &strange).expect("it is written");
    let refused = ask(body.clone()).await;
    assert_eq!(refused.error_code, Some(409), "{refused:?}");
    let error = refused.error.expect("it says why");
    assert!(error.contains("lvpctl volumes adopt vm"), "{error}");
    assert!(fs::read(&volume).expect("it is there") == strange);

    let mut meant = body.clone();
    meant["adopt"] = true.into();
    let status = ask(meant).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds(&volume, &builder.disk()));

    fs::remove_file(&volume).expect("it is removed");
    fs::write(&volume, &strange).expect("it is written");
    let adopt = async |name: &str| {
        let route = format!("/api/v1/volumes/{name}/adopt");
        daemon.call("POST", &route, None).await.expect("an answer")
    };
    let answer = adopt("vm").await;
    assert_eq!(
        (answer.status, &answer.body["state"]),
        (200, &json!("adopted"))
    );
    assert!(fs::read(&volume).expect("it is there") == strange);
    assert_eq!(adopt("absent").await.status, 404);
    assert_eq!(adopt("-bad").await.status, 400);
    let status = ask(body).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds(&volume, &builder.disk()));
}

/// As the Go program's own schema has it.
pub(crate) fn go_database(path: &std::path::Path, jobs: &[(&str, &str)]) {
    let database = Connection::open(path).expect("it is made");
    database
        .execute_batch(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, status TEXT NOT NULL, \
             request_json TEXT NOT NULL, progress_json TEXT, error_message TEXT, \
             retry_count INTEGER DEFAULT 0, created_at INTEGER NOT NULL, \
             updated_at INTEGER NOT NULL, completed_at INTEGER)",
        )
        .expect("it is SQL");
    for (index, (volume, status)) in jobs.iter().enumerate() {
        let request = json!({"image_url": "http://s3/i.qcow2", "volume_name": volume}).to_string();
        database
            .execute(
                "INSERT INTO jobs (id, status, request_json, created_at, updated_at) \
                 VALUES (?1, ?2, ?3, 1, 1)",
                (index.to_string(), status, request),
            )
            .expect("it is inserted");
    }
}

#[tokio::test]
async fn volumes_of_the_go_programs_completed_jobs_are_handed_over_by_one_command() {
    let world = World::new().await;
    for name in ["one", "two", "failed", "strange"] {
        fs::write(world.home.volume(name), vec![0xa5; 1 << 20]).expect("it is written");
    }
    // A running virtual machine has it open.
    let guest = File::open(world.home.volume("one")).expect("it opens");
    let old = world.home.path().join("go.db");
    go_database(
        &old,
        &[
            ("one", "completed"),
            ("two", "completed"),
            ("two", "completed"),
            ("gone", "completed"),
            ("failed", "failed"),
            ("-bad", "completed"),
        ],
    );
    let run = |more: &[&str]| {
        let old = old.to_str().expect("a path");
        let arguments = ["db", "adopt-go-volumes", "--config", "/dev/null", old];
        let output = world.home.run(&[&arguments[..], more].concat());
        let output = output.expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let dry = run(&["--dry-run"]);
    assert_eq!(
        dry,
        "gone: is gone\none: would be handed over\ntwo: would be handed over\n"
    );
    let said = run(&[]);
    assert_eq!(said, "gone: is gone\none: handed over\ntwo: handed over\n");
    assert_eq!(
        run(&[]),
        "gone: is gone\none: already belongs to this program\ntwo: already belongs to this program\n"
    );
    drop(guest);
    let daemon = world.start();
    let listed: lvp_api::VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    let states: Vec<_> = listed
        .volumes
        .iter()
        .map(|volume| (volume.name.as_str(), volume.state.as_str()))
        .collect();
    assert_eq!(
        states,
        [
            ("failed", "untagged"),
            ("one", "adopted"),
            ("strange", "untagged"),
            ("two", "adopted"),
        ]
    );
    let bytes = fs::read(world.home.volume("one")).expect("it is read");
    assert!(bytes.iter().all(|byte| *byte == 0xa5), "a byte was changed");
    let report = crate::doctor::report(&world.home, &[]);
    let (status, message) = crate::doctor::check(&report, "volumes.adopted");
    assert_eq!(status, "ok", "{message}");
    assert!(message.contains("failed, strange"), "{message}");
}
