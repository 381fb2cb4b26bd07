//! What may be in the cache at once.

use super::*;

#[tokio::test]
async fn unfinished_downloads_count_as_what_the_cache_takes() {
    let bench = Bench::new(Some(3 * MIB as u64)).await;
    bench.publish("a", &vec![1; MIB]).await;
    let object = bench.object("b", &vec![2; MIB]).await;
    let mut lead = bench.lead(&object).await.expect("it fits");
    let mut file = lead.open().await.expect("it opens");
    file.write_all(&vec![2; MIB / 2]).expect("it is written");
    lead.durable(MIB as u64 / 2).await.expect("it is noted");
    let usage = bench.cache.usage().await.expect("it is measured");
    assert_eq!(usage.images, 1);
    assert_eq!(usage.size_bytes, (MIB + MIB / 2) as u64);

    // 1 MiB is published, 1 MiB is being written: there is 1 MiB, or 2 without the image.
    let refused = bench.object("c", &vec![3; 2 * MIB + 1]).await;
    let refused = bench.lead(&refused).await.expect_err("it cannot fit");
    let CacheError::NoRoom {
        available, needed, ..
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((available, needed), (2 * MIB as u64, 2 * MIB as u64 + 1));
    assert_eq!(bench.listed().await.len(), 1, "nothing was evicted for it");
    assert!(lead.path().exists());

    // An idle one goes last, and only for what then fits.
    drop((file, lead));
    let large = bench.object("d", &vec![4; 3 * MIB]).await;
    bench.lead(&large).await.expect("it fits");
    assert_eq!(bench.files().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_fit_beside_pinned_images_evicts_nothing() {
    let bench = Bench::new(Some(3 * MIB as u64)).await;
    let (pinned, _) = bench.publish("a", &vec![1; MIB]).await;
    bench.publish("b", &vec![2; MIB]).await;
    let pin = bench.hit(&pinned).await.expect("it is there");
    let object = bench.object("c", &vec![3; 2 * MIB + 1]).await;
    let refused = bench.lead(&object).await.expect_err("it cannot fit");
    assert!(matches!(refused, CacheError::NoRoom { .. }), "{refused:?}");
    assert_eq!(bench.listed().await.len(), 2);
    assert_eq!(bench.cache.evicted_images(), 0);
    drop(pin);
    bench.lead(&object).await.expect("it fits beside nothing");
    assert_eq!(bench.listed().await.len(), 0);
}

#[tokio::test]
async fn a_cache_that_is_over_its_limit_is_brought_below_it() {
    let bench = Bench::new(None).await;
    for key in ["a", "b", "c"] {
        bench.publish(key, key.repeat(MIB).as_bytes()).await;
    }
    let limit = Some(2 * MIB as u64 + 1);
    let bench = bench.restarted(|settings| settings.max_size_bytes = limit);
    bench.cache.reconcile().await.expect("it is tidied");
    let left = bench.listed().await;
    let urls: Vec<_> = left.iter().map(|image| image.image_url.as_str()).collect();
    assert_eq!(urls, ["s3://images/c", "s3://images/b"]);
}
