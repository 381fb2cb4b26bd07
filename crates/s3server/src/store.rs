//! Objects as files: reading is implemented here, everything else by `s3s-fs`.

use std::fs::Metadata;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use s3s::dto::{
    ContentRange, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
    ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput, StreamingBlob,
    Timestamp,
};
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Bytes per read of a file, and per chunk of an answer.
const READ_BYTES: usize = 256 << 10; // 256 KiB

/// The S3 operations over one directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    files: FileSystem,
}

impl Store {
    /// Serves a directory, which must exist.
    pub fn new(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let files =
            FileSystem::new(&root).map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(Self { root, files })
    }

    /// The object's file, if the key stays below its bucket.
    async fn find(&self, bucket: &str, key: &str) -> S3Result<(PathBuf, Metadata)> {
        let is_plain = |name: &str| {
            Path::new(name)
                .components()
                .all(|part| matches!(part, Component::Normal(_)))
        };
        if !is_plain(bucket) || !is_plain(key) {
            return Err(s3_error!(InvalidArgument, "The name leaves its bucket"));
        }
        let directory = self.root.join(bucket);
        if !tokio::fs::try_exists(&directory).await.map_err(internal)? {
            return Err(s3_error!(NoSuchBucket));
        }
        let path = directory.join(key);
        match tokio::fs::metadata(&path).await {
            Ok(metadata) if metadata.is_file() => Ok((path, metadata)),
            Ok(_) => Err(s3_error!(NoSuchKey)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(s3_error!(NoSuchKey)),
            Err(error) => Err(internal(error)),
        }
    }
}

/// A tag that changes with every rewrite of the file, without reading it.
fn tag(metadata: &Metadata) -> ETag {
    ETag::Strong(format!(
        "{:x}-{:x}-{:x}.{:09}",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

fn check_match(condition: Option<&ETagCondition>, tag: &ETag) -> S3Result<()> {
    match condition {
        Some(ETagCondition::ETag(wanted)) if !wanted.strong_cmp(tag) => {
            Err(s3_error!(PreconditionFailed))
        }
        _ => Ok(()),
    }
}

fn internal(error: io::Error) -> S3Error {
    S3Error::internal_error(error)
}

fn length(bytes: u64) -> S3Result<Option<i64>> {
    i64::try_from(bytes)
        .map(Some)
        .map_err(|_| s3_error!(InternalError))
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let (path, _) = self.find(&input.bucket, &input.key).await?;
        let mut file = File::open(&path).await.map_err(internal)?;
        // Of the open file: the name may lead to another one by now.
        let metadata = file.metadata().await.map_err(internal)?;
        let (tag, size) = (tag(&metadata), metadata.len());
        check_match(input.if_match.as_ref(), &tag)?;
        let (range, content_range) = match input.range {
            None => (0..size, None),
            Some(range) => {
                let range = range.check(size)?;
                let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                (range, Some(ContentRange::from(shown)))
            }
        };
        file.seek(SeekFrom::Start(range.start))
            .await
            .map_err(internal)?;
        file.set_max_buf_size(READ_BYTES);
        let count = range.end - range.start;
        let body = ReaderStream::with_capacity(file.take(count), READ_BYTES);
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::wrap(body)),
            content_length: length(count)?,
            content_range,
            e_tag: Some(tag),
            last_modified: metadata.modified().ok().map(Timestamp::from),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let (_, metadata) = self.find(&input.bucket, &input.key).await?;
        let tag = tag(&metadata);
        check_match(input.if_match.as_ref(), &tag)?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: length(metadata.len())?,
            e_tag: Some(tag),
            last_modified: metadata.modified().ok().map(Timestamp::from),
            ..HeadObjectOutput::default()
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.files.list_buckets(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.files.put_object(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_do_not_leave_their_bucket() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("served");
        std::fs::create_dir_all(path.join("bucket/sub")).expect("a directory");
        std::fs::write(root.path().join("outside"), "secret").expect("a file");
        std::fs::write(path.join("bucket/sub/k"), "x").expect("a file");
        let store = Store::new(&path).expect("the directory exists");
        assert!(store.find("bucket", "sub/k").await.is_ok());
        for (bucket, key) in [
            ("..", "outside"),
            ("bucket", "../../outside"),
            ("bucket", "sub/../../../outside"),
            ("bucket", "/etc/hostname"),
            ("bucket", "sub"),
            ("bucket", "missing"),
            ("missing", "k"),
            ("bucket/sub", "../sub/k"),
        ] {
            assert!(store.find(bucket, key).await.is_err(), "{bucket} {key}");
        }
    }
}
