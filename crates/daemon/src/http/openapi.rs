//! The API's own description, built from the list of [calls](super::calls).

use std::sync::LazyLock;

use axum::Json;
use axum::response::Html;
use lvp_api::plan::Plan;
use lvp_api::{
    CacheFetchRequest, CachedImages, CancelledJob, DeletedImage, DoctorReport, ErrorBody,
    FleetStatus, GoldenVolumes, Health, History, HostStatus, JobAccepted, JobList, JobLog,
    JobStatus, ProvisionRequest, Readiness, StoredImages, Timeline, UploadedContent,
    VerifiedVolume, VerifyRequest, VolumeList, routes,
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

use super::calls::{CALLS, Call, JSON, PLAIN};

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

/// Every documented answer: method, route and status.
pub(super) fn answers() -> impl Iterator<Item = (&'static str, &'static str, u16)> {
    // On every route, the credential may be missing or insufficient, and the daemon may fail.
    const ANYWHERE: [u16; 3] = [401, 403, 500];
    CALLS.iter().flat_map(|call| {
        let statuses = std::iter::once(call.success.0)
            .chain(call.errors.iter().copied())
            .chain(ANYWHERE);
        let method = method_name(&call.method);
        let of_route =
            move |route: &'static str| statuses.clone().map(move |status| (method, route, status));
        call.routes.iter().copied().flat_map(of_route)
    })
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
    add::<Plan>(&mut schemas);
    add::<JobAccepted>(&mut schemas);
    add::<JobStatus>(&mut schemas);
    add::<Timeline>(&mut schemas);
    add::<JobLog>(&mut schemas);
    add::<JobList>(&mut schemas);
    add::<CancelledJob>(&mut schemas);
    add::<StoredImages>(&mut schemas);
    add::<CachedImages>(&mut schemas);
    add::<DeletedImage>(&mut schemas);
    add::<GoldenVolumes>(&mut schemas);
    add::<VolumeList>(&mut schemas);
    add::<VerifiedVolume>(&mut schemas);
    add::<VerifyRequest>(&mut schemas);
    add::<UploadedContent>(&mut schemas);
    add::<HostStatus>(&mut schemas);
    add::<History>(&mut schemas);
    add::<FleetStatus>(&mut schemas);
    add::<DoctorReport>(&mut schemas);
    add::<Health>(&mut schemas);
    add::<Readiness>(&mut schemas);
    add::<ErrorBody>(&mut schemas);
    ComponentsBuilder::new().schemas_from_iter(schemas).build()
}

fn add<T: ToSchema + PartialSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}
