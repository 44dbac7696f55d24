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
use tokio::sync::broadcast::error::RecvError;

use super::show::Line;
use super::{Frame, Page, page};
use crate::engine::Notice;
use crate::error::Error;
use crate::frontends::web::Site;
use crate::frontends::web::api::events::PING;
use crate::frontends::web::guard::Visitor;
use crate::frontends::web::problem::Problem;
use crate::journal::RunRow;

/// Runs that the page looks back on.
const LOOK_BACK: usize = 500;
/// Ended runs that it shows.
const RECENT: usize = 20;
/// Lines of one list; more are counted.
const LINES: usize = 60;
/// A failed run needs someone for so long after its end, in milliseconds.
const FAILED_MS: u64 = 3 * 24 * 3600 * 1000;
/// Between two signs to the page that something changed.
const QUIET: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Values {
    needs: Vec<Line>,
    running: Vec<Line>,
    recent: Vec<Line>,
    more: usize,
}

fn needs_someone(site: &Site, row: &RunRow) -> bool {
    let fresh = site.app.clock.now().since(row.updated_at) < FAILED_MS;
    row.summary.waiting_for.is_some() || (row.summary.status == "FAILED" && fresh)
}

/// Runs that need someone, newest first.
pub async fn needing(site: &Site) -> Result<Vec<RunRow>, Error> {
    let rows = site.desk.runs(LOOK_BACK).await?;
    Ok(rows.into_iter().filter(|row| needs_someone(site, row)).collect())
}

/// GET /.
pub async fn show(State(site): State<Arc<Site>>, visitor: Visitor, headers: HeaderMap, uri: Uri) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let rows = match site.desk.runs(LOOK_BACK).await {
        Ok(rows) => rows,
        Err(error) => return Err(super::problem_page(&site, &frame, &Problem::from(error))),
    };
    let now = site.app.clock.now();
    let (needs, rest): (Vec<RunRow>, Vec<RunRow>) = rows.into_iter().partition(|row| needs_someone(&site, row));
    let (recent, running): (Vec<RunRow>, Vec<RunRow>) = rest.into_iter().partition(|row| row.summary.ended);
    let lines = |mut rows: Vec<RunRow>, most: usize| -> Vec<Line> {
        rows.truncate(most);
        rows.iter().map(|row| Line::of(frame.w, row, now)).collect()
    };
    let more = needs.len().saturating_sub(LINES) + running.len().saturating_sub(LINES);
    // What a person can unblock comes before what only failed.
    let (mut needs, failed): (Vec<RunRow>, Vec<RunRow>) =
        needs.into_iter().partition(|row| row.summary.waiting_for.is_some());
    needs.extend(failed);
    let values =
        Values { needs: lines(needs, LINES), running: lines(running, LINES), recent: lines(recent, RECENT), more };
    page(&site, &frame, StatusCode::OK, "inbox.html", &values)
}

/// GET /live: a sign to the list's script whenever any run moves, so that it asks for the page again.
pub async fn live(State(site): State<Arc<Site>>, _visitor: Visitor) -> impl IntoResponse {
    let state = (site.desk.subscribe(), site.desk.stopping());
    let signs = stream::unfold(state, |(mut feed, stop)| async move {
        loop {
            let heard = tokio::select! {
                () = stop.cancelled() => return None,
                heard = feed.recv() => heard,
            };
            match heard {
                Ok(Notice::Event { .. }) | Err(RecvError::Lagged(_)) => {
                    tokio::time::sleep(QUIET).await;
                    while feed.try_recv().is_ok() {}
                    let sign = Event::default().event("changed").data("{}");
                    return Some((Ok::<_, Infallible>(sign), (feed, stop)));
                }
                Ok(_) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(signs).keep_alive(KeepAlive::new().interval(PING).text("ping"))
}
