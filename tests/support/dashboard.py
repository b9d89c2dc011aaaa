"""The dashboard in a real browser, before a real suite and its gateway."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect, sync_playwright

from modelkeep.supervisor import Suite

ROOT = Path(__file__).resolve().parents[2]
# Playwright's own 5 s are too few for a machine that has much else to do.
expect.set_options(timeout=30_000)
#: Where pictures for the documentation are written; without it none are.
PICTURES = os.environ.get("DASHBOARD_PICTURES")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's browser, without a window."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is missing: scripts/tools.sh chromium"
    with sync_playwright() as playwright:
        # Root has no sandbox of Chromium's, and containers have no room in /dev/shm.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@functools.cache
def axe() -> str:
    """The program of axe-core, which the dashboard's package-lock.json pins."""
    folder = ROOT / "clients" / "dashboard"
    subprocess.run([str(ROOT / "scripts" / "npm.sh"), "clients/dashboard"], check=True, timeout=100)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


class Tab:
    """A page of the dashboard, and what it complained of.

    Attributes:
        page: The page.
        errors: What it wrote to the console as an error, exceptions that nobody caught, and addresses of
            other origins that it asked for.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self._origin = origin
        page.set_default_timeout(30_000)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("response", self._check_origin)

    def _note(self, message: ConsoleMessage) -> None:
        # That a service which was killed does not answer is told by the browser itself.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def _check_origin(self, response: Response) -> None:
        if not response.url.startswith((self._origin, f"blob:{self._origin}", "data:")):
            self.errors.append(f"asked for {response.url}")

    def show(self, name: str) -> None:
        """One of the four pages, by its name in the frame."""
        self.page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()

    def picture(self, name: str) -> None:
        """A picture for the documentation, where somebody asked for them."""
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png")

    def violations(self) -> list[str]:
        """What axe-core finds against the page as it is: rule, what is wrong, where."""
        self.page.evaluate(axe())
        found: list[dict[str, Any]] = self.page.evaluate("axe.run().then((result) => result.violations)")
        return [
            f"{rule['id']}: {rule['help']}: {[node['html'][:120] for node in rule['nodes'][:3]]}"
            for rule in found
        ]


@contextlib.contextmanager
def tab(
    browser: Browser,
    suite: Suite,
    *,
    token: str | None = "owner",
    scheme: Literal["light", "dark"] = "light",
    size: Sequence[int] = (1200, 800),
) -> Iterator[Tab]:
    """The dashboard, opened by the address that `modelkeep up` prints; without a token it may look."""
    with window(browser, suite, token=token, scheme=scheme, size=size) as another:
        yield another()


@contextlib.contextmanager
def window(
    browser: Browser,
    suite: Suite,
    *,
    token: str | None = "owner",
    scheme: Literal["light", "dark"] = "light",
    size: Sequence[int] = (1200, 800),
) -> Iterator[Callable[[], Tab]]:
    """What opens the dashboard in one more tab of the same browser: they share its connections."""
    assert suite.gateway is not None
    assert suite.gateway.address, suite.gateway
    secret = "" if token is None else (suite.data_dir / "run" / "tokens" / token).read_text().strip()
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    origin = suite.gateway.address
    opened: list[Tab] = []

    def another() -> Tab:
        opened.append(Tab(context.new_page(), origin))
        opened[-1].page.goto(f"{origin}/" + (f"#token={secret}" if secret else ""))
        return opened[-1]

    try:
        yield another
        errors = [error for each in opened for error in each.errors]
        assert errors == [], errors
    finally:
        context.close()
