"""How long an event takes from the journal to the page: `DEVO_BIN=target/release/devo target/browser/bin/python
tests/browser/latency.py [RUNS]`.

500 runs wait for a person (or RUNS), 50 viewers follow the events of one run that is at work, and Chromium shows its page.
The clock starts at the time that the event carries, which is taken before the journal's transaction, and stops when the page's
DOM has changed. It prints figures and asserts nothing: machines are noisy.
"""

import json
import sys
import threading
import time
import urllib.request
from datetime import datetime

from playwright.sync_api import expect, sync_playwright

from models import claude, plan
from run import PATIENCE_MS, PHONE, tab
from world import World

VIEWERS = 50
STEPS = 60
CHAIN = "name: chain\ndescription: many short steps\nsteps:\n" + "".join(
    f"  s{at}: {{type: shell, run: sleep 0.3{f', needs: s{at - 1}' if at else ''}}}\n" for at in range(STEPS))

# Notes when the page shows how many steps are done.
WATCH = """() => {
    window.seen = [];
    const look = () => {
        const done = document.querySelectorAll('li.step.succeeded').length;
        if (done > window.seen.length) { const now = Date.now(); while (window.seen.length < done) window.seen.push(now); }
    };
    new MutationObserver(look).observe(document.querySelector('main'), {childList: true, subtree: true});
    look();
}"""


def percentile(values, hundredths):
    values = sorted(values)
    return values[min(len(values) * hundredths // 100, len(values) - 1)]


def told(what, values):
    print(f"{what}: p50 {percentile(values, 50):.0f} ms, p95 {percentile(values, 95):.0f} ms, "
          f"most {max(values):.0f} ms ({len(values)} values)", flush=True)


def moment(event):
    return datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp() * 1000


class Api:
    def __init__(self, world):
        self.world = world
        self.token = (world.home / "token").read_text().strip()

    def open(self, path, body=None):
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        request = urllib.request.Request(self.world.url + path, headers=headers,
                                         data=json.dumps(body).encode() if body is not None else None)
        return urllib.request.urlopen(request, timeout=600)

    def events(self, run):
        """Each event of a run with the time of its arrival."""
        with self.open(f"/api/v1/runs/{run}/events") as stream:
            for line in stream:
                if line.startswith(b"data:"):
                    yield time.time() * 1000, json.loads(line[5:])


def waiting(world, api, count):
    world.models.planner += [claude("submit_plan", plan("Plan que espera"))] * count
    for at in range(count):
        task = {"pipeline": "dev-task", "repo": "tienda", "task": f"Tarea {at}"}
        part = world.home / f"inbox/.t{at}"
        part.write_text(json.dumps(task))
        part.rename(world.home / f"inbox/t{at}.yaml")
    while f"devo_runs_waiting_human {count}\n" not in api.open("/metrics").read().decode():
        time.sleep(1)


def main(count):
    world = World()
    (world.home / "pipelines/chain.yaml").write_text(CHAIN)
    config = world.home / "devo.yaml"
    config.write_text(config.read_text() + "limits: {runs: 8, per_repo: 8}\n")
    world.stop()
    world.start()
    api = Api(world)
    expect.set_options(timeout=PATIENCE_MS)
    waiting(world, api, count)
    print(f"{count} runs wait", flush=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        with tab(browser, world, PHONE) as page:
            run = json.load(api.open("/api/v1/runs", {"pipeline": "chain"}))["task_id"]
            page.goto(f"{world.url}/runs/{run}")
            page.evaluate(WATCH)
            heard = []

            def view():
                began = time.time() * 1000
                heard.extend(at - moment(event) for at, event in api.events(run)
                             if event["event"] == "step_succeeded" and moment(event) > began)

            viewers = [threading.Thread(target=view) for _ in range(VIEWERS)]
            for viewer in viewers:
                viewer.start()
            expect(page.locator("#head .badge")).to_have_text("done")
            for viewer in viewers:
                viewer.join()
            seen = page.evaluate("window.seen")
            events = [event for _, event in api.events(run) if event["event"] == "step_succeeded"]
            assert len(seen) == len(events) == STEPS, (len(seen), len(events))
            # What happened before the page was there has waited for the page.
            told("event → DOM", [at - moment(event) for at, event in list(zip(seen, events))[10:]])
            told(f"event → {VIEWERS} viewers", heard)
        browser.close()
    world.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
