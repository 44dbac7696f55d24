//! The main job in containers, and what becomes of it when one is killed under a model's command.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::fake::{claude, gemini};
use crate::main_job::{fix, plan, variant};
use crate::world::World;

/// A busybox and nothing else, made here: no registry is asked.
const IMAGE: &str = "devo-test-it:1";

async fn image(docker: &Docker) {
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").expect("apt install busybox-static");
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    tar.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    for applet in ["sh", "sleep", "grep", "rm"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let (repo, tag) = IMAGE.split_once(':').unwrap();
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(repo).tag(tag).build();
    let body = bollard::body_full(tar.into_inner().unwrap().into());
    let mut said = docker.create_image(Some(options), Some(body), None);
    while let Some(step) = said.next().await {
        step.expect("the image can be made");
    }
}

async fn containers(docker: &Docker, run: &str) -> Vec<String> {
    let filters = HashMap::from([("label", vec![format!("dev.devo.run={run}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    docker.list_containers(Some(options)).await.unwrap().into_iter().filter_map(|container| container.id).collect()
}

fn events(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn wait_until(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_model_does_not_notice_that_its_container_was_killed() {
    let docker = Docker::connect_with_defaults().expect("a docker daemon is needed");
    image(&docker).await;
    let world = World::shop();
    let config = format!(
        "repos:\n  shop:\n    url: {}\n    base: development\n    sandbox: {{type: docker, image: '{IMAGE}'}}\n    checks: \
         {{test: grep -q SinExistencias src/ventas.rs}}\n",
        world.path("remote.git").display()
    );
    std::fs::write(world.home().join("devo.yaml"), config).unwrap();
    let waits = "echo $DEVO_ATTEMPT > tries; until [ -e go ]; do sleep 0.05; done; rm go tries";
    world.fake.planner(claude(&[("submit_plan", plan("Validar stock"))]));
    world.fake.executor(gemini(&[("read_file", json!({"file_path": "src/ventas.rs"}))]));
    world.fake.executor(gemini(&[("replace", fix()), ("replace", variant())]));
    world.fake.executor(gemini(&[("run_shell_command", json!({"command": waits}))]));
    world.fake.executor(gemini(&[("finish", json!({"status": "done", "summary": "Hecho.", "evidence": []}))]));

    let out = world.path("out");
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "x", "--yes", "--json"];
    let stdout = std::fs::File::create(&out).unwrap();
    let mut devo = world.command(&args).stdout(stdout).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the run", || events(&out).iter().any(|event| event["event"] == "accepted"));
    let run = events(&out)[0]["task_id"].as_str().unwrap().to_owned();
    let workspace = world.home().join("runs").join(&run).join("workspace");
    let tries = |wanted: &str| std::fs::read_to_string(workspace.join("tries")).is_ok_and(|text| text.trim() == wanted);
    wait_until("the command", || tries("1"));
    for id in containers(&docker, &run).await {
        docker.kill_container(&id, None).await.unwrap();
    }
    wait_until("the same command again", || tries("2"));
    assert_eq!(containers(&docker, &run).await.len(), 1);
    std::fs::write(workspace.join("go"), "").unwrap();
    wait_until("the end", || devo.try_wait().unwrap().is_some());

    let events = events(&out);
    let result = &events.last().unwrap()["run"];
    assert_eq!(result["status"], "COMPLETED", "{result:#}");
    let lost: Vec<_> = events.iter().filter(|event| event["event"] == "step_interrupted").collect();
    assert!(lost.len() == 1 && lost[0]["reason"].as_str().unwrap().contains("container is gone"), "{lost:?}");
    assert_eq!(world.fake.left(), (0, 0));
    // Four calls of the executor: no answer was asked for twice.
    assert_eq!(result["usage"]["by_role"]["executor"]["calls"], 4);
    assert!(!world.fake.asked().last().unwrap().body.to_string().contains("container"), "nothing was said of it");
    assert!(containers(&docker, &run).await.is_empty());
}
