//! The credentials that sign requests: configured keys, or those that somebody lends for a while.
//!
//! What is lent is renewed by `object_store`'s providers some minutes before it expires; a token file is read again
//! each time. Nothing is asked for before the first request that needs it. Metadata services are on the host's own
//! network, and are asked directly, whatever proxy is configured; a token service is asked as the object storage is.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::SourceSettings;
use super::error::{Result, SourceError, SourceErrorKind};
use super::retry::Failure;
use crate::web;

/// How long one answer of a lender may take: it is close by, and a request waits for it.
const LENDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Repeats of a request to a lender; the request to the object storage has its own repeats after that.
const LENDER_RETRIES: usize = 2;

/// Who lends credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lender {
    /// A token service (STS), for a token in a file.
    WebIdentity {
        /// The role.
        role_arn: String,
        /// The file.
        token_file: PathBuf,
        /// Where the token service is.
        sts_endpoint: String,
    },
    /// The agent of a container: ECS (a path), or EKS with a token in a file (a URL).
    Container {
        /// The path or the URL.
        uri: String,
        /// The file with the token.
        token_file: Option<PathBuf>,
    },
    /// The metadata service of a virtual machine, version 2.
    Instance {
        /// Where it is.
        metadata_endpoint: String,
    },
}

impl fmt::Display for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WebIdentity { sts_endpoint, .. } => {
                write!(f, "the token service {sts_endpoint} (minio.sts_endpoint)")
            }
            Self::Container { uri, .. } => {
                write!(
                    f,
                    "the container's agent {uri} (minio.container_credentials)"
                )
            }
            Self::Instance { metadata_endpoint } => write!(
                f,
                "the metadata service {metadata_endpoint} (minio.metadata_endpoint)"
            ),
        }
    }
}

/// What signs requests.
pub(super) enum Credentials {
    /// Nothing.
    Nobody,
    /// The configured keys.
    Keys(Arc<AwsCredential>),
    /// What somebody lends.
    Lent {
        lender: Lender,
        provider: AwsCredentialProvider,
    },
}

impl Credentials {
    /// Contacts nobody. `http` is the client for what is asked as object storage is.
    pub(super) fn new(settings: &SourceSettings, http: &reqwest::Client) -> Result<Self> {
        if let Some(lender) = &settings.lender {
            return Ok(Self::Lent {
                lender: lender.clone(),
                provider: provider(lender, &settings.region, http)?,
            });
        }
        match (&settings.access_key, &settings.secret_key) {
            (Some(key_id), Some(secret_key)) => Ok(Self::Keys(Arc::new(AwsCredential {
                key_id: key_id.clone(),
                secret_key: secret_key.expose().to_owned(),
                token: (settings.session_token.as_ref()).map(|token| token.expose().to_owned()),
            }))),
            (None, None) => Ok(Self::Nobody),
            _ => Err(SourceError::new(
                SourceErrorKind::Settings,
                "minio.access_key and minio.secret_key go together; set both or none",
            )),
        }
    }

    /// The credentials for the next request.
    pub(super) async fn get(&self) -> Result<Option<Arc<AwsCredential>>, Failure> {
        match self {
            Self::Nobody => Ok(None),
            Self::Keys(keys) => Ok(Some(Arc::clone(keys))),
            Self::Lent { lender, provider } => match provider.get_credential().await {
                Ok(credential) => Ok(Some(credential)),
                Err(error) => Err(Failure::passing(
                    SourceError::new(
                        SourceErrorKind::Unavailable,
                        format!("There are no credentials from {lender}"),
                    )
                    .with_source(error),
                )),
            },
        }
    }
}

/// Hands the same client to every part of a provider.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// The provider of a store that is not used for anything else.
fn provider(
    lender: &Lender,
    region: &str,
    http: &reqwest::Client,
) -> Result<AwsCredentialProvider> {
    let settings = |error| {
        SourceError::new(
            SourceErrorKind::Settings,
            format!("{lender} cannot be used"),
        )
        .with_source(error)
    };
    let nearby = || {
        let client = web::client().timeout(LENDER_TIMEOUT).build();
        client.map_err(|error| {
            SourceError::new(
                SourceErrorKind::Settings,
                "The HTTP client cannot be set up",
            )
            .with_source(error)
        })
    };
    let text = |path: &PathBuf| path.display().to_string();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name("unused")
        .with_region(region)
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: LENDER_RETRIES,
            retry_timeout: LENDER_TIMEOUT * 2,
        });
    let http = match lender {
        Lender::WebIdentity {
            role_arn,
            token_file,
            sts_endpoint,
        } => {
            builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, text(token_file))
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn)
                .with_config(
                    AmazonS3ConfigKey::RoleSessionName,
                    "libvirt-volume-provisioner",
                )
                .with_config(AmazonS3ConfigKey::StsEndpoint, sts_endpoint);
            http.clone()
        }
        Lender::Container { uri, token_file } => {
            builder = match token_file {
                Some(token_file) => builder
                    .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, uri)
                    .with_config(
                        AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
                        text(token_file),
                    ),
                None => {
                    builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, uri)
                }
            };
            nearby()?
        }
        Lender::Instance { metadata_endpoint } => {
            builder = builder.with_metadata_endpoint(metadata_endpoint);
            nearby()?
        }
    };
    let store = builder.with_http_connector(Connector(http)).build();
    Ok(Arc::clone(store.map_err(settings)?.credentials()))
}
