"""The pages in a real browser, at phone and desktop size. Run by tests/run.sh; by hand: `python tests/browser/run.py [NAME…]`.

No waiting by the clock: every step waits for what it needs to see.
"""

import contextlib
import json
import re
import sys
import traceback
import urllib.parse
import urllib.request

from playwright.sync_api import expect, sync_playwright

from models import claude, plan, work
from world import ROOT, World

PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
HOSTILE = "\"'><img src=x onerror=window.pwned=1><script>window.pwned=1</script></textarea>{{ 7*7 }}"
TASK = "Validar stock negativo en ventas"
ROOT_PICTURES = ROOT / "docs/screenshots"
# A test waits this long for what must come; a build of the sample is in it.
PATIENCE_MS = 90_000


@contextlib.contextmanager
def tab(browser, world, size, lang="en-GB", sign_in=True, **more):
    """A browser of its own, signed in by a one-time link; any script error or blocked inline code fails the test."""
    context = browser.new_context(**size, locale=lang, **more)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" and "Content Security" in said.text else None)
    if sign_in:
        page.goto(world.link())
        page.get_by_role("button").first.click()
        page.wait_for_url(world.url + "/")
    yield page
    assert not wrong, wrong
    context.close()


def fits(page):
    """Nothing sticks out sideways, and whatever is pressed is large enough for a finger."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} px too wide"
    small = page.evaluate("""() => [...document.querySelectorAll('button, .button, nav a, summary, input:not([type=hidden]), select, textarea, a.run')]
        .filter(one => one.offsetParent && one.getBoundingClientRect().height < 44).map(one => one.outerHTML.slice(0, 90))""")
    assert not small, f"{page.url}: too small for a finger: {small}"


def is_named(page):
    """Every field has a label, every part a heading, and the keyboard gets to the content."""
    nameless = page.evaluate("""() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea')]
        .filter(one => !one.labels.length && !one.getAttribute('aria-label')).map(one => one.outerHTML)""")
    assert not nameless, f"{page.url}: {nameless}"
    assert page.locator("main").count() == 1 and page.locator("h1").count() == 1, page.url
    assert page.evaluate("document.documentElement.lang") in ("en", "es")
    dangling = page.evaluate("""() => [...document.querySelectorAll('[aria-labelledby], [aria-describedby]')]
        .flatMap(one => (one.getAttribute('aria-labelledby') || one.getAttribute('aria-describedby')).split(' '))
        .filter(id => !document.getElementById(id))""")
    assert not dangling, f"{page.url}: {dangling}"


def submit(page, task=TASK, pipeline="dev-task"):
    page.get_by_role("link", name="New task").first.click()
    # Another pipeline's inputs come by themselves.
    if page.locator("#pipeline").input_value() != pipeline:
        with page.expect_navigation():
            page.select_option("#pipeline", pipeline)
    page.fill("#task", task)
    fits(page)
    is_named(page)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/runs/*")
    return page.url.split("/runs/")[1].split("?")[0]


def main_job(browser, world, size):
    """submit → revise → approve → done, without loading a page by hand."""
    world.models.planner += [claude("submit_plan", plan("Validar stock negativo en ventas"))]
    with tab(browser, world, size) as page:
        submit(page)
        expect(page.locator("#head .badge")).to_have_text("plan to approve")
        expect(page.get_by_role("button", name="Approve revision 1").first).to_be_visible()
        fits(page)
        is_named(page)
        world.models.planner += [claude("submit_plan", plan("Validar stock, también en devoluciones",
                                                            questions=["¿Y las reservas?"]))]
        page.fill("#revise-text", "También en devoluciones")
        page.get_by_role("button", name="Revise").click()
        # What was said to the word can still be read when the run has gone on; the address does not say it again.
        expect(page.get_by_role("button", name="Approve revision 2").first).to_be_visible()
        expect(page.locator(".notice.good")).to_contain_text("another revision")
        assert "done=" not in page.url, page.url
        expect(page.locator("#plan .patch .add").first).to_contain_text("devoluciones")
        world.models.executor += work()
        page.locator("#head").get_by_role("button", name="Approve revision 2").click()
        expect(page.locator("#head .badge")).to_have_text("done")
        expect(page.locator("#log")).to_contain_text("no_baja_de_cero")
        expect(page.locator("#changes code").first).to_contain_text("task/")
        fits(page)
        is_named(page)
        page.get_by_role("link", name="See the changes").click()
        expect(page.locator("details.file")).to_have_count(2)
        page.locator("details.file summary").first.click()
        expect(page.locator(".patch .add").first).to_be_visible()
        fits(page)
        page.locator("details.file textarea").first.fill("¿Y si es cero?")
        page.get_by_role("button", name="Begin a task with it").first.click()
        page.wait_for_url("**/new?*")
        expect(page.locator("#task")).to_have_value(re.compile("¿Y si es cero\\?"))


def two_tabs(browser, world, size):
    """Two people look at one plan; the later word is told what is true."""
    world.models.planner += [claude("submit_plan", plan("Plan de dos"))]
    with tab(browser, world, size) as one, tab(browser, world, size, lang="es-ES") as two:
        run = submit(one)
        expect(one.locator("#head .badge")).to_have_text("plan to approve")
        two.goto(f"{world.url}/runs/{run}")
        expect(two.locator("#head .badge")).to_have_text("plan por aprobar")
        # The second one is writing: what they write stays, whatever happens meanwhile.
        two.fill("#revise-text", "algo mío")
        world.models.planner += [claude("submit_plan", plan("Plan corregido"))]
        one.fill("#revise-text", "other")
        one.get_by_role("button", name="Revise").click()
        expect(one.get_by_role("button", name="Approve revision 2").first).to_be_visible()
        expect(two.locator("#head").get_by_role("button", name="Aprobar la revisión 2")).to_be_visible()
        expect(two.locator("#revise-text")).to_have_value("algo mío")
        # The button below the draft still shows revision 1, and approves nothing else.
        two.locator("#plan").get_by_role("button", name="Aprobar la revisión 1").click()
        expect(two.locator(".notice.bad")).to_contain_text("ya no es el actual")
        one.locator("#stop summary").click()
        one.get_by_role("button", name="Abort this run").click()
        expect(two.locator("#head .badge")).to_have_text("detenido")


def reload_and_lost_connection(browser, world, size):
    """A reload in the middle shows the same; a lost daemon is found again."""
    world.models.planner += [claude("submit_plan", plan("Plan con pausas"))]
    world.models.executor[:] = work()
    world.models.gate.clear()
    with tab(browser, world, size) as page:
        submit(page)
        page.locator("#head").get_by_role("button", name="Approve revision 1").click()
        expect(page.locator("#head .badge")).to_have_text("working")
        page.reload()
        expect(page.locator("#head .badge")).to_have_text("working")
        expect(page.locator("#plan")).to_contain_text("approved by owner (web)")
        page.context.set_offline(True)
        world.models.gate.set()
        page.context.set_offline(False)
        expect(page.locator("#head .badge")).to_have_text("done")


def lost_daemon(browser, world, size):
    """The daemon is restarted while the page is open: the page goes on by itself."""
    world.models.planner += [claude("submit_plan", plan("Plan que espera"))]
    with tab(browser, world, size) as page:
        submit(page)
        expect(page.locator("#head .badge")).to_have_text("plan to approve")
        world.stop()
        config = world.home / "devo.yaml"
        config.write_text(config.read_text().replace("127.0.0.1:0", world.url.removeprefix("http://")))
        world.start()
        world.devo("reject", page.url.split("/runs/")[1].split("?")[0])
        expect(page.locator("#head .badge")).to_have_text("stopped")


def failure(browser, world, size):
    """The failed step comes first, with its error; Retry goes on."""
    with tab(browser, world, size) as page:
        submit(page, "falta el archivo", "fails")
        expect(page.locator("#failure h2")).to_contain_text("check")
        expect(page.locator("#head").get_by_role("button", name="Retry")).to_be_visible()
        expect(page.locator("ol.steps > li").first).to_contain_text("check")
        fits(page)
        page.goto(world.url)
        expect(page.locator("#needs a.run .badge").first).to_have_text("failed")
        page.locator("#needs a.run").first.click()
        page.locator("#head").get_by_role("button", name="Retry").click()
        expect(page.locator("#head .badge")).to_have_text("done")


def hostile_text(browser, world, size):
    """Text from people, models and commands is text, in every field and on every page."""
    hostile = plan(HOSTILE, summary=HOSTILE, risks=[HOSTILE], assumptions=[HOSTILE], questions=[HOSTILE], out_of_scope=[HOSTILE])
    hostile["steps"][0].update(title=HOSTILE, intent=HOSTILE)
    hostile["steps"][0]["files"][0]["why"] = HOSTILE
    hostile["criteria"][0]["text"] = HOSTILE
    world.models.planner += [claude("submit_plan", hostile)]
    with tab(browser, world, size) as page:
        run = submit(page, HOSTILE)
        expect(page.locator("#head .badge")).to_have_text("plan to approve")
        expect(page.locator("#plan")).to_contain_text("<script>window.pwned=1</script>")
        assert page.evaluate("document.querySelectorAll('main script, main img[src=x]').length") == 0
        world.models.planner += [claude("submit_plan", hostile)]
        page.fill("#revise-text", HOSTILE)
        page.get_by_role("button", name="Revise").click()
        expect(page.get_by_role("button", name="Approve revision 2").first).to_be_visible()
        page.locator("#plan details summary", has_text="Reject").click()
        page.fill("#reject-text", HOSTILE)
        page.get_by_role("button", name="Reject, and end the run").click()
        expect(page.locator("#head .badge")).to_have_text("stopped")
        # A command's output, live and stored.
        submit(page, HOSTILE, "fails")
        expect(page.locator("#log")).to_contain_text("<img src=x")
        expect(page.locator("#failure h2")).to_contain_text("check")
        failed = page.url.split("/runs/")[1].split("?")[0]
        for path in ["/", f"/runs/{run}", f"/runs/{failed}", f"/runs/{failed}/logs", "/pipelines", "/doctor",
                     "/new?task=" + urllib.parse.quote(HOSTILE), "/login?link=" + urllib.parse.quote(HOSTILE),
                     "/runs/" + urllib.parse.quote(HOSTILE, safe=""), "/" + urllib.parse.quote(HOSTILE, safe="")]:
            page.goto(world.url + path)
            fits(page)
            assert page.evaluate("window.pwned") is None, path
            assert page.evaluate("document.querySelectorAll('main script, main img[src=x]').length") == 0, path


def without_script(browser, world, size):
    """Everything works without a script; only the page does not move by itself."""
    world.models.planner += [claude("submit_plan", plan("Plan sin script"))]
    world.models.executor[:] = work()
    world.models.gate.clear()
    with tab(browser, world, size, java_script_enabled=False) as page:
        run = submit(page)
        wait_for(world, run, lambda doc: doc["waiting_for"])
        page.reload()
        page.get_by_role("button", name="Approve revision 1").first.click()
        expect(page.locator(".notice.good")).to_contain_text("Work begins")
        page.get_by_role("link", name="Español").click()
        expect(page.locator("html")).to_have_attribute("lang", "es")
        world.devo("abort", run)


def keyboard_and_looks(browser, world, size):
    """By keyboard alone; dark where the reader wants it; strangers see nothing; small."""
    with tab(browser, world, size, sign_in=False, color_scheme="dark") as page:
        page.goto(world.url + "/runs/1234")
        assert "/login" in page.url
        fits(page)
        is_named(page)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(21, 24, 22)", dark
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.focus("#token")
        page.keyboard.type((world.home / "token").read_text().strip())
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/1234")
        page.goto(world.url)
        page.reload()
        # What came over the wire for the page and all that it loads, headers included.
        moved = page.evaluate("""() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
            .map(one => [one.name, one.transferSize, one.decodedBodySize])""")
        assert len(moved) >= 3 and sum(size for _, _, size in moved) < 100_000, moved
        print(f"        first page: {sum(size for _, size, _ in moved)} bytes over the wire, "
              f"{sum(size for _, _, size in moved)} unpacked", flush=True)


def wait_for(world, run, is_so):
    """Follows the run's events until something is so."""
    token = (world.home / "token").read_text().strip()
    headers = {"authorization": f"Bearer {token}"}
    address = f"{world.url}/api/v1/runs/{run}"
    with urllib.request.urlopen(urllib.request.Request(address + "/events", headers=headers)) as events:
        for line in events:
            if line.startswith(b"event:"):
                with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as reply:
                    if is_so(json.load(reply)):
                        return
    raise AssertionError("it ended before")


TESTS = [main_job, two_tabs, reload_and_lost_connection, failure, hostile_text, without_script, keyboard_and_looks, lost_daemon]


def main(wanted):
    world = World()
    passed, failed = 0, []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for size_name, size in (("phone", PHONE), ("desktop", DESKTOP)):
            for test in TESTS:
                if wanted and test.__name__ not in wanted:
                    continue
                expect.set_options(timeout=PATIENCE_MS)
                world.models.planner.clear()
                world.models.executor.clear()
                world.models.gate.set()
                try:
                    test(browser, world, size)
                    passed += 1
                    print(f"ok      {size_name} {test.__name__}", flush=True)
                except Exception:
                    failed.append(test.__name__)
                    print(f"FAILED  {size_name} {test.__name__}", flush=True)
                    traceback.print_exc()
        browser.close()
    world.close()
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
