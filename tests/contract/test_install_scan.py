"""ScanDirectory: what is new in a folder is registered, once; what is known is left alone; all is told."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_service_pb2 as install_pb
from modelkeep.install.v1 import scan_pb2 as pb
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from support.failures import refused
from support.installs import InstallClient, for_the_owner, install_service, small_lora
from support.modelshapes import write_pipeline, write_safetensors, write_vae_folder
from support.scans import (
    COMPLETED,
    KNOWN,
    MOVED,
    NEW,
    UNKNOWN,
    UNREADABLE,
    begin_scan,
    ended_scan,
    findings,
    found,
    scan,
)


def lora(path: Path, number: int = 0) -> Path:
    """A LoRA whose content differs from that of other numbers."""
    return small_lora(path, metadata={"number": str(number)})


async def test_what_is_new_is_registered_where_it_lies_and_known_from_then_on(
    service: InstallClient, source: Path
) -> None:
    lora(source / "loras/a.safetensors", 1)
    lora(source / "loras/b.safetensors", 2)
    write_vae_folder(source / "vae")
    write_pipeline(source / "main", "sd-1")
    (source / "loras/a.civitai.info").write_text("{}")
    (source / "loras/a.preview.png").write_bytes(b"png")
    (source / "notes.txt").write_text("not a model")
    first = await scan(service, source, labels={"from": "test"})
    assert await found(service, first, source) == {
        "loras/a.safetensors": NEW,
        "loras/b.safetensors": NEW,
        "vae": NEW,
        "main": NEW,
    }
    told = await findings(service, first)
    assert sorted(first.registered_keys) == sorted(one.key for one in told)
    for one in told:
        model = await service.model(one.key)
        assert model.path == one.path
        assert dict(model.labels) == {"from": "test", "modelkeep.dev/scan": str(first.id)}
    assert (first.counts.new_count, first.counts.folder_count) == (4, 4)
    assert first.ended
    assert first.HasField("end_time")
    # what was registered is in the records; the installs tell nothing more
    assert not (await service.stub.ListInstalls(install_pb.ListInstallsRequest())).installs
    again = await scan(service, source)
    assert set((await found(service, again, source)).values()) == {KNOWN}
    assert {(one.path, one.key) for one in await findings(service, again)} == {
        (one.path, one.key) for one in told
    }
    assert (again.counts.known_count, again.counts.new_count, list(again.registered_keys)) == (4, 0, [])
    assert await service.models_count() == 4


async def test_what_other_ways_registered_is_known_also_by_links_and_what_was_touched(
    service: InstallClient, source: Path
) -> None:
    job = await service.install(lora(source / "a.safetensors"))
    os.link(source / "a.safetensors", source / "hard.safetensors")
    os.symlink("a.safetensors", source / "soft.safetensors")
    (source / "deep").mkdir()
    os.symlink(source, source / "deep" / "loop")
    vae = await service.install(write_vae_folder(source / "vae"))
    os.symlink("vae", source / "vae-link")
    os.utime(source / "vae" / "config.json")  # touched, and the same
    done = await scan(service, source)
    assert await found(service, done, source) == {
        "a.safetensors": KNOWN,
        "hard.safetensors": KNOWN,
        "soft.safetensors": KNOWN,
        "vae": KNOWN,
    }
    assert {one.key for one in await findings(service, done)} == {job.model_key, vae.model_key}
    assert await service.models_count() == 2


async def test_install_copies_what_is_new_into_models_dir_and_knows_the_copies(
    service: InstallClient, source: Path
) -> None:
    here = await service.install(lora(source / "here.safetensors", 1))
    lora(source / "new.safetensors", 2)
    done = await scan(service, source, install=True)
    assert await found(service, done, source) == {"here.safetensors": KNOWN, "new.safetensors": NEW}
    [key] = done.registered_keys
    model = await service.model(key)
    assert (model.path, model.root_id != "") == (f"{key}/new.safetensors", True)
    assert here.model_key != key
    again = await scan(service, source, install=True)
    assert set((await found(service, again, source)).values()) == {KNOWN}
    assert not service.litter()


async def test_validate_only_tells_everything_and_changes_nothing(
    service: InstallClient, source: Path
) -> None:
    lora(source / "new.safetensors", 1)
    os.link(source / "new.safetensors", source / "twin.safetensors")
    job = await service.install(lora(source / "known.safetensors", 2))
    (source / "broken.safetensors").write_bytes(b"no header")
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    done = await scan(service, source, validate_only=True)
    assert await found(service, done, source) == {
        "new.safetensors": NEW,
        "known.safetensors": KNOWN,
        "broken.safetensors": UNKNOWN,
    }
    told = {Path(one.path).name: one for one in await findings(service, done)}
    assert told["new.safetensors"].key == ""
    assert told["known.safetensors"].key == job.model_key
    assert told["broken.safetensors"].error.reason == "INVALID_MODEL"
    assert not done.registered_keys
    assert await service.models_count() == 1
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    assert [
        install.id for install in (await service.stub.ListInstalls(install_pb.ListInstallsRequest())).installs
    ] == [job.id]


async def test_what_cannot_be_a_model_is_told_with_its_reason(service: InstallClient, source: Path) -> None:
    lora(source / "good.safetensors")
    (source / "pickle.ckpt").write_bytes(b"\x80\x04}q\x00.")
    (source / "empty.safetensors").touch()
    (source / "page.safetensors").write_text("<!DOCTYPE html><html>login</html>")
    (source / "huge.safetensors").write_bytes((90 << 20).to_bytes(8, "little") + b"{")
    write_safetensors(source / "strange.safetensors", {"who.knows": [2, 2]})
    os.mkfifo(source / "pipe.safetensors")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(source, os.O_PATH)
        listening.bind(f"/proc/self/fd/{here}/socket.gguf")
        os.close(here)
    os.symlink("nothing.safetensors", source / "broken.safetensors")
    os.symlink("/usr", source / "outside")
    os.symlink("/etc/hostname", source / "outside.safetensors")
    os.symlink("loop.safetensors", source / "loop.safetensors")
    lora(source / os.fsdecode(b"latin-\xe9.safetensors"), 1)
    lora(source / "line\nbreak ünïcödé 模型.safetensors", 2)
    done = await scan(service, source)
    told = {Path(one.path).name: one for one in await findings(service, done)}
    reasons = {name: (one.kind, one.error.reason) for name, one in told.items()}
    assert reasons == {
        "good.safetensors": (NEW, ""),
        "line\nbreak ünïcödé 模型.safetensors": (NEW, ""),
        "pickle.ckpt": (UNKNOWN, "UNSAFE_FORMAT"),
        "empty.safetensors": (UNKNOWN, "INVALID_MODEL"),
        "page.safetensors": (UNKNOWN, "INVALID_MODEL"),
        "huge.safetensors": (UNKNOWN, "INVALID_MODEL"),
        "strange.safetensors": (UNKNOWN, "INVALID_MODEL"),
        "pipe.safetensors": (UNKNOWN, "INVALID_MODEL"),
        "socket.gguf": (UNKNOWN, "INVALID_MODEL"),
        "latin-\\xe9.safetensors": (UNKNOWN, "INVALID_MODEL"),
        "broken.safetensors": (UNREADABLE, "SOURCE_NOT_FOUND"),
        "outside": (UNREADABLE, "FORBIDDEN_PATH"),
        "outside.safetensors": (UNREADABLE, "FORBIDDEN_PATH"),
        "loop.safetensors": (UNKNOWN, "INVALID_MODEL"),
    }
    counts = done.counts
    assert (counts.new_count, counts.unknown_count, counts.unreadable_count) == (2, 9, 3)
    for one in told.values():
        assert one.kind == NEW or (one.error.message and one.error.metadata["remedy"])


async def test_a_missing_models_content_that_turns_up_is_told_and_not_registered(
    service: InstallClient, source: Path
) -> None:
    job = await service.install(lora(source / "old.safetensors"))
    (source / "moved").mkdir()
    os.rename(source / "old.safetensors", source / "moved" / "new.safetensors")
    done = await scan(service, source)
    [one] = await findings(service, done)
    assert (one.kind, one.key, list(one.missing_content_keys)) == (MOVED, "", [job.model_key])
    assert await service.models_count() == 1


async def test_equal_content_is_registered_and_told(service: InstallClient, source: Path) -> None:
    job = await service.install(lora(source / "a.safetensors"))
    lora(source / "b.safetensors")
    done = await scan(service, source)
    told = {Path(one.path).name: one for one in await findings(service, done)}
    assert told["b.safetensors"].kind == NEW
    assert list(told["b.safetensors"].same_content_keys) == [job.model_key]


async def test_a_file_that_was_replaced_at_a_registered_path_is_told(
    service: InstallClient, source: Path
) -> None:
    job = await service.install(lora(source / "a.safetensors", 1))
    await scan(service, source)
    lora(source / "a.safetensors", 22)
    done = await scan(service, source)
    [one] = await findings(service, done)
    assert (one.kind, one.error.reason) == (UNKNOWN, "DUPLICATE_PATH")
    assert one.error.metadata["key"] == job.model_key


async def test_a_scan_of_the_owner_passes_by_the_suites_own_folder(data_dir: Path) -> None:
    top = data_dir.parent
    lora(top / "mine" / "a.safetensors", 1)
    lora(data_dir / "install" / "b.safetensors", 2)
    async with install_service(data_dir, **for_the_owner(data_dir)) as service:
        done = await scan(service, top)
        assert await found(service, done, top) == {"mine/a.safetensors": NEW, data_dir.name: UNREADABLE}
        [one] = await findings(service, done, UNREADABLE)
        assert one.error.reason == "FORBIDDEN_PATH"


async def test_two_scans_of_one_folder_at_once_beside_installs_make_each_model_once(
    service: InstallClient, source: Path
) -> None:
    for number in range(12):
        lora(source / f"{number}.safetensors", number)
    jobs = [await service.submit(source / f"{number}.safetensors") for number in range(3)]
    begun = [await begin_scan(service, source) for _ in range(3)]
    done = [await ended_scan(service, one) for one in begun]
    for job in jobs:
        await service.ended(job)
    assert [one.state for one in done] == [COMPLETED] * 3
    assert await service.models_count() == 12
    for one in done:
        told = await findings(service, one)
        assert {finding.kind for finding in told} <= {NEW, KNOWN}
        assert len({finding.key for finding in told}) == 12
    new = [key for one in done for key in one.registered_keys]
    assert len(new) == len(set(new)) >= 9


async def test_a_scan_while_models_are_uninstalled_brings_none_back(
    service: InstallClient, source: Path
) -> None:
    jobs = [
        await service.install(lora(source / f"{number}.safetensors", number), inplace=False)
        for number in range(6)
    ]

    async def uninstall(key: str) -> None:
        await service.stub.UninstallModel(
            install_pb.UninstallModelRequest(key=key, files=install_pb.UNINSTALL_FILES_OWNED)
        )

    going = [asyncio.create_task(uninstall(job.model_key)) for job in jobs]
    begun = [await begin_scan(service, service.models) for _ in range(3)]
    await asyncio.gather(*going)
    for one in begun:
        assert (await ended_scan(service, one)).state == COMPLETED
    assert await service.models_count() == 0
    assert not service.litter()


async def test_a_scan_leaves_out_hidden_names_caches_and_what_is_staged(
    service: InstallClient, source: Path
) -> None:
    for number, path in enumerate(
        (
            ".hidden.safetensors",
            ".git/a.safetensors",
            "models--a--b/snapshots/c/a.safetensors",
            "tagged/a.safetensors",
        )
    ):
        lora(source / path, number)
    (source / "tagged/CACHEDIR.TAG").touch()
    lora(service.models / ".staging" / "99" / "a.safetensors", 9)
    os.symlink(service.models / ".staging", source / "staged")
    done = await scan(service, source)
    assert await found(service, done, source) == {"staged": UNREADABLE}
    assert not await findings(service, await scan(service, service.models))


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/etc", "FORBIDDEN_PATH"), ("nothing", "SOURCE_NOT_FOUND"), ("a.safetensors", "FIELD_INVALID")],
)
async def test_a_folder_that_cannot_be_scanned_is_refused(
    service: InstallClient, source: Path, path: str, reason: str
) -> None:
    lora(source / "a.safetensors")
    with refused(reason):
        await service.stub.ScanDirectory(pb.ScanDirectoryRequest(path=str(source / path)))


async def test_unknown_scans_and_ended_ones_are_refused(service: InstallClient, source: Path) -> None:
    for method, request in (
        ("GetScan", pb.GetScanRequest(id=9)),
        ("WaitScan", pb.WaitScanRequest(id=9)),
        ("CancelScan", pb.CancelScanRequest(id=9)),
        ("ListScanFindings", pb.ListScanFindingsRequest(id=9)),
    ):
        with refused("UNKNOWN_JOB"):
            await getattr(service.stub, method)(request)
    done = await scan(service, source)
    with refused("WRONG_STATE"):
        await service.stub.CancelScan(pb.CancelScanRequest(id=done.id))


async def test_a_call_that_is_repeated_makes_one_scan_and_pages_cover_all(
    service: InstallClient, source: Path
) -> None:
    for number in range(5):
        lora(source / f"{number}.safetensors", number)
    request = pb.ScanDirectoryRequest(path=str(source), request_id="6f0e0a52-3c8e-4c40-9f43-6a3c0f7b7a01")
    first, second = [(await service.stub.ScanDirectory(request)).scan.id for _ in range(2)]
    assert first == second
    done = await ended_scan(service, first)
    for _ in range(2):
        await scan(service, source)
    seen, token = [], ""
    while True:
        page = await service.stub.ListScans(pb.ListScansRequest(page_size=2, page_token=token))
        seen += [one.id for one in page.scans if not one.at_start]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 3
    paths, token = [], ""
    while True:
        answer = await service.stub.ListScanFindings(
            pb.ListScanFindingsRequest(
                id=done.id, page_size=2, page_token=token, kinds=["SCAN_FINDING_KIND_NEW"]
            )
        )
        paths += [one.path for one in answer.findings]
        token = answer.next_page_token
        if not token:
            break
    assert paths == sorted(paths)
    assert len(paths) == 5
    with refused("PAGE_TOKEN_MISMATCH"):
        await service.stub.ListScanFindings(pb.ListScanFindingsRequest(id=done.id + 1, page_token="x"))


async def test_a_record_that_says_that_a_folder_is_a_model_keeps_its_files_from_being_models(
    service: InstallClient, source: Path
) -> None:
    folder = source / "odd"
    lora(folder / "part-one.safetensors", 1)
    lora(folder / "part-two.safetensors", 2)
    key = "ab" * 16
    model = model_pb2.Model(
        key=key,
        path=str(folder),
        type=taxonomy_pb2.MODEL_TYPE_LORA,
        format=taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
        name="odd",
        base="sd-1",
    )
    await service.records.CreateModel(record_pb.CreateModelRequest(model=model))
    done = await scan(service, source)
    assert set((await found(service, done, source)).values()) <= {KNOWN, UNKNOWN}
    assert [Path(one.path).name for one in await findings(service, done)] == ["odd"]
