//! The API's calls: one list from which they are served and described.
//!
//! Each row has its handler, so that nothing can be served without being described, or the reverse.

use axum::routing::{MethodFilter, MethodRouter, on};
use lvp_api::routes;
use utoipa::openapi::path::HttpMethod;

use super::{
    App, cache, events, fleet, golden, health, host, images, jobs, metrics, plan, upload, volumes,
};

/// Makes the route of a handler for a method.
type Handler = fn(MethodFilter) -> MethodRouter<App>;

/// One call and all the routes that it has.
pub(super) struct Call {
    pub(super) method: HttpMethod,
    /// Serves the call, with this method.
    pub(super) handler: Handler,
    pub(super) routes: &'static [&'static str],
    pub(super) summary: &'static str,
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) body: Option<&'static str>,
    pub(super) success: (u16, &'static str, &'static str),
    pub(super) errors: &'static [u16],
}

pub(super) const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const TEXT: &str = "text/plain";
/// Used instead of a schema's name for plain text.
pub(super) const PLAIN: &str = "text";

const LIMIT: (&str, &str) = (
    "limit",
    "Most entries to return: 100 by default, at most 1000",
);
const OFFSET: (&str, &str) = ("offset", "How many entries to skip");
const STATUS: (&str, &str) = (
    "status",
    "Only jobs in this state, or in one of several, separated by commas",
);
const PRIORITY: (&str, &str) = (
    "priority",
    "Only jobs of this priority, or of one of several, separated by commas",
);
const VOLUME: (&str, &str) = ("volume", "Only jobs of this volume");
const IMAGE: (&str, &str) = (
    "image",
    "Only jobs whose image URL contains this text, in any case",
);
const TEXT_FILTER: (&str, &str) = (
    "q",
    "Only jobs that contain this text in id, volume, image URL, correlation id or error, in any \
     case",
);
const SINCE: (&str, &str) = (
    "since",
    "Only jobs accepted at this time (RFC 3339) or later",
);
const UNTIL: (&str, &str) = ("until", "Only jobs accepted before this time (RFC 3339)");
const UPLOAD_HEADERS: &[(&str, &str)] = &[
    ("X-Volume-Name", "The storage volume; required"),
    ("X-Pool-Name", "Its pool; cloud-init by default"),
];
const NEW_JOB_HEADERS: &[(&str, &str)] = &[
    (
        "Idempotency-Key",
        "A repeat with the same key returns the first job",
    ),
    (
        "traceparent",
        "W3C trace context; the job's spans continue it",
    ),
];

/// A call without parameters that answers 200 with this schema.
const fn call(
    method: HttpMethod,
    handler: Handler,
    routes: &'static [&'static str],
    summary: &'static str,
    schema: &'static str,
    errors: &'static [u16],
) -> Call {
    let success = (200, JSON, schema);
    Call {
        method,
        handler,
        routes,
        summary,
        query: &[],
        headers: &[],
        body: None,
        success,
        errors,
    }
}

/// A call whose body becomes a job.
const fn new_job(
    handler: Handler,
    routes: &'static [&'static str],
    summary: &'static str,
    body: &'static str,
    errors: &'static [u16],
) -> Call {
    Call {
        headers: NEW_JOB_HEADERS,
        body: Some(body),
        success: (202, JSON, "JobAccepted"),
        ..call(POST, handler, routes, summary, "", errors)
    }
}

