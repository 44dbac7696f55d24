//! What a command in a warm container costs: through our sandbox, against a plain `docker exec` by API (create, start,
//! read to the end, inspect) in a container alike, interleaved in one run. `cargo bench --bench docker` prints the
//! ratio of the medians; nothing is asserted, machines are noisy. Needs a docker daemon and busybox-static.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions};
use devo::sandboxes::docker::image::SourceFile;
use devo::sandboxes::docker::{Described, Settings, Source};
use devo::sandboxes::{self, Command, Sandbox, SandboxKind, Supervisor, Surroundings, open};
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

const IMAGE: &str = "devo-bench:1";
const WARM_UP: usize = 5;
const ROUNDS: usize = 100;

struct NoFiles;

impl Source for NoFiles {
    fn files(&self, _: &str) -> Result<Vec<SourceFile>, String> {
        Ok(Vec::new())
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        Err(format!("there is no {path}"))
    }
}

async fn image(docker: &Docker) {
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["bin/sh", "bin/true", "bin/sleep"] {
        let mut header = tar::Header::new_gnu();
        let busybox = std::fs::read("/bin/busybox").expect("apt-get install busybox-static");
        header.set_mode(0o755);
        header.set_size(busybox.len() as u64);
        tar.append_data(&mut header, name, busybox.as_slice()).expect("memory");
    }
    let options = CreateImageOptionsBuilder::default().from_src("-").repo("devo-bench").tag("1").build();
    let tar = tar.into_inner().expect("memory").into();
    let mut said = docker.create_image(Some(options), Some(bollard::body_full(tar)), None);
    while let Some(step) = said.next().await {
        step.expect("the image can be made");
    }
}

async fn plain_container(docker: &Docker) -> String {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["/bin/sleep".to_owned(), "100000".to_owned()]),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None, body).await.expect("a container").id;
    docker.start_container(&id, None::<StartContainerOptions>).await.expect("it starts");
    id
}

async fn plain_exec(docker: &Docker, container: &str) {
    let options = CreateExecOptions {
        cmd: Some(vec!["/bin/sh", "-c", "true"]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec(container, options).await.expect("it can be made").id;
    match docker.start_exec(&exec, None::<StartExecOptions>).await.expect("it can be started") {
        StartExecResults::Attached { mut output, .. } => while output.next().await.is_some() {},
        StartExecResults::Detached => unreachable!("it was asked to attach"),
    }
    assert_eq!(docker.inspect_exec(&exec).await.expect("it is known").exit_code, Some(0));
}

async fn ours(sandbox: &dyn Sandbox, command: &Command) {
    let finished = sandbox.exec(command, &(), &CancellationToken::new()).await.expect("it can be run");
    assert!(finished.exit.is_success(), "{finished:?}");
}

fn median(mut taken: Vec<Duration>) -> Duration {
    taken.sort();
    taken[taken.len() / 2]
}

#[tokio::main]
async fn main() {
    let docker = Docker::connect_with_defaults().expect("a docker daemon is needed");
    image(&docker).await;
    let mut settings = sandboxes::Settings::new(Supervisor::at(env!("CARGO_BIN_EXE_devo")), &Surroundings::from_env());
    settings.docker = Some(Settings {
        home: "/devo-bench".to_owned(),
        run: format!("bench{}", std::process::id()),
        described: Described::Image(IMAGE.to_owned()),
        source: Arc::new(NoFiles),
        yaml: Arc::new(|file, _| Err(format!("nothing reads {file}"))),
        logs: std::env::temp_dir(),
        masker: devo::secrets::Masker::default(),
        writable: false,
        runtime: None,
        cpus: None,
    });
    let sandbox = open(SandboxKind::Docker, &settings).expect("it can be made");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let command = Command::new("true", folder.path());
    let start = Instant::now();
    ours(&*sandbox, &command).await;
    let first = start.elapsed();
    let container = plain_container(&docker).await;
    let (mut with_us, mut plain) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let start = Instant::now();
        ours(&*sandbox, &command).await;
        let middle = Instant::now();
        plain_exec(&docker, &container).await;
        if round >= WARM_UP {
            with_us.push(middle - start);
            plain.push(middle.elapsed());
        }
    }
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&container, Some(options)).await.expect("ours");
    sandbox.close().await;
    let (with_us, plain) = (median(with_us), median(plain));
    println!("the first command, with the container's start: {:.1} ms", first.as_secs_f64() * 1e3);
    println!("a command in the warm container, median of {ROUNDS}: {:.2} ms", with_us.as_secs_f64() * 1e3);
    println!("a plain docker exec by API, median of {ROUNDS}: {:.2} ms", plain.as_secs_f64() * 1e3);
    println!("ratio: {:.3} (goal: at most 1.2)", with_us.as_secs_f64() / plain.as_secs_f64());
}
