"""Many tabs of the dashboard at once, and hidden ones: a browser has six connections for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.dashboard import Tab, window
from support.installs import small_lora
from support.suite import service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

#: Streams that the page of the loader follows.
OF_LOADER = 3
PAGES = ("Loader", "Models", "Loader", "Installs and downloads", "Loader", "Models")


@pytest.fixture(scope="module")
def suite(folder: Path) -> Iterator[Suite]:
    with service_suite(folder / "data", gateway_port=0) as started:
        yield started


def loaded(opened: Tab) -> None:
    """Wait until a page shows all that its services tell."""
    expect(opened.page.locator(".banner")).to_have_count(0)


def test_six_tabs_in_sight_are_all_live_and_can_be_clicked(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    with window(browser, suite) as another:
        tabs = []
        for name in PAGES:
            tabs.append(another())
            tabs[-1].show(name)
        for opened in tabs:
            loaded(opened)
        client.model_install.register_path(small_lora(folder / "seen-by-all.safetensors"))
        for opened, name in zip(tabs, PAGES, strict=True):
            if name != "Loader":
                expect(opened.page.get_by_text("seen-by-all").first).to_be_visible()
        # Calls of whoever clicks find a connection, in any tab, and the answer is seen in the others.
        for opened, name in zip(tabs, PAGES, strict=True):
            if name == "Models":
                opened.page.get_by_role("link", name="seen-by-all").click()
                expect(opened.page.get_by_role("article")).to_contain_text("1 file")
        card = tabs[1].page.get_by_role("article")
        card.get_by_role("button", name="Edit").click()
        tabs[1].page.get_by_role("dialog").get_by_label("Description").fill("told everywhere")
        tabs[1].page.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(tabs[5].page.get_by_role("article")).to_contain_text("told everywhere")


def test_a_service_that_is_away_is_told_in_every_tab(browser: Browser, suite: Suite) -> None:
    with window(browser, suite) as another:
        tabs = [another() for _ in range(3)]
        for opened in tabs:
            opened.show("Loader")
            loaded(opened)
        suite.kill("loader")
        for opened in tabs:
            expect(opened.page.get_by_text("LoaderService is away")).to_be_visible()
        suite.restart("loader")
        for opened in tabs:
            loaded(opened)


def hide(page: Page, hidden: bool) -> None:
    """What a browser does when another tab is put before this one; without a window none ever is."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def streams(page: Page) -> int:
    """How many places for streams are taken, in all tabs together."""
    taken: int = page.evaluate(
        """async () => {
            const {held} = await navigator.locks.query();
            return held.filter(({name}) => name.startsWith("modelkeep.place")).length;
        }"""
    )
    return taken


def test_a_hidden_tab_rests_and_goes_on_when_it_is_seen(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    with window(browser, suite) as another:
        opened = another()
        page = opened.page
        loaded(opened)
        models = page.get_by_role("list", name="Models")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        with page.expect_event("requestfailed", lambda request: request.url.endswith("/WatchModels")):
            hide(page, True)
        assert streams(page) == 0
        client.model_install.register_path(small_lora(folder / "unseen.safetensors", base="sdxl"))
        page.wait_for_timeout(1_000)
        assert asked == []
        hide(page, False)
        expect(models).to_contain_text("unseen")
        # It had not gone away for long enough to be told everything again.
        assert [url for url in asked if url.endswith("/ListModels")] == []

        opened.show("Loader")
        loaded(opened)
        assert streams(page) == OF_LOADER
        hide(page, True)
        page.wait_for_timeout(1_000)
        hide(page, False)
        page.wait_for_timeout(6_000)
        assert streams(page) == OF_LOADER, "a tab that was hidden for a moment rests"
