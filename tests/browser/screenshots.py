"""Makes the pictures of the README: `target/browser/bin/python tests/browser/screenshots.py`."""

import sys

from playwright.sync_api import expect, sync_playwright

from models import claude, plan, work
from run import DESKTOP, PATIENCE_MS, PHONE, ROOT_PICTURES, submit, tab
from world import World


def main():
    ROOT_PICTURES.mkdir(parents=True, exist_ok=True)
    world = World()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        phone = {**PHONE, "device_scale_factor": 1.5}

        def shoot(page, name):
            page.evaluate("document.activeElement && document.activeElement.blur()")
            page.screenshot(path=ROOT_PICTURES / f"{name}.png")

        with tab(browser, world, phone) as page, tab(browser, world, DESKTOP) as desk:
            # A run that failed, one that is done, and one whose plan waits in its second revision.
            submit(page, "Revisar las existencias de la noche", "fails")
            expect(page.locator("#failure h2")).to_be_visible()
            shoot(page, "failed-phone")
            world.models.planner += [claude("submit_plan", plan("Validar stock negativo en ventas"))]
            done = submit(page)
            expect(page.get_by_role("button", name="Approve revision 1").first).to_be_visible()
            world.models.executor += work()
            page.locator("#head").get_by_role("button", name="Approve revision 1").click()
            expect(page.locator("#head .badge")).to_have_text("done")
            world.models.planner += [claude("submit_plan", plan("Validar stock en ventas")),
                                     claude("submit_plan", plan("Validar stock en ventas y devoluciones"))]
            submit(page, "Validar stock en ventas")
            expect(page.get_by_role("button", name="Approve revision 1").first).to_be_visible()
            page.fill("#revise-text", "También en devoluciones")
            page.get_by_role("button", name="Revise").click()
            expect(page.get_by_role("button", name="Approve revision 2").first).to_be_visible()
            waiting = page.url.split("?")[0]
            page.goto(waiting)
            shoot(page, "plan-phone")
            page.goto(world.url)
            shoot(page, "inbox-phone")
            page.goto(world.url + "/new")
            shoot(page, "new-phone")
            desk.goto(f"{world.url}/runs/{done}")
            desk.locator("details.wide summary").click()
            desk.locator("details.wide img").scroll_into_view_if_needed()
            expect(desk.locator("details.wide img")).to_have_js_property("complete", True)
            desk.locator("#steps").scroll_into_view_if_needed()
            shoot(desk, "run-desktop")
            desk.goto(f"{world.url}/runs/{done}/diff")
            desk.locator("details.file summary").first.click()
            shoot(desk, "diff-desktop")
            desk.goto(waiting)
            shoot(desk, "plan-desktop")
        with tab(browser, world, phone, lang="es-ES", color_scheme="dark") as page:
            page.goto(waiting)
            shoot(page, "plan-phone-dark")
        browser.close()
    world.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
