//! What every request passes first: for which host it is, how many came, from where a change comes, and what the browser is
//! told about the answer. It does not know what is asked for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use super::Site;
use super::access::{Person, Session};
use super::pages::{Frame, problem_page};
use super::problem::Problem;
use super::secret::same;
use crate::config::{UserRole, host_of_url};

/// The cookie of a session.
pub const COOKIE: &str = "devo_session";
/// The header by which a script proves that it belongs to a page of ours.
pub const CSRF_HEADER: &str = "x-csrf-token";
/// What a page may load: only our own files, nothing inline, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; manifest-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Who asks an API: by token, or a script of our pages by its session.
pub struct Caller {
    /// Who.
    pub person: Person,
    /// `api` or `web`.
    pub channel: &'static str,
}

impl Caller {
    /// Refuses whoever does not have the role.
    pub fn needs(&self, role: UserRole) -> Result<(), Problem> {
        if self.person.may(role) {
            return Ok(());
        }
        let word = match role {
            UserRole::Viewer => "viewer",
            UserRole::Submitter => "submitter",
            UserRole::Approver => "approver",
        };
        Err(Problem::forbidden(format!("`{}` does not have the role {word}", self.person.name)))
    }
}

impl FromRequestParts<Arc<Site>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Problem> {
        if let Some(given) = bearer(&parts.headers) {
            let person = site.access.by_token(given).ok_or_else(Problem::unauthorized)?;
            return Ok(Self { person, channel: "api" });
        }
        let Some((person, session)) = session(&parts.headers, site).await? else { return Err(Problem::unauthorized()) };
        if parts.method != Method::GET && parts.method != Method::HEAD {
            let given = parts.headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if !from_our_pages(&parts.headers) || !same(given, &session.csrf) {
                return Err(Problem::forbidden("this change does not come from a page of ours"));
            }
        }
        Ok(Self { person, channel: "web" })
    }
}

/// Who looks at a page; whoever is not signed in is sent to sign in.
pub struct Visitor {
    /// Who.
    pub person: Person,
    /// Their session.
    pub session: Session,
}

impl FromRequestParts<Arc<Site>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Response> {
        match session(&parts.headers, site).await.map_err(IntoResponse::into_response)? {
            Some((person, session)) => Ok(Self { person, session }),
            None => {
                let wanted = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                let wanted = if parts.method == Method::GET { wanted } else { "/" };
                // A link from elsewhere (a chat) comes without our cookie; the next step, from our own page, has it.
                if parts.method == Method::GET && came_from_elsewhere(&parts.headers) {
                    return Err(site.pages.bounce(wanted));
                }
                let next = percent_encoding::utf8_percent_encode(wanted, percent_encoding::NON_ALPHANUMERIC);
                Err(Redirect::to(&format!("/login?next={next}")).into_response())
            }
        }
    }
}

/// A form that a person sent from one of our pages: signed in, same origin, with the session's own word.
pub struct SignedForm {
    /// Who.
    pub visitor: Visitor,
    /// What they wrote, by the field's name.
    pub fields: HashMap<String, String>,
}

impl SignedForm {
    /// A field without the blanks around it; empty where there is none.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value.trim())
    }
}

impl FromRequest<Arc<Site>> for SignedForm {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, site).await?;
        let ours = from_our_pages(&parts.headers);
        let frame = Frame::of(site, &parts.headers, &parts.uri, Some(&visitor)).await;
        let request = Request::from_parts(parts, body);
        let fields = fields(request, site).await?;
        let given = fields.get("csrf").map_or("", String::as_str);
        if !ours || !same(given, &visitor.session.csrf) {
            return Err(problem_page(site, &frame, &Problem::forbidden(frame.w.not_our_page)));
        }
        Ok(Self { visitor, fields })
    }
}

/// The fields of a form.
pub async fn fields(request: Request, site: &Arc<Site>) -> Result<HashMap<String, String>, Response> {
    match axum::Form::<Vec<(String, String)>>::from_request(request, site).await {
        Ok(axum::Form(fields)) => Ok(fields.into_iter().collect()),
        Err(refused) => Err(refused.into_response()),
    }
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// A cookie's value.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

async fn session(headers: &HeaderMap, site: &Site) -> Result<Option<(Person, Session)>, Problem> {
    match cookie(headers, COOKIE) {
        Some(value) if !value.is_empty() => Ok(site.access.session(value).await?),
        _ => Ok(None),
    }
}

fn came_from_elsewhere(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site")
}

/// Whether the browser says that a page of this very host sends this. One that says nothing is not believed.
pub fn from_our_pages(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match (text(header::ORIGIN.as_str()), text(header::HOST.as_str())) {
        (Some(origin), Some(host)) => {
            let from = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            from.is_some_and(|from| from.eq_ignore_ascii_case(host))
        }
        (None, _) => text("sec-fetch-site") == Some("same-origin"),
        _ => false,
    }
}

/// The address of whoever asks; a proxy's word counts only where one is configured.
pub fn address(site: &Site, headers: &HeaderMap, peer: Option<SocketAddr>) -> IpAddr {
    let told = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
    // The last one of the last line was added by our own proxy; the ones before are the asker's word.
    let told = told.and_then(|told| told.rsplit(',').next()).and_then(|last| last.trim().parse().ok());
    told.filter(|_| site.config().web.behind_proxy)
        .or(peer.map(|peer| peer.ip()))
        .unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// Whether the browser reached us by https.
pub fn is_https(site: &Site, headers: &HeaderMap) -> bool {
    let told = headers.get("x-forwarded-proto").is_some_and(|value| value == "https");
    (told && site.config().web.behind_proxy)
        || site.config().web.url.as_ref().is_some_and(|url| url.starts_with("https://"))
}

/// Whether requests for this host are ours: a name that anybody may point at this machine is not.
pub fn host_is_ours(site: &Site, host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let config = site.config();
    let web = &config.web;
    let of_url = web.url.as_deref().and_then(host_of_url).map(|host| host.split(':').next().unwrap_or(host));
    web.hosts.iter().map(String::as_str).chain(of_url).any(|known| known.eq_ignore_ascii_case(name))
}

/// The gate in front of every route.
pub async fn gate(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let api = request.uri().path().starts_with("/api/");
    let mut response = if !host_is_ours(&site, host) {
        let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", "this host name is not served here");
        problem.hint("add it to `web.hosts` in devo.yaml, if it is yours").into_response()
    } else if !site.visits.take(address(&site, request.headers(), peer), Instant::now()) {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many", "too many requests from this address").into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set("content-security-policy", POLICY);
    set("x-content-type-options", "nosniff");
    set("x-frame-options", "DENY");
    // Not `no-referrer`: that would make browsers hide the origin of forms, which is checked.
    set("referrer-policy", "same-origin");
    set("cross-origin-opener-policy", "same-origin");
    set("cross-origin-resource-policy", "same-origin");
    set("permissions-policy", "camera=(), geolocation=(), microphone=()");
    set("cache-control", if api { "no-store" } else { "no-cache, private" });
    response
}
