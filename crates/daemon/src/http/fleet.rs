//! This host's part in the fleet.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use lvp_api::{ErrorCode, FleetStatus};

use super::error::ApiError;
use super::fields::Fields;
use super::request::Part;
use super::{App, list};

/// The query parameters of a listing.
const LISTING: &[&str] = &["limit", "offset"];

/// `GET /api/v1/fleet`
pub(super) async fn show(State(app): State<App>, uri: Uri) -> Result<Json<FleetStatus>, ApiError> {
    let fields = Fields::of_query(&uri, LISTING)?;
    let Part { limit, offset } = Part::of(&fields)?;
    let fleet = app.fleet.as_ref().ok_or_else(|| {
        let message = "This host follows no orders of a fleet: fleet.url is not configured";
        ApiError::new(ErrorCode::NotFound, message)
    })?;
    let _place = app.shared.lists.place().await?;
    let (orders, total) = fleet.orders(limit, offset).await?;
    let part = list::part(orders, offset, false)?;
    let settings = fleet.settings();
    Ok(Json(FleetStatus {
        host: settings.host.to_string(),
        groups: settings.groups.iter().map(ToString::to_string).collect(),
        allow: settings.allow.iter().map(ToString::to_string).collect(),
        connected: fleet.is_connected(),
        total,
        orders: part.items,
        offset,
        limit,
        next_offset: part.next_offset,
        warnings: fields.warnings(),
    }))
}
