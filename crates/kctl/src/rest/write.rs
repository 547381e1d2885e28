//! Requests that change objects.

use api::{StatusError, ferrokube::v1::WriteOptions, meta::v1::DeleteOptions, status::Reason, yaml};
use client::{Client, Dynamic, Patch};
use serde_json::{Value, json};

use super::{Answer, Place, Request, bad, json_of, selectors};

/// Answers POST, PUT, PATCH and DELETE.
///
/// # Errors
/// What the server refuses, or what the body is not.
pub async fn answer(client: &Client, request: &Request, place: &Place) -> client::Result<Answer> {
    let api = place.api(client).with_options(WriteOptions {
        dry_run: request.value("dryRun") == "All",
        field_manager: request.value("fieldManager").to_owned(),
        field_validation: match request.value("fieldValidation") {
            // Upstream's default for the HTTP API.
            "" => "Warn".to_owned(),
            given => given.to_owned(),
        },
        ..WriteOptions::default()
    });
    let (name, subresource) = (place.name.as_str(), place.subresource.as_str());
    let (code, object): (u16, Dynamic) = match request.method.as_str() {
        "POST" if name.is_empty() => (201, api.create_json(&object(request)?).await?),
        "POST" if !subresource.is_empty() => (201, api.create_subresource_json(name, subresource, &object(request)?).await?),
        "PUT" if !name.is_empty() => (200, api.update_json(name, subresource, &object(request)?).await?),
        "PATCH" if !name.is_empty() => (200, api.patch_subresource(name, subresource, &patch(request)?).await?),
        "DELETE" if !name.is_empty() && subresource.is_empty() => {
            let deleted = api.delete(name, &delete_options(request)?).await?;
            match deleted.object.filter(|_| !deleted.gone) {
                Some(object) => (200, object),
                None => return Ok(Answer::Json(200, success(place))),
            }
        }
        "DELETE" if name.is_empty() => {
            api.delete_collection(&delete_options(request)?, &selectors(request)).await?;
            return Ok(Answer::Json(200, success(place)));
        }
        method => {
            let message = format!("the server does not allow this method on the requested resource: {method} {}", request.path);
            return Err(StatusError::new(Reason::MethodNotAllowed, message).into());
        }
    };
    Ok(Answer::Json(code, json_of(&object)?))
}

fn success(place: &Place) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": place.name, "group": place.kind.group, "kind": place.kind.plural},
    })
}

/// The body as one JSON or YAML document.
fn object(request: &Request) -> client::Result<Value> {
    match request.content_type.as_str() {
        "" | "application/json" | "application/yaml" | "application/x-www-form-urlencoded" => {}
        other => return Err(unsupported(other, "application/json, application/yaml")),
    }
    match yaml::parse("the body", &request.body).map_err(|error| bad(error.to_string()))?.as_slice() {
        [one] => Ok(one.value.clone()),
        several => Err(bad(format!("one object is wanted, found {}", several.len()))),
    }
}

fn patch(request: &Request) -> client::Result<Patch> {
    let value = || serde_json::from_slice(&request.body).map_err(|error| bad(format!("the patch is no JSON: {error}")));
    match request.content_type.as_str() {
        "application/json-patch+json" => Ok(Patch::Json(value()?)),
        "application/merge-patch+json" => Ok(Patch::Merge(value()?)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(value()?)),
        other => Err(unsupported(
            other,
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
        )),
    }
}

fn unsupported(given: &str, wanted: &str) -> client::Error {
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {wanted}; it is \"{given}\"");
    StatusError::new(Reason::BadRequest, message).into()
}

fn delete_options(request: &Request) -> client::Result<DeleteOptions> {
    let mut options = if request.body.is_empty() { json!({}) } else { object(request)? };
    let Value::Object(fields) = &mut options else { return Err(bad("DeleteOptions are wanted")) };
    fields.remove("apiVersion");
    fields.remove("kind");
    let mut options: DeleteOptions = api::json::read(options).map_err(|error| bad(error.to_string()))?;
    if let Some(seconds) = request.number("gracePeriodSeconds")? {
        options.grace_period_seconds = Some(seconds);
    }
    if !request.value("propagationPolicy").is_empty() {
        options.propagation_policy = Some(request.value("propagationPolicy").to_owned());
    }
    if request.value("dryRun") == "All" {
        options.dry_run = vec!["All".to_owned()];
    }
    Ok(options)
}
