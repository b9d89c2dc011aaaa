"""The dashboard, by clicking: a real Chromium, a real Envoy, the four real services."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2
from playwright.sync_api import Browser, expect

from modelkeep.client import Client
from modelkeep.loader.v1 import hold_pb2, loader_service_pb2_grpc, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.supervisor import Suite
from support.dashboard import tab
from support.httpserver import HttpServer, Resource, pattern
from support.hub import Hub
from support.installs import small_lora
from support.suite import service_suite

#: How soon the page of health tells what has changed.
SOON_MS = 4_000

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as started:
        yield started


@pytest.fixture(scope="module")
def suite(folder: Path, hub: Hub) -> Iterator[Suite]:
    env = {
        "MODELKEEP_LOADER_ACCELERATOR": "sim:1x64MiB",
        "MODELKEEP_DOWNLOAD_HUB_ENDPOINT": hub.url,
        # A drain that one can look at.
        "MODELKEEP_INSTALL_DRAIN_DELAY_S": "6",
        "MODELKEEP_INSTALL_HUB_MIRRORS": f'["{hub.url[7:]}"]',
    }
    with service_suite(folder / "data", env=env, gateway_port=0) as started:
        yield started


def test_a_model_comes_and_goes_by_clicking(browser: Browser, suite: Suite, folder: Path) -> None:
    source = small_lora(folder / "watercolour.safetensors")
    with tab(browser, suite) as opened:
        page = opened.page
        opened.show("Installs and downloads")
        page.get_by_label("Add a model").fill(str(source))
        page.get_by_role("button", name="Plan …").click()
        plan = page.get_by_role("dialog")
        expect(plan).to_contain_text("lora")
        opened.picture("dashboard-plan")
        plan.get_by_role("button", name="Install", exact=True).click()
        row = page.get_by_role("listitem").filter(has_text="watercolour")
        expect(row).to_contain_text("completed")

        row.get_by_role("link", name="watercolour").click()
        card = page.get_by_role("article", name="watercolour")
        expect(card).to_contain_text("1 file")
        card.get_by_role("button", name="Show why").click()
        expect(card).to_contain_text("type=lora")
        card.get_by_role("button", name="Edit").click()
        page.get_by_role("dialog").get_by_label("Description").fill("Washes of colour")
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(card).to_contain_text("Washes of colour")

        card.get_by_role("button", name="Remove …").click()
        question = page.get_by_role("dialog")
        expect(question).to_contain_text("No file would be deleted.")
        question.get_by_label("wherever they were installed from").check()
        expect(question).to_contain_text("1 file would be deleted")
        expect(question).to_contain_text(str(source))
        opened.picture("dashboard-remove")
        question.get_by_label("keep every file").check()
        expect(question).to_contain_text("No file would be deleted.")
        question.get_by_role("button", name="Remove").click()
        expect(page.get_by_role("list", name="Models").get_by_text("watercolour")).to_have_count(0)
    assert source.exists()


def test_a_repository_is_planned_and_asks_for_its_token(
    browser: Browser, suite: Suite, hub: Hub, folder: Path
) -> None:
    lora = small_lora(folder / "inkpaper.safetensors").read_bytes()
    card = b"---\nlicense: openrail++\n---\n# Ink\n"
    hub.repository("org/inkpaper", {"README.md": card, "ink.safetensors": lora}, gated="manual").grant(
        "alice"
    )
    with tab(browser, suite) as opened:
        page = opened.page
        opened.show("Installs and downloads")
        page.get_by_label("Add a model").fill("org/inkpaper")
        page.get_by_role("button", name="Plan …").click()
        plan = page.get_by_role("dialog")
        expect(plan).to_contain_text("token")
        expect(plan.locator(".banner.warn")).to_be_visible()
        plan.get_by_label("Access token").fill(hub.token("alice"))
        expect(plan).to_contain_text("openrail++")
        expect(plan.locator(".banner.warn")).to_have_count(0)
        expect(plan).to_contain_text(re.compile(r"[\d.]+ MiB in 1 file"))
        plan.get_by_role("button", name="Install", exact=True).click()
        row = page.get_by_role("listitem").filter(has_text="org/inkpaper")
        expect(row).to_contain_text("completed")


def test_an_install_is_seen_to_move_and_is_steered(browser: Browser, suite: Suite) -> None:
    body = pattern(4 << 20)
    with HttpServer() as server, tab(browser, suite) as opened:
        server.put("/slow.safetensors", Resource(body, rate=256 << 10))
        page = opened.page
        opened.show("Installs and downloads")
        page.get_by_label("Add a model").fill(server.url("/slow.safetensors"))
        page.keyboard.press("Enter")
        plan = page.get_by_role("dialog")
        expect(plan).to_contain_text("tells nothing before it is fetched")
        plan.get_by_role("button", name="Install", exact=True).click()

        row = page.get_by_role("listitem").filter(has_text="slow.safetensors")
        expect(row).to_contain_text(re.compile(r"[\d.]+ KiB/s · \d+ s left"))
        expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile(r"[1-9]\d?"))
        row.get_by_label("Priority of").select_option("first")
        expect(row.get_by_label("Priority of")).to_have_value("1")
        row.get_by_role("button", name="Pause").click()
        expect(row).to_contain_text("paused")
        row.get_by_role("button", name="Resume").click()
        expect(row).to_contain_text("downloading")
        row.get_by_role("button", name="Cancel").click()
        expect(row).to_contain_text("cancelled")
        row.get_by_role("button", name="Forget").click()
        expect(row).to_have_count(0)


def test_a_page_goes_on_when_its_service_was_killed(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    client.model_install.register_path(small_lora(folder / "before.safetensors"))
    with tab(browser, suite) as opened:
        page = opened.page
        models = page.get_by_role("list", name="Models")
        expect(models).to_contain_text("before")
        page.evaluate("window.same = true")
        suite.kill("record")
        expect(page.get_by_text("RecordService is away")).to_be_visible()
        expect(models).to_contain_text("before")
        suite.restart("record")
        expect(page.get_by_text("RecordService is away")).to_have_count(0)
        client.model_install.register_path(small_lora(folder / "after.safetensors", base="sdxl"))
        expect(models).to_contain_text("after")
        assert page.evaluate("window.same"), "the page was loaded anew"


@contextlib.contextmanager
def lease(suite: Suite, key: str, submodel: taxonomy_pb2.SubModelType, *, label: str) -> Iterator[None]:
    """A lease on a component, until the test is over or somebody revokes it."""
    with grpc.insecure_channel(suite.addresses["loader"]) as channel:
        component = resident_pb2.ComponentRef(key=key, submodel=submodel, device="cpu")
        request = hold_pb2.AcquireLeaseRequest(
            components=[component],
            label=label,
            delivery=hold_pb2.DELIVERY_NONE,
            ttl=duration_pb2.Duration(seconds=3600),
        )
        loader_service_pb2_grpc.LoaderServiceStub(channel).AcquireLease(request)
        yield


def test_the_loader_shows_what_it_holds_and_is_steered(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    # Imported here: importing torch takes seconds.
    from support import tinymodels

    key = client.model_install.register_path(tinymodels.save_pipeline(folder / "tiny-sd"))
    # An object: what has weights would have the loader's helper import torch first, which takes its time.
    with (
        lease(suite, key, taxonomy_pb2.SUB_MODEL_TYPE_TOKENIZER, label="painter"),
        tab(browser, suite) as opened,
    ):
        page = opened.page
        opened.show("Loader")
        expect(page.get_by_role("img", name=re.compile("^RAM: tiny-sd.tokenizer"))).to_be_visible()
        expect(page.get_by_role("region", name="Leases")).to_contain_text("painter")
        component = page.get_by_role("region", name="Components").get_by_role("listitem")
        expect(component).to_contain_text("1 lease")
        expect(component.get_by_role("button", name="Evict")).to_be_disabled()
        component.get_by_role("button", name="Pin").click()
        expect(component).to_contain_text("pinned")
        component.get_by_role("button", name="Unpin").click()
        expect(component.get_by_text("pinned")).to_have_count(0)
        leases = page.get_by_role("region", name="Leases")
        leases.get_by_role("button", name="Revoke").click()
        question = page.get_by_role("dialog")
        question.get_by_label("at once").check()
        question.get_by_role("button", name="Revoke", exact=True).click()
        expect(leases).to_contain_text("Nobody holds anything.")
        component.get_by_role("button", name="Evict").click()
        expect(page.get_by_text("Nothing is held.")).to_be_visible()


def test_health_tells_of_each_service(browser: Browser, suite: Suite) -> None:
    with tab(browser, suite) as opened:
        opened.show("Health")
        for name in ("RecordService", "DownloadService", "InstallService", "LoaderService"):
            card = opened.page.get_by_role("region", name=name)
            expect(card).to_contain_text("serving")
            expect(card).to_contain_text("Version")
        suite.kill("download")
        card = opened.page.get_by_role("region", name="DownloadService")
        expect(card).to_contain_text("away")
        suite.restart("download")
        expect(card).to_contain_text("serving")


def test_a_service_that_is_drained_is_told_of_at_once(browser: Browser, suite: Suite, client: Client) -> None:
    with tab(browser, suite) as opened:
        opened.show("Health")
        card = opened.page.get_by_role("region", name="InstallService")
        expect(card).to_contain_text("serving")
        os.kill(suite.pids["install"], signal.SIGTERM)
        expect(card.get_by_text("not serving", exact=True)).to_be_visible(timeout=SOON_MS)
        expect(card).to_contain_text("It takes nothing new")
        expect(card.get_by_text("away", exact=True)).to_be_visible()
        suite.kill("install")
        suite.restart("install")
        expect(card.get_by_text("serving", exact=True)).to_be_visible()

        card = opened.page.get_by_role("region", name="LoaderService")
        expect(card.get_by_text("serving", exact=True)).to_be_visible()
        assert [left.lease_count for left in client.model_loader.drain(why="a new card")] == [0]
        expect(card.get_by_text("out of service", exact=True)).to_be_visible(timeout=SOON_MS)
        expect(card).to_contain_text("It gives no new leases. a new card")
        assert opened.violations() == []
        client.model_loader.undrain()
        expect(card.get_by_text("serving", exact=True)).to_be_visible(timeout=SOON_MS)


def test_without_a_token_one_looks_and_changes_nothing(browser: Browser, suite: Suite) -> None:
    with tab(browser, suite, token=None) as opened:
        page = opened.page
        expect(page.get_by_text("view only")).to_be_visible()
        opened.show("Installs and downloads")
        page.get_by_label("Add a model").fill("/models/x.safetensors")
        expect(page.get_by_role("button", name="Plan …")).to_be_disabled()


def test_the_token_leaves_the_address_and_stays_in_the_tab(browser: Browser, suite: Suite) -> None:
    with tab(browser, suite) as opened:
        page = opened.page
        expect(page.get_by_role("heading", name="Models")).to_be_visible()
        assert "token" not in page.url
        page.reload()
        expect(page.get_by_text("view only")).to_have_count(0)
        assert page.evaluate("localStorage.length") == 0


def test_keys_do_what_the_list_of_keys_says(browser: Browser, suite: Suite) -> None:
    with tab(browser, suite) as opened:
        page = opened.page
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Search models")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.keyboard.press("2")
        expect(page.get_by_role("heading", name="Installs and downloads")).to_be_visible()
        page.keyboard.press("a")
        expect(page.get_by_label("Add a model")).to_be_focused()
        page.keyboard.press("Escape")
        page.get_by_role("heading", name="Installs and downloads").click()
        page.keyboard.press("1")
        expect(page.get_by_role("heading", name="Models")).to_be_visible()
        page.keyboard.press("/")
        expect(page.get_by_role("searchbox", name="Search models")).to_be_focused()
