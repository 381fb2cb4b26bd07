//! The API's own description: one table of operations, from which the document is built.

use std::sync::LazyLock;

use axum::Json;
use axum::response::Html;
use lvp_api::{
    CacheFetchRequest, CachedImages, CancelledJob, DeletedImage, ErrorBody, Health, JobAccepted,
    JobList, JobStatus, ProvisionRequest, Readiness, UploadedContent, VolumeList, routes,
};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr,
    Required, Schema,
};
use utoipa::{PartialSchema, ToSchema};

/// One call and all the routes that it has.
struct Call {
    method: HttpMethod,
    routes: &'static [&'static str],
    summary: &'static str,
    query: &'static [(&'static str, &'static str)],
    headers: &'static [(&'static str, &'static str)],
    body: Option<&'static str>,
    success: (u16, &'static str, &'static str),
    errors: &'static [u16],
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const TEXT: &str = "text/plain";
/// In place of a schema's name: a text without one.
const PLAIN: &str = "text";

const LIMIT: (&str, &str) = ("limit", "At most so many; 100 unless given, 1000 at most");
const OFFSET: (&str, &str) = ("offset", "Not the first so many");
const STATUS: (&str, &str) = (
    "status",
    "Only jobs in this state, or in one of several with commas between",
);
const VOLUME: (&str, &str) = ("volume", "Only jobs of this volume");
const IMAGE: (&str, &str) = (
    "image",
    "Only jobs with this in the image's URL, in any case",
);
const TEXT_FILTER: (&str, &str) = (
    "q",
    "Only jobs with this in id, volume, image URL, correlation id or error, in any case",
);
const SINCE: (&str, &str) = (
    "since",
    "Only jobs accepted at this time (RFC 3339) or later",
);
const UNTIL: (&str, &str) = ("until", "Only jobs accepted before this time (RFC 3339)");
const UPLOAD_HEADERS: &[(&str, &str)] = &[
    ("X-Volume-Name", "The storage volume; required"),
    ("X-Pool-Name", "Its pool; cloud-init unless given"),
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
    routes: &'static [&'static str],
    summary: &'static str,
    schema: &'static str,
    errors: &'static [u16],
) -> Call {
    let success = (200, JSON, schema);
    Call {
        method,
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
    routes: &'static [&'static str],
    summary: &'static str,
    body: &'static str,
    errors: &'static [u16],
) -> Call {
    Call {
        headers: NEW_JOB_HEADERS,
        body: Some(body),
        success: (202, JSON, "JobAccepted"),
        ..call(HttpMethod::Post, routes, summary, "", errors)
    }
}

/// Every call; `http::router` serves them.
const CALLS: &[Call] = &[
    new_job(
        &[routes::JOBS, routes::PROVISION_V1, routes::PROVISION],
        "Put an image on a volume",
        "ProvisionRequest",
        &[400, 409, 413, 429, 503],
    ),
    Call {
        query: &[
            STATUS,
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
            &[routes::JOBS],
            "List jobs, newest first",
            "JobList",
            &[400, 503],
        )
    },
    call(
        GET,
        &[routes::JOB, routes::STATUS],
        "One job",
        "JobStatus",
        &[404, 503],
    ),
    call(
        POST,
        &[routes::CANCEL],
        "Cancel a job",
        "CancelledJob",
        &[400, 404, 503],
    ),
    call(
        DELETE,
        &[routes::CANCEL_OLD],
        "Cancel a job (0.3's route)",
        "CancelledJob",
        &[400, 404, 503],
    ),
    Call {
        success: (202, JSON, "JobAccepted"),
        ..call(
            POST,
            &[routes::RETRY],
            "Make a new job of what a failed or cancelled one was to do",
            "",
            &[400, 404, 409, 429, 503],
        )
    },
    Call {
        headers: &[(
            "Last-Event-ID",
            "Go on after this event; without it, or when that is not possible, `reset` comes first",
        )],
        success: (200, EVENTS, "JobStatus"),
        ..call(
            GET,
            &[routes::ALL_EVENTS],
            "Follow all jobs: a `job` event with the status for every change, several of one job \
             within 100 ms as one; `reset` tells to list the jobs anew",
            "",
            &[503],
        )
    },
    Call {
        success: (200, EVENTS, "JobStatus"),
        ..call(
            GET,
            &[routes::EVENTS],
            "Follow a job: a `progress` event for every change, then one `end` event; each \
             carries the job's status",
            "",
            &[404, 503],
        )
    },
    Call {
        query: &[LIMIT, OFFSET],
        ..call(
            GET,
            &[routes::CACHE_IMAGES],
            "List cached images, newest first",
            "CachedImages",
            &[400, 503],
        )
    },
    new_job(
        &[routes::CACHE_FETCH],
        "Fill the cache without a volume",
        "CacheFetchRequest",
        &[400, 413, 429, 503],
    ),
    call(
        DELETE,
        &[routes::CACHE_IMAGE],
        "Delete a cached image",
        "DeletedImage",
        &[400, 404, 409, 503],
    ),
    Call {
        headers: UPLOAD_HEADERS,
        ..call(
            HttpMethod::Put,
            &[routes::UPLOAD_V1, routes::UPLOAD],
            "Write an existing libvirt storage volume; the body is its content",
            "UploadedContent",
            &[400, 404, 409, 411, 422, 503],
        )
    },
    call(
        GET,
        &[routes::VOLUMES],
        "List volumes",
        "VolumeList",
        &[503],
    ),
    call(
        POST,
        &[routes::VOLUME_ADOPT],
        "Hand a volume over that says nothing of this program: from then on jobs may rewrite it",
        "VolumeInfo",
        &[400, 404, 409, 503],
    ),
    call(
        GET,
        &[routes::HEALTH, routes::HEALTHZ, routes::LIVEZ],
        "Whether the daemon runs; degraded while every job slot is taken",
        "Health",
        &[],
    ),
    call(
        GET,
        &[routes::READYZ],
        "Whether every dependency is up; 503 with the same body when not",
        "Readiness",
        &[],
    ),
    Call {
        success: (200, TEXT, PLAIN),
        ..call(
            GET,
            &[routes::METRICS],
            "Metrics for Prometheus, as OpenMetrics where the Accept header asks for it; 404 when \
             metrics.enabled is false",
            "",
            &[404],
        )
    },
];

