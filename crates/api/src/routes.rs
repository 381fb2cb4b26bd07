//! The routes of both API generations, as templates.
//!
//! Metrics label requests by these templates, never by the raw path.

/// Create (POST) and list (GET) jobs.
pub const JOBS: &str = "/api/v1/jobs";
/// Create a job, 0.3's name.
pub const PROVISION_V1: &str = "/api/v1/provision";
/// Create a job, 0.3's oldest name.
pub const PROVISION: &str = "/provision";
/// One job.
pub const JOB: &str = "/api/v1/jobs/{id}";
/// One job, 0.3's name.
pub const STATUS: &str = "/api/v1/status/{id}";
/// Cancel a job (POST).
pub const CANCEL: &str = "/api/v1/jobs/{id}/cancel";
/// Cancel a job (DELETE), 0.3's name.
pub const CANCEL_OLD: &str = "/api/v1/cancel/{id}";
/// What a request would do (POST).
pub const PLAN: &str = "/api/v1/plan";
/// Submit the request of a failed or cancelled job again (POST).
pub const RETRY: &str = "/api/v1/jobs/{id}/retry";
/// Server-sent events of one job.
pub const EVENTS: &str = "/api/v1/jobs/{id}/events";
/// Server-sent events of all jobs.
pub const ALL_EVENTS: &str = "/api/v1/events";
/// When a job's stages ran, and how fast its bytes moved.
pub const TIMELINE: &str = "/api/v1/jobs/{id}/timeline";
/// What was logged about a job.
pub const LOG: &str = "/api/v1/jobs/{id}/log";
/// The daemon and its host.
pub const HOST: &str = "/api/v1/host";
/// What jobs did over the last day.
pub const HISTORY: &str = "/api/v1/history";
/// This host's part in the fleet, and its orders.
pub const FLEET: &str = "/api/v1/fleet";
/// The checks of `doctor`.
pub const DOCTOR: &str = "/api/v1/doctor";
/// List images in object storage.
pub const IMAGES: &str = "/api/v1/images";
/// List cached images.
pub const CACHE_IMAGES: &str = "/api/v1/cache/images";
/// Delete one cached image.
pub const CACHE_IMAGE: &str = "/api/v1/cache/images/{key}";
/// Fetch an image into the cache.
pub const CACHE_FETCH: &str = "/api/v1/cache/fetch";
/// List (GET) and make (POST) golden volumes.
pub const GOLDEN: &str = "/api/v1/golden";
/// Remove an image's golden volumes.
pub const GOLDEN_ONE: &str = "/api/v1/golden/{key}";
/// List volumes.
pub const VOLUMES: &str = "/api/v1/volumes";
/// Hand a volume over to this program (POST).
pub const VOLUME_ADOPT: &str = "/api/v1/volumes/{name}/adopt";
/// Compare a volume with what was written to it (POST).
pub const VOLUME_VERIFY: &str = "/api/v1/volumes/{name}/verify";
/// Verify a volume as a job (POST).
pub const VERIFICATIONS: &str = "/api/v1/verifications";
/// Write a libvirt storage volume's content.
pub const UPLOAD_V1: &str = "/api/v1/volumes/upload-content";
/// The same, 0.3's name.
pub const UPLOAD: &str = "/volumes/upload-content";
/// Health.
pub const HEALTH: &str = "/health";
/// Health, Kubernetes' name.
pub const HEALTHZ: &str = "/healthz";
/// Liveness, Kubernetes' name.
pub const LIVEZ: &str = "/livez";
/// Readiness with the dependencies by name.
pub const READYZ: &str = "/readyz";
/// Prometheus metrics.
pub const METRICS: &str = "/metrics";
/// The API's description.
pub const OPENAPI: &str = "/openapi.json";
/// The API's description for people.
pub const DOCS: &str = "/docs";
/// The web page.
pub const PAGE: &str = "/";
/// The files of the web page.
pub const PAGE_FILE: &str = "/ui/{file}";
