//! Signing in and out: by the owner's or a user's token, by name and password, or by a one-time link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::json;

use super::{Frame, Page, page, problem_page};
use crate::frontends::web::Site;
use crate::frontends::web::access::SESSION_MS;
use crate::frontends::web::guard::{self, COOKIE, SignedForm};
use crate::frontends::web::problem::Problem;

/// What the page is asked for.
#[derive(Debug, Default, Deserialize)]
pub struct LoginQuery {
    next: Option<String>,
    link: Option<String>,
}

/// A path of ours to go on to; anything else is the first page.
fn onward(next: &str) -> &str {
    let ours =
        next.starts_with('/') && !next.starts_with("//") && !next.contains('\\') && !next.contains(char::is_control);
    if ours { next } else { "/" }
}

/// GET /login. A one-time link only shows a button: what fetches links for previews must not use it up.
pub async fn show(
    State(site): State<Arc<Site>>,
    Query(asked): Query<LoginQuery>,
    headers: HeaderMap,
    uri: Uri,
) -> Page {
    let frame = Frame::of(&site, &headers, &uri, None).await;
    let next = onward(asked.next.as_deref().unwrap_or("/"));
    let values = json!({"next": next, "link": asked.link, "wrong": "", "users": !site.app.config().users.is_empty()});
    page(&site, &frame, StatusCode::OK, "login.html", &values)
}

/// POST /login.
pub async fn sign_in(State(site): State<Arc<Site>>, request: Request) -> Page {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let (headers, uri) = (request.headers().clone(), request.uri().clone());
    let frame = Frame::of(&site, &headers, &uri, None).await;
    if !guard::from_our_pages(&headers) {
        return Err(problem_page(&site, &frame, &Problem::forbidden(frame.w.not_our_page)));
    }
    if !site.sign_ins.take(guard::address(&site, &headers, peer), Instant::now()) {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many", frame.w.too_many_tries);
        return Err(problem_page(&site, &frame, &problem));
    }
    let fields = guard::fields(request, &site).await?;
    let field = |name: &str| fields.get(name).map_or("", |value| value.trim());
    let failed = |error: crate::error::Error| problem_page(&site, &frame, &Problem::from(error));
    let (link, token) = (field("link"), field("token"));
    let person = if !link.is_empty() {
        site.access.use_link(link).await.map_err(failed)?
    } else if !token.is_empty() {
        site.access.by_token(token)
    } else {
        site.access.by_password(field("user"), fields.get("password").map_or("", String::as_str)).await
    };
    let next = onward(field("next"));
    let Some(person) = person else {
        let wrong = if link.is_empty() { frame.w.wrong_credentials } else { frame.w.link_over };
        let users = !site.app.config().users.is_empty();
        let values = json!({"next": next, "link": null, "wrong": wrong, "users": users});
        return page(&site, &frame, StatusCode::UNAUTHORIZED, "login.html", &values);
    };
    let (cookie, _) = site.access.open_session(&person).await.map_err(failed)?;
    let secure = if guard::is_https(&site, &headers) { "; Secure" } else { "" };
    let age = SESSION_MS / 1000;
    let text = format!("{COOKIE}={cookie}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    Ok(with_cookie(Redirect::to(next).into_response(), &text))
}

/// POST /logout.
pub async fn sign_out(State(site): State<Arc<Site>>, headers: HeaderMap, _form: SignedForm) -> Response {
    if let Some(value) = guard::cookie(&headers, COOKIE)
        && let Err(error) = site.access.close_session(value).await
    {
        return Problem::from(error).into_response();
    }
    with_cookie(
        Redirect::to("/login").into_response(),
        &format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"),
    )
}

fn with_cookie(mut response: Response, text: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::onward;

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(onward("/runs/1?x=2"), "/runs/1?x=2");
        for bad in ["//evil.example", "https://evil.example", "/\\evil.example", "", "x", "/a\nb"] {
            assert_eq!(onward(bad), "/", "{bad}");
        }
    }
}