const GET: HttpMethod = HttpMethod::Get;
const POST: HttpMethod = HttpMethod::Post;
const DELETE: HttpMethod = HttpMethod::Delete;

static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(document);

/// `GET /openapi.json`
pub(super) async fn serve() -> Json<&'static OpenApi> {
    Json(&DOCUMENT)
}

/// `GET /docs`
pub(super) async fn docs() -> Html<String> {
    let mut rows = String::new();
    for call in CALLS {
        let routes = call.routes.join("<br>");
        let method = method_name(&call.method);
        let (status, _, schema) = call.success;
        rows.push_str(&format!(
            "<tr><td>{method}</td><td><code>{routes}</code></td><td>{}</td><td>{}</td>\
             <td>{status} {schema}</td></tr>\n",
            call.summary,
            call.body.unwrap_or("")
        ));
    }
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>libvirt-volume-provisioner API</title>\
         <style>body{{font:15px system-ui;margin:2em}}td,th{{padding:.3em .8em;text-align:left;\
         vertical-align:top;border-bottom:1px solid #ddd}}</style>\
         <h1>libvirt-volume-provisioner {}</h1>\
         <p>The machine-readable description is at <a href=/openapi.json>/openapi.json</a>.</p>\
         <table><tr><th>Method</th><th>Route</th><th>What it does</th><th>Body</th><th>Answer</th></tr>\
         {rows}</table></html>",
        env!("CARGO_PKG_VERSION")
    ))
}

fn method_name(method: &HttpMethod) -> &'static str {
    match method {
        HttpMethod::Post => "POST",
        HttpMethod::Delete => "DELETE",
        HttpMethod::Put => "PUT",
        _ => "GET",
    }
}

/// The whole description.
pub fn document() -> OpenApi {
    let mut paths = Paths::new();
    for call in CALLS {
        for route in call.routes {
            let operation = operation(call, route);
            paths.add_path_operation(*route, vec![call.method.clone()], operation);
        }
    }
    let info = InfoBuilder::new()
        .title("libvirt-volume-provisioner")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Puts VM images from object storage onto volumes of this host",
        ));
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components()))
        .build()
}

fn operation(call: &Call, route: &str) -> utoipa::openapi::path::Operation {
    let mut operation = OperationBuilder::new().summary(Some(call.summary));
    for name in route
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    {
        let what = if name == "key" {
            "SHA-256 of the image"
        } else {
            "The job"
        };
        operation = operation.parameter(parameter(ParameterIn::Path, name, what));
    }
    for (name, what) in call.query {
        operation = operation.parameter(parameter(ParameterIn::Query, name, what));
    }
    for (name, what) in call.headers {
        operation = operation.parameter(parameter(ParameterIn::Header, name, what));
    }
    if let Some(schema) = call.body {
        let content = content(schema);
        let body = RequestBodyBuilder::new()
            .required(Some(Required::True))
            .content(JSON, content);
        operation = operation.request_body(Some(body.build()));
    }
    let (status, media_type, schema) = call.success;
    let success = ResponseBuilder::new()
        .description(schema)
        .content(media_type, content(schema));
    operation = operation.response(status.to_string(), success.build());
    if route == routes::READYZ {
        let unready = ResponseBuilder::new()
            .description("Not ready")
            .content(JSON, content(schema));
        operation = operation.response("503", unready.build());
    }
    for status in call.errors {
        let error = ResponseBuilder::new()
            .description("Error")
            .content(JSON, content("ErrorBody"));
        operation = operation.response(status.to_string(), error.build());
    }
    operation.build()
}

fn parameter(place: ParameterIn, name: &str, what: &str) -> utoipa::openapi::path::Parameter {
    let required = if place == ParameterIn::Path {
        Required::True
    } else {
        Required::False
    };
    let kind = if matches!(name, "limit" | "offset") {
        Type::Integer
    } else {
        Type::String
    };
    let schema = ObjectBuilder::new().schema_type(SchemaType::new(kind));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(what))
        .schema(Some(schema))
        .build()
}

fn content(schema: &str) -> utoipa::openapi::Content {
    if schema == PLAIN {
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        return ContentBuilder::new().schema(Some(text)).build();
    }
    ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .build()
}

fn components() -> utoipa::openapi::Components {
    let mut schemas: Vec<(String, RefOr<Schema>)> = Vec::new();
    add::<ProvisionRequest>(&mut schemas);
    add::<CacheFetchRequest>(&mut schemas);
    add::<JobAccepted>(&mut schemas);
    add::<JobStatus>(&mut schemas);
    add::<JobList>(&mut schemas);
    add::<CancelledJob>(&mut schemas);
    add::<CachedImages>(&mut schemas);
    add::<DeletedImage>(&mut schemas);
    add::<VolumeList>(&mut schemas);
    add::<UploadedContent>(&mut schemas);
    add::<Health>(&mut schemas);
    add::<Readiness>(&mut schemas);
    add::<ErrorBody>(&mut schemas);
    ComponentsBuilder::new().schemas_from_iter(schemas).build()
}

fn add<T: ToSchema + PartialSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}