/// Every call: what `http::router` serves and what the document describes.
pub(super) const CALLS: &[Call] = &[
    new_job(
        |method| on(method, jobs::create),
        &[routes::JOBS, routes::PROVISION_V1, routes::PROVISION],
        "Write an image to a volume",
        "ProvisionRequest",
        &[400, 409, 413, 429, 503],
    ),
    Call {
        query: &[
            STATUS,
            PRIORITY,
            VOLUME,
            IMAGE,
            TEXT_FILTER,
            SINCE,
            UNTIL,
            LIMIT,
            OFFSET,
        ],
        ..call(
            GET,
            |method| on(method, jobs::list),
            &[routes::JOBS],
            "List jobs, newest first",
            "JobList",
            &[400, 503],
        )
    },
    call(
        GET,
        |method| on(method, jobs::get),
        &[routes::JOB, routes::STATUS],
        "One job",
        "JobStatus",
        &[404, 503],
    ),
    call(
        GET,
        |method| on(method, jobs::timeline),
        &[routes::TIMELINE],
        "When a job's stages ran, how fast its bytes moved, and what its time went to",
        "Timeline",
        &[404, 503],
    ),
    Call {
        query: &[(
            "after",
            "Only lines after the one with this number; a client that follows the log gives the \
             last that it has",
        )],
        ..call(
            GET,
            |method| on(method, jobs::log),
            &[routes::LOG],
            "What was logged about a job: at most 400 lines and 64 KiB, its first lines and its \
             last; kept as long as the job",
            "JobLog",
            &[400, 404, 503],
        )
    },
    call(
        POST,
        |method| on(method, jobs::cancel),
        &[routes::CANCEL],
        "Cancel a job",
        "CancelledJob",
        &[400, 404, 503],
    ),
    call(
        DELETE,
        |method| on(method, jobs::cancel),
        &[routes::CANCEL_OLD],
        "Cancel a job (the route of release 0.3)",
        "CancelledJob",
        &[400, 404, 503],
    ),
    Call {
        body: Some("ProvisionRequest"),
        ..call(
            POST,
            |method| on(method, plan::plan),
            &[routes::PLAN],
            "Show what the same request to /api/v1/jobs would do now; nothing is reserved or \
             changed",
            "Plan",
            &[400, 413, 503],
        )
    },
    Call {
        success: (202, JSON, "JobAccepted"),
        ..call(
            POST,
            |method| on(method, jobs::retry),
            &[routes::RETRY],
            "Submit the request of a failed or cancelled job again, as a new job",
            "",
            &[400, 404, 409, 429, 503],
        )
    },
    Call {
        headers: &[(
            "Last-Event-ID",
            "Continue after this event; without it, or if that is not possible, the first event \
             is `reset`",
        )],
        success: (200, EVENTS, "JobStatus"),
        ..call(
            GET,
            |method| on(method, events::of_all),
            &[routes::ALL_EVENTS],
            "Follow all jobs: a `job` event with the status for every change, with changes of one \
             job within 100 ms combined; after a `reset` event, list the jobs again",
            "",
            &[503],
        )
    },
    Call {
        success: (200, EVENTS, "JobStatus"),
        ..call(
            GET,
            |method| on(method, events::of_job),
            &[routes::EVENTS],
            "Follow a job: a `progress` event for every change, then one `end` event; each \
             carries the job's status",
            "",
            &[404, 503],
        )
    },
    Call {
        query: &[
            (
                "prefix",
                "The folder: s3://BUCKET/ and the beginning of a key; required",
            ),
            ("after", "The `next` of the previous page"),
        ],
        ..call(
            GET,
            |method| on(method, images::list),
            &[routes::IMAGES],
            "List images in object storage, folder by folder; 503 if the store forbids it",
            "StoredImages",
            &[400, 404, 503],
        )
    },
    Call {
        query: &[LIMIT, OFFSET],
        ..call(
            GET,
            |method| on(method, cache::list),
            &[routes::CACHE_IMAGES],
            "List cached images, newest first",
            "CachedImages",
            &[400, 503],
        )
    },
    new_job(
        |method| on(method, cache::fetch),
        &[routes::CACHE_FETCH],
        "Fetch an image into the cache, without a volume",
        "CacheFetchRequest",
        &[400, 413, 429, 503],
    ),
    call(
        DELETE,
        |method| on(method, cache::delete),
        &[routes::CACHE_IMAGE],
        "Delete a cached image",
        "DeletedImage",
        &[400, 404, 409, 503],
    ),
    call(
        GET,
        |method| on(method, golden::list),
        &[routes::GOLDEN],
        "List golden volumes, from which volumes of the same image are cloned",
        "GoldenVolumes",
        &[503],
    ),
    new_job(
        |method| on(method, golden::make),
        &[routes::GOLDEN],
        "Make an image's golden volume in advance",
        "CacheFetchRequest",
        &[400, 413, 429, 503],
    ),
    call(
        DELETE,
        |method| on(method, golden::delete),
        &[routes::GOLDEN_ONE],
        "Remove an image's golden volumes; volumes that were cloned from them are not affected",
        "DeletedImage",
        &[400, 404, 409, 422, 503],
    ),
    Call {
        headers: UPLOAD_HEADERS,
        ..call(
            PUT,
            |method| on(method, upload::put),
            &[routes::UPLOAD_V1, routes::UPLOAD],
            "Write the body to an existing libvirt storage volume",
            "UploadedContent",
            &[400, 404, 409, 411, 422, 503],
        )
    },
    call(
        GET,
        |method| on(method, volumes::list),
        &[routes::VOLUMES],
        "List volumes",
        "VolumeList",
        &[503],
    ),
    call(
        POST,
        |method| on(method, volumes::adopt),
        &[routes::VOLUME_ADOPT],
        "Hand over a volume that is not marked as this program's: from then on, jobs may rewrite \
         it",
        "VolumeInfo",
        &[400, 404, 409, 503],
    ),
    new_job(
        |method| on(method, volumes::verify_as_job),
        &[routes::VERIFICATIONS],
        "Read a ready or golden volume and compare it with what was written to it, as a job: its status has the \
         result (`verification`)",
        "VerifyRequest",
        &[400, 404, 409, 413, 422, 429, 503],
    ),
    call(
        POST,
        |method| on(method, volumes::verify),
        &[routes::VOLUME_VERIFY],
        "Read a ready or golden volume and compare it with what was written to it; ends when the \
         caller disconnects",
        "VerifiedVolume",
        &[400, 404, 409, 422, 429, 503],
    ),
    call(
        GET,
        |method| on(method, host::host),
        &[routes::HOST],
        "The daemon and its host: version, dependencies, places for jobs, room, certificates",
        "HostStatus",
        &[],
    ),
    call(
        GET,
        |method| on(method, host::history),
        &[routes::HISTORY],
        "What jobs did in the last 24 hours, by quarters of an hour: counts and bytes of the jobs \
         that ended in each",
        "History",
        &[503],
    ),
    Call {
        query: &[LIMIT, OFFSET],
        ..call(
            GET,
            |method| on(method, fleet::show),
            &[routes::FLEET],
            "This host's part in the fleet and the orders that it remembers, the last received first; 404 if fleet.url is \
             not configured",
            "FleetStatus",
            &[400, 404, 503],
        )
    },
    call(
        GET,
        |method| on(method, host::doctor),
        &[routes::DOCTOR],
        "Run the checks of `doctor`, except for that of the database's file; a report that is up \
         to 60 s old is returned again",
        "DoctorReport",
        &[503],
    ),
    call(
        GET,
        |method| on(method, health::health),
        &[routes::HEALTH, routes::HEALTHZ, routes::LIVEZ],
        "Whether the daemon is running; degraded while every job slot is taken",
        "Health",
        &[],
    ),
    call(
        GET,
        |method| on(method, health::ready),
        &[routes::READYZ],
        "Whether every dependency is up; 503 with the same body if not",
        "Readiness",
        &[],
    ),
    Call {
        success: (200, TEXT, PLAIN),
        ..call(
            GET,
            |method| on(method, metrics::serve),
            &[routes::METRICS],
            "Metrics for Prometheus, as OpenMetrics if the Accept header asks for it; 404 if \
             metrics.enabled is false",
            "",
            &[404],
        )
    },
];

const GET: HttpMethod = HttpMethod::Get;
const POST: HttpMethod = HttpMethod::Post;
const DELETE: HttpMethod = HttpMethod::Delete;
const PUT: HttpMethod = HttpMethod::Put;

impl Call {
    /// The route that serves it.
    pub(super) fn served(&self) -> MethodRouter<App> {
        let method = match self.method {
            HttpMethod::Post => MethodFilter::POST,
            HttpMethod::Delete => MethodFilter::DELETE,
            HttpMethod::Put => MethodFilter::PUT,
            // HEAD as well.
            _ => MethodFilter::GET,
        };
        (self.handler)(method)
    }
}
