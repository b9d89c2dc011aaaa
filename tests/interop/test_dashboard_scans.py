"""Scans, syncs and the import of an InvokeAI, begun and followed by clicking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.dashboard import Tab, tab
from support.installs import small_lora
from support.invokeai import InvokeAI
from support.suite import service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def suite(folder: Path) -> Iterator[Suite]:
    services = ("record", "download", "install")
    with service_suite(folder / "data", services=services, gateway_port=0) as started:
        yield started


def names(client: Client) -> set[str]:
    return {model.name for model in client.model_record_store.all_models()}


def scans(opened: Tab) -> Locator:
    """The scans on the page of jobs, the newest first."""
    opened.show("Installs and downloads")
    return opened.page.get_by_role("region", name="Scans")


def begin(page: Page, place: Path | None, *choices: str) -> None:
    """Begin a scan of a folder, or a sync; the page of jobs is shown."""
    page.get_by_role("button", name="Scan for models …").click()
    question = page.get_by_role("dialog")
    if place is None:
        question.get_by_label("The folder of models and those").check()
    else:
        question.get_by_label("Folder", exact=True).fill(str(place))
    for choice in choices:
        question.get_by_label(choice).check()
    question.get_by_role("button", name="Scan", exact=True).click()
    expect(question).to_have_count(0)


def test_a_folder_is_scanned_and_what_was_found_is_shown(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    place = folder / "shelf"
    (place / "deeper").mkdir(parents=True)
    small_lora(place / "charcoal.safetensors")
    (place / "deeper" / "broken.safetensors").write_bytes(b"nothing")
    with tab(browser, suite) as opened:
        page = opened.page
        shown = scans(opened)
        begin(page, place, "Only tell what would be done")
        row = shown.get_by_role("listitem").first
        expect(row).to_contain_text("tells only")
        expect(row).to_contain_text("2 files in 2 folders · 1 new · 1 unknown")
        expect(row).to_contain_text("completed")
        assert "charcoal" not in names(client)

        begin(page, place)
        row = shown.get_by_role("listitem").filter(has_not_text="tells only").filter(has_text="shelf").first
        expect(row).to_contain_text("1 new · 1 unknown")
        expect(row).to_contain_text("completed")
        row.get_by_role("button", name="What it found").click()
        told = page.get_by_role("dialog", name="What the scan found")
        findings = told.get_by_role("list", name="Findings").get_by_role("listitem")
        expect(findings).to_have_count(2)
        assert opened.violations() == []
        opened.picture("dashboard-scan")
        told.get_by_label("Show").select_option("unknown")
        expect(findings).to_have_count(1)
        expect(findings).to_contain_text("invalid model")
        told.get_by_label("Show").select_option("new")
        expect(findings).to_contain_text("charcoal")
        findings.get_by_role("link").click()
        expect(page.get_by_role("article", name="charcoal")).to_be_visible()


def test_a_scan_that_waits_says_why_and_is_cancelled(browser: Browser, suite: Suite, folder: Path) -> None:
    place = folder / "waits"
    place.mkdir()
    small_lora(place / "later.safetensors")
    with tab(browser, suite) as opened:
        page = opened.page
        shown = scans(opened)
        suite.kill("record")
        begin(page, place)
        row = shown.get_by_role("listitem").filter(has_text="waits")
        expect(row).to_contain_text("running")
        expect(row.locator(".reason")).to_contain_text("The record service does not answer")
        row.get_by_role("button", name="Cancel the scan of").click()
        expect(row).to_contain_text("cancelled")
        expect(row.get_by_role("button", name="Cancel")).to_have_count(0)
        suite.restart("record")


def test_a_sync_tells_what_is_gone_and_what_was_moved(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    models = suite.data_dir / "models"
    files = [small_lora(folder / f"{name}.safetensors") for name in ("gone", "stays")]
    keys = [client.model_install.install_path(file) for file in files]
    gone, stays = (models / client.model_record_store.get_model(key).path for key in keys)
    gone.unlink()
    moved = stays.rename(models / "found-again.safetensors")
    with tab(browser, suite) as opened:
        page = opened.page
        shown = scans(opened)
        begin(page, None)
        row = shown.get_by_role("listitem").filter(has_text="The folders of models").first
        expect(row).to_contain_text("1 moved · 2 without files")
        row.get_by_role("button", name="What it found").click()
        told = page.get_by_role("dialog", name="What the scan found")
        told.get_by_label("Show").select_option("moved")
        told.get_by_role("button", name="Give stays this place").click()
        expect(told.get_by_text("stays has its files again.")).to_be_visible()
        expect(told.get_by_role("button", name="Give stays this place")).to_be_disabled()
        told.get_by_role("button", name="Close").click()
        assert moved.name in client.model_record_store.get_model(keys[1]).path

        begin(page, None, "Remove records whose files are gone")
        row = shown.get_by_role("listitem").filter(has_text="removes records without files").first
        expect(row).to_contain_text("1 without files · 1 removed")
        row.get_by_role("button", name="What it found").click()
        told.get_by_label("Show").select_option("orphan")
        orphan = told.get_by_role("listitem").filter(has_text="orphan")
        expect(orphan).to_contain_text("Its record was removed.")
    assert not client.model_record_store.exists(keys[0])


def test_a_folder_that_may_not_be_scanned_is_told_in_the_question(
    browser: Browser, suite: Suite, folder: Path
) -> None:
    with tab(browser, suite) as opened:
        page = opened.page
        scans(opened)
        page.keyboard.press("s")
        question = page.get_by_role("dialog")
        expect(question.get_by_role("button", name="Scan", exact=True)).to_be_disabled()
        question.get_by_label("Folder", exact=True).fill(str(folder / "nowhere"))
        question.get_by_role("button", name="Scan", exact=True).click()
        expect(question.get_by_role("status")).to_contain_text("nowhere")
        assert opened.violations() == []


def test_an_invokeai_is_looked_at_and_imported(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    root = InvokeAI(folder / "invokeai")
    small_lora(root.models / "pastel.safetensors")
    root.add(1, there=False, name="pastel", path="pastel.safetensors")
    with tab(browser, suite) as opened:
        page = opened.page
        scans(opened)
        page.get_by_role("button", name="Import an InvokeAI …").click()
        question = page.get_by_role("dialog")
        expect(question.get_by_role("button", name="Import", exact=True)).to_be_disabled()
        question.get_by_label("Its root folder").fill(str(root.path))
        question.get_by_role("button", name="Look").click()
        expect(question).to_contain_text("Would be imported: 1 new")
        assert "pastel" not in names(client)
        assert opened.violations() == []
        question.get_by_role("button", name="Import", exact=True).click()
        expect(question).to_contain_text(re.compile("Imported: 1 new"))
        question.get_by_role("button", name="Close").first.click()
        opened.show("Models")
        expect(page.get_by_role("list", name="Models")).to_contain_text("pastel")


def test_an_invokeai_that_nobody_waits_for_is_no_error(browser: Browser, suite: Suite, folder: Path) -> None:
    with tab(browser, suite) as opened:
        page = opened.page
        scans(opened)
        page.route("**/ImportInvokeAI", lambda route: None)  # never answered
        page.get_by_role("button", name="Import an InvokeAI …").click()
        question = page.get_by_role("dialog")
        question.get_by_label("Its root folder").fill(str(folder))
        with page.expect_request("**/ImportInvokeAI"):
            question.get_by_role("button", name="Look").click()
        with page.expect_event("requestfailed"):
            question.get_by_role("button", name="Close").first.click()
        expect(question).to_have_count(0)
        page.wait_for_timeout(500)
        assert page.locator(".notice").all_inner_texts() == []
