//! What services printed: its end for an error, more of it for a file.

use std::path::Path;

use bollard::Docker;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt as _;

use crate::secrets::{Masker, printable};

/// Bytes of a service's output that are kept: its end.
const KEPT_BYTES: usize = 1 << 20;
/// The engine's own file, of which it keeps one more while the service lives. It wraps every line into some 75 bytes.
pub(super) const ENGINE_SIZE: &str = "4m";
/// Lines that an error shows.
const SHOWN_LINES: &str = "20";
/// Bytes that an error shows.
const SHOWN_BYTES: usize = 4 << 10;

/// The last lines, for a person.
pub(super) async fn tail(docker: &Docker, container: &str) -> String {
    let bytes = read(docker, container, SHOWN_LINES, SHOWN_BYTES).await;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .map(printable)
        .filter(|line| !line.is_empty())
        .map(|line| format!("  {line}\n"))
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// Leaves the output in a file, without secrets.
pub(super) async fn keep(
    docker: &Docker,
    container: &str,
    folder: &Path,
    name: &str,
    masker: &Masker,
) -> std::io::Result<()> {
    let bytes = read(docker, container, "all", KEPT_BYTES).await;
    let text = masker.mask(&String::from_utf8_lossy(&bytes));
    tokio::fs::create_dir_all(folder).await?;
    tokio::fs::write(folder.join(format!("{name}.log")), text).await
}

/// The last bytes of both streams, in the order in which they were printed.
async fn read(docker: &Docker, container: &str, lines: &str, most: usize) -> Vec<u8> {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(lines).build();
    let mut stream = std::pin::pin!(docker.logs(container, Some(options)));
    let mut kept: Vec<u8> = Vec::new();
    while let Some(Ok(chunk)) = stream.next().await {
        kept.extend_from_slice(chunk.as_ref());
        if kept.len() > 2 * most {
            kept.drain(..kept.len() - most);
        }
    }
    kept.drain(..kept.len().saturating_sub(most));
    kept
}
