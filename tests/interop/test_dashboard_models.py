"""What one changes of a model on its card, by clicking: its picture, its labels, where it lies."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, expect

from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.dashboard import tab
from support.installs import small_lora
from support.pictures import png
from support.suite import service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def suite(folder: Path) -> Iterator[Suite]:
    services = ("record", "download", "install")
    with service_suite(folder / "data", services=services, gateway_port=0) as started:
        yield started


def picture_file(data: bytes) -> FilePayload:
    return {"name": "picture.png", "mimeType": "image/png", "buffer": data}


def test_a_picture_is_set_shown_changed_and_removed(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    key = client.model_install.register_path(small_lora(folder / "pictured.safetensors"))
    with tab(browser, suite) as opened:
        page = opened.page
        row = page.get_by_role("list", name="Models").get_by_role("link", name="pictured")
        expect(row).to_be_visible()
        assert row.locator(".cover").count() == 0, "a place is left though no model has a picture"
        row.click()
        card = page.get_by_role("article", name="pictured")
        with page.expect_file_chooser() as chooser:
            card.get_by_role("button", name="Add a picture …").click()
        chooser.value.set_files(picture_file(png(200)))
        shown = card.get_by_role("img", name="Picture of pictured")
        expect(shown).to_be_visible()
        assert client.model_record_store.get_cover_image(key) == png(200)
        small = row.locator(".cover img")
        expect(small).to_be_visible()
        assert small.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [96, 96]
        before = shown.get_attribute("src")

        with page.expect_file_chooser() as chooser:
            card.get_by_role("button", name="Another picture …").click()
        chooser.value.set_files(picture_file(png(20)))
        expect(shown).not_to_have_attribute("src", str(before))
        expect(shown).to_be_visible()
        assert client.model_record_store.get_cover_image(key) == png(20)
        assert opened.violations() == []

        card.get_by_role("button", name="Remove picture").click()
        expect(shown).to_have_count(0)
        expect(row.locator(".cover")).to_have_count(0)
        expect(card.get_by_role("button", name="Add a picture …")).to_be_visible()


def noise(side: int) -> bytes:
    """A picture of more than a mebibyte: pixels that no PNG makes smaller."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    state, rows = 1, bytearray()
    for _ in range(side):
        rows.append(0)
        for _ in range(side * 3 // 2):
            state = (state * 1103515245 + 12345) % (1 << 31)
            rows += (state >> 8).to_bytes(3, "little")[:2]
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(rows), 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_picture_that_is_too_large_is_made_smaller(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    large = noise(1100)
    assert len(large) > 1 << 20
    key = client.model_install.register_path(small_lora(folder / "large.safetensors"))
    with tab(browser, suite) as opened:
        page = opened.page
        page.get_by_role("list", name="Models").get_by_role("link", name="large").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Add a picture …").click()
        chooser.value.set_files(picture_file(large))
        shown = page.get_by_role("img", name="Picture of large")
        expect(shown).to_be_visible()
        kept = client.model_record_store.get_cover_image(key)
        assert kept[8:12] == b"WEBP"
        assert len(kept) <= 1 << 20
        assert shown.evaluate("(image) => image.naturalWidth") == 1024


def test_what_is_no_picture_is_refused_in_words(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    client.model_install.register_path(small_lora(folder / "plain.safetensors"))
    with tab(browser, suite) as opened:
        page = opened.page
        page.get_by_role("list", name="Models").get_by_role("link", name="plain").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Add a picture …").click()
        chooser.value.set_files(picture_file(b"<svg/>"))
        expect(page.get_by_role("status").filter(has_text=re.compile("PNG|picture"))).to_be_visible()
        expect(page.get_by_role("button", name="Add a picture …")).to_be_enabled()


def test_labels_are_changed_and_those_of_the_suite_stay(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    place = folder / "scanned"
    place.mkdir()
    small_lora(place / "labelled.safetensors")
    scan = client.model_install.scan(place, labels={"shelf": "7"})
    client.model_install.wait_for_scan(scan.id)
    with tab(browser, suite) as opened:
        page = opened.page
        page.get_by_role("list", name="Models").get_by_role("link", name="labelled").click()
        card = page.get_by_role("article", name="labelled")
        expect(card).to_contain_text("modelkeep.dev/scan=")
        card.get_by_role("button", name="Edit").click()
        form = page.get_by_role("dialog")
        expect(form.get_by_label("Labels")).to_have_value("shelf=7")
        form.get_by_label("Labels").fill("shelf=8\nof=a=b")
        form.get_by_label("Tags").fill("blue\nsoft")
        form.get_by_role("button", name="Save").click()
        expect(card).to_contain_text("shelf=8")
        expect(card).to_contain_text("of=a=b")
        expect(card).to_contain_text("modelkeep.dev/scan=")
        expect(card.locator(".tags")).to_contain_text("soft")


def test_a_model_that_was_moved_is_given_its_new_place(
    browser: Browser, suite: Suite, client: Client, folder: Path
) -> None:
    before = small_lora(folder / "moved.safetensors")
    key = client.model_install.register_path(before)
    after = before.rename(folder / "elsewhere.safetensors")
    with tab(browser, suite) as opened:
        page = opened.page
        page.get_by_role("list", name="Models").get_by_role("link", name="moved").click()
        card = page.get_by_role("article", name="moved")
        card.get_by_role("button", name="Check files").click()
        expect(card).to_contain_text("Its files are not where they were")
        card.get_by_role("button", name="They are elsewhere …").click()
        question = page.get_by_role("dialog")
        expect(question).to_contain_text(str(before))
        question.get_by_label("Place").fill(str(folder / "nothing.safetensors"))
        question.get_by_role("button", name="Relink").click()
        expect(question.get_by_role("status").get_by_text("nothing.safetensors")).to_be_visible()
        assert opened.violations() == []
        question.get_by_label("Place").fill(str(after))
        question.get_by_role("button", name="Relink").click()
        expect(card.get_by_text("Its files are not where they were")).to_have_count(0)
        expect(card).to_contain_text("elsewhere.safetensors")
    assert client.model_record_store.get_model(key).path == str(after)
