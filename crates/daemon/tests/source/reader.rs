//! Random access for the image crate.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lvp_image::ReadAt;
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::s3::S3;
use provisioner::source::{PlanCheck, RemoteReader, SourceError, SourceErrorKind};
use tokio_util::sync::CancellationToken;

use super::{check_error, eventually, pattern, resolve, soon, source};

const SIZE: u64 = 3 << 20;

async fn server() -> (S3, FaultProxy) {
    let server = S3::start().await.unwrap();
    server.objects().put("img", "k", &pattern(SIZE)).unwrap();
    let address: SocketAddr = server.address();
    let proxy = FaultProxy::start(address).await.unwrap();
    (server, proxy)
}

async fn reader(proxy: &FaultProxy, cancel: &CancellationToken) -> RemoteReader {
    let source = source(&proxy.endpoint());
    let meta = resolve(&source, "s3://img/k").await.unwrap();
    proxy.clear();
    source.reader(&meta, cancel.clone())
}

async fn read(reader: RemoteReader, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut buf = vec![0; length];
        reader.read_exact_at(&mut buf, offset).map(|()| buf)
    });
    soon(reading).await.unwrap()
}

#[tokio::test]
async fn any_part_reads_exactly_and_neighbours_cost_no_request() {
    let (_server, proxy) = server().await;
    let reader = reader(&proxy, &CancellationToken::new()).await;
    assert_eq!(reader.len(), SIZE);
    let expected = pattern(SIZE);
    let task = tokio::task::spawn_blocking(move || {
        let check = |offset: u64, length: usize| {
            let mut buf = vec![0; length];
            reader.read_exact_at(&mut buf, offset).unwrap();
            assert!(buf == expected[offset as usize..offset as usize + length]);
        };
        check(0, 104);
        check(104, 4096);
        check(65536, 65536);
        check(200_000, 60_000);
        assert_eq!(proxy.requests().len(), 1, "they share one block");
        check(262_140, 8);
        check(SIZE - 1, 1);
        check(SIZE - 300_000, 300_000);
        check(1, (SIZE - 2) as usize);
        check(0, SIZE as usize);
        check(5, 0);
        check(SIZE, 0);
        let gets = proxy.requests().len();
        assert!(gets <= 8, "{gets} requests");
        for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 2)] {
            let error = reader
                .read_exact_at(&mut vec![0; length], offset)
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(proxy.requests().len(), gets, "no request passes the end");
    });
    soon(task).await.unwrap();
}

#[tokio::test]
async fn temporary_faults_are_survived_and_final_ones_reported() {
    let (_server, proxy) = server().await;
    let reading = reader(&proxy, &CancellationToken::new()).await;
    proxy.inject(Rule::new(Fault::CutAt(1000)).times(3));
    let found = read(reading, 10, 5000).await.unwrap();
    assert!(found == pattern(SIZE)[10..5010]);

    let reading = reader(&proxy, &CancellationToken::new()).await;
    proxy.inject(Rule::new(Fault::IgnoreRange));
    let error = read(reading, 10, 5000).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    let error = SourceError::from_io(&error).expect("it is ours");
    assert_eq!(error.kind(), SourceErrorKind::RangesIgnored);
}

/// Where two reads of 100 bytes and one across two blocks are.
const READS: [u64; 3] = [10, BLOCK - 50, SIZE - 100];
const BLOCK: u64 = 256 << 10;

/// Feeds a check in pieces of this length.
fn compare(mut check: PlanCheck, bytes: &[u8], piece: usize) -> Result<(), SourceError> {
    for piece in bytes.chunks(piece) {
        check.push(piece)?;
    }
    check.finish()
}

async fn planned(proxy: &FaultProxy) -> PlanCheck {
    let reader = reader(proxy, &CancellationToken::new()).await;
    let reading = tokio::task::spawn_blocking(move || {
        for offset in READS {
            reader.read_exact_at(&mut [0; 100], offset).unwrap();
        }
        reader.into_check().unwrap()
    });
    soon(reading).await.unwrap()
}

#[tokio::test]
async fn blocks_that_were_read_are_compared_with_the_stream_however_that_is_split() {
    let (_server, proxy) = server().await;
    let bytes = pattern(SIZE);
    for piece in [1000, BLOCK as usize, (2 << 20) - 1, SIZE as usize] {
        compare(planned(&proxy).await, &bytes, piece).unwrap();
        for (at, is_read) in [
            (0, true),
            (10, true),
            (BLOCK + 49, true),
            (SIZE - 1, true),
            // Blocks that nobody has read.
            (2 * BLOCK, false),
            (SIZE - BLOCK - 1, false),
        ] {
            let mut other = bytes.clone();
            other[at as usize] ^= 1;
            let found = compare(planned(&proxy).await, &other, piece);
            assert_eq!(found.is_err(), is_read, "{at} in pieces of {piece}");
            if let Err(error) = found {
                check_error(&error, SourceErrorKind::ObjectChanged, "map was read from");
            }
        }
        let cut = &bytes[..bytes.len() - 1];
        let error = compare(planned(&proxy).await, cut, piece).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::ObjectChanged);
    }
}

#[tokio::test]
async fn a_block_that_differs_when_read_again_is_reported() {
    let (server, proxy) = server().await;
    // More blocks than the reader keeps, so that the first is fetched again.
    let size = 20 * BLOCK;
    server.objects().put("img", "k", &pattern(size)).unwrap();
    for differs in [false, true] {
        let reader = reader(&proxy, &CancellationToken::new()).await;
        let all = move |reader: &RemoteReader| {
            for block in 0..20 {
                reader.read_exact_at(&mut [0; 100], block * BLOCK)?;
            }
            reader.read_exact_at(&mut [0; 100], 0)
        };
        if differs {
            let mut other = pattern(size);
            other[200_000] ^= 1;
            let again = Rule::new(Fault::OtherBytes(other.into())).range_from(0);
            proxy.inject(again.skip(1));
        }
        let reading = tokio::task::spawn_blocking(move || all(&reader));
        let found = soon(reading).await.unwrap();
        assert_eq!(found.is_err(), differs);
        if let Err(error) = found {
            let error = SourceError::from_io(&error).expect("it is ours");
            check_error(error, SourceErrorKind::ObjectChanged, "0x0..0x40000");
        }
    }
}

#[tokio::test]
async fn a_cancelled_read_returns_at_once() {
    let (_server, proxy) = server().await;
    let cancel = CancellationToken::new();
    let reading = reader(&proxy, &cancel).await;
    proxy.inject(Rule::new(Fault::StallAt(100)));
    let task = tokio::spawn(read(reading, 0, 1000));
    eventually("the server stalls", || proxy.injected() == 1).await;
    cancel.cancel();
    let error = tokio::time::timeout(Duration::from_secs(2), task)
        .await
        .expect("it returns at once")
        .unwrap()
        .unwrap_err();
    let error = SourceError::from_io(&error).expect("it is ours");
    assert_eq!(error.kind(), SourceErrorKind::Cancelled);
    eventually("its connection is closed", || proxy.open_connections() == 0).await;
}
