//! The first page: what needs someone, what runs, what was done last.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;

use super::show::Line;
use super::{Frame, Page, page};
use crate::core::time::Timestamp;
use crate::engine::Notice;
use crate::error::Error;
use crate::frontends::web::Site;
use crate::frontends::web::api::events::PING;
use crate::frontends::web::guard::Visitor;
use crate::frontends::web::problem::Problem;
use crate::journal::{RunRow, Wanted};

/// Ended runs that it looks at for the recent ones.
const LOOK_BACK: usize = 500;
/// Ended runs that it shows.
const RECENT: usize = 20;
/// Lines of one list; more are counted.
const LINES: usize = 60;
/// A failed run needs someone for so long after its end, in milliseconds.
const FAILED_MS: i64 = 3 * 24 * 3600 * 1000;
/// Between two signs to the page that something changed; the first is sent at once.
const QUIET: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Values {
    needs: Vec<Line>,
    running: Vec<Line>,
    recent: Vec<Line>,
    more: usize,
}

/// Runs that wait for a person.
fn waiting() -> Wanted {
    Wanted { waiting: Some(true), ..Wanted::default() }
}

/// Runs that failed of late.
fn failed(site: &Site) -> Wanted {
    let since = Timestamp(site.app.clock.now().0.saturating_sub(FAILED_MS));
    Wanted { status: Some("FAILED".to_owned()), since: Some(since), ..Wanted::default() }
}

/// How many runs need someone.
pub async fn needing(site: &Site) -> Result<usize, Error> {
    let count = site.desk.count(waiting()).await? + site.desk.count(failed(site)).await?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// The rows of the page's lists, and how many more there are.
async fn lists(site: &Site, need: usize) -> Result<([Vec<RunRow>; 3], usize), Error> {
    let running = Wanted { waiting: Some(false), ended: Some(false), ..Wanted::default() };
    // What a person can unblock comes before what only failed.
    let mut needs = site.desk.list(waiting(), LINES).await?;
    let fresh = failed(site);
    let since = fresh.since;
    needs.extend(site.desk.list(fresh, LINES - needs.len()).await?);
    let count = usize::try_from(site.desk.count(running.clone()).await?).unwrap_or(usize::MAX);
    let running = site.desk.list(running, LINES).await?;
    let more = need.saturating_sub(needs.len()) + count.saturating_sub(running.len());
    // Those that failed of late stand above already: behind as many of them there is enough.
    let ended = Wanted { ended: Some(true), ..Wanted::default() };
    let mut recent = site.desk.list(ended, RECENT + need.min(LOOK_BACK)).await?;
    recent.retain(|row| row.summary.status != "FAILED" || since.is_some_and(|since| row.updated_at < since));
    recent.truncate(RECENT);
    Ok(([needs, running, recent], more))
}

/// GET /.
pub async fn show(State(site): State<Arc<Site>>, visitor: Visitor, headers: HeaderMap, uri: Uri) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let (rows, more) = match lists(&site, frame.needs_me).await {
        Ok(lists) => lists,
        Err(error) => return Err(super::problem_page(&site, &frame, &Problem::from(error))),
    };
    let now = site.app.clock.now();
    let [needs, running, recent] =
        rows.map(|rows| rows.iter().map(|row| Line::of(frame.w, row, now)).collect::<Vec<Line>>());
    let values = Values { needs, running, recent, more };
    page(&site, &frame, StatusCode::OK, "inbox.html", &values)
}

/// GET /live: a sign to the list's script whenever any run moves, so that it asks for the page again.
pub async fn live(State(site): State<Arc<Site>>, _visitor: Visitor) -> impl IntoResponse {
    let state = (site.desk.subscribe(), site.desk.stopping(), Instant::now());
    let signs = stream::unfold(state, |(mut feed, stop, free)| async move {
        loop {
            let heard = tokio::select! {
                () = stop.cancelled() => return None,
                heard = feed.recv() => heard,
            };
            match heard {
                Ok(Notice::Event { .. }) | Err(RecvError::Lagged(_)) => {
                    tokio::time::sleep_until(free).await;
                    while let Ok(_) | Err(TryRecvError::Lagged(_)) = feed.try_recv() {}
                    let sign = Event::default().event("changed").data("{}");
                    return Some((Ok::<_, Infallible>(sign), (feed, stop, Instant::now() + QUIET)));
                }
                Ok(_) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(signs).keep_alive(KeepAlive::new().interval(PING).text("ping"))
}
