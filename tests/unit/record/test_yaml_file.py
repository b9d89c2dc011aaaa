"""A YAML file of records: what a program writes, and what a person changes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    DuplicatePathException,
    FieldInvalidException,
    ServerBusyException,
)
from modelkeep.locks import take_lock
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep_common.at_once import run_at_once
from modelkeep_common.wire import to_timestamp
from modelkeep_record.domain import rules
from modelkeep_record.stores.yaml import (
    ChangedMeanwhileError,
    file,
)
from modelkeep_record.stores.yaml.state import Change
from support.records import vae
from support.smalldisk import PowerDisk, has_loop
from support.yamlfile import MINE, add, by_name, create, opened, update


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


def test_a_new_file_is_private_and_what_is_written_is_there_for_the_next(path: Path) -> None:
    records = opened(path)
    assert path.stat().st_mode & 0o777 == 0o600
    model = create(records, vae("one"))
    assert by_name(opened(path).state) == {"one": model}
    assert [left.name for left in path.parent.iterdir() if left.suffix == ".tmp"] == []


def test_mode_and_link_of_a_file_stay(path: Path, tmp_path: Path) -> None:
    create(opened(path), vae("one"))
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    create(opened(link), vae("two"))
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert set(by_name(opened(path).state)) == {"one", "two"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_stays_that_of_the_user_who_edits_it(path: Path) -> None:
    records = opened(path)
    os.chown(path, 1234, 5678)
    create(records, vae("one"))
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 5678, 0o600)


def test_only_the_changed_entry_is_written_anew(path: Path) -> None:
    records = opened(path)
    create(records, vae("one"))
    add(path, MINE)
    records.read()
    create(records, vae("three"))
    before = path.read_text()
    key = by_name(records.state)["three"].key
    update(records, model_pb2.Model(key=key, name="renamed"))
    lines, now = before.splitlines(), path.read_text().splitlines()
    changed = [(old, new) for old, new in zip(lines, now, strict=True) if old != new]
    assert [old.split(":")[0].strip() for old, _ in changed] == [
        "revision",
        "size_bytes",
        "name",
        "update_time",
        "revision",
    ]


def test_comments_stay_when_their_entry_changes_or_goes(path: Path) -> None:
    records = opened(path)
    add(path, MINE)
    mine = by_name(records.read())["mine"]
    update(records, model_pb2.Model(key=mine.key, description="changed"))
    assert "# --- mine ---\nmy-vae:\n  name: mine  # by hand\n" in path.read_text()
    with records.transaction() as transaction:
        run_at_once(rules.delete(transaction, mine.key, "", time.time()))
    assert "my-vae" not in path.read_text()
    assert "# --- mine ---\n" in path.read_text()


def test_a_hand_edit_becomes_changes_with_revisions_of_their_own(path: Path) -> None:
    changes: list[Change] = []
    records = opened(path, changes)
    one, two = create(records, vae("one")), create(records, vae("two"))
    changes.clear()
    text = path.read_text().replace("name: one", "name: other  # better")
    path.write_text(text[: text.index(two.key)] + MINE)
    state = records.read()
    assert set(by_name(state)) == {"other", "mine"}
    assert [(change.revision, change.message is None) for change in changes] == [
        (3, True),
        (4, False),
        (5, False),
    ]
    assert changes[0].key == two.key
    other = by_name(state)["other"]
    assert other.key == one.key
    assert (other.revision, other.create_time) == (4, one.create_time)
    assert other.etag != one.etag
    assert other.update_time == to_timestamp(path.stat().st_mtime_ns / 1e9)
    assert by_name(state)["mine"].create_time == other.update_time
    # What was noticed is written with the next change, and then known to whoever comes later.
    create(records, vae("three"))
    assert by_name(opened(path).state) == by_name(records.state)


def test_a_new_comment_or_another_form_is_no_change(path: Path) -> None:
    changes: list[Change] = []
    records = opened(path, changes)
    one = create(records, vae("one"))
    changes.clear()
    path.write_text(path.read_text().replace("name: one", "# why\n  name: 'one'"))
    assert by_name(records.read()) == {"one": one}
    assert changes == []
    update(records, model_pb2.Model(key=one.key, description="d"))
    assert "# why\n  name: 'one'\n" in path.read_text()


def test_an_entry_whose_path_a_person_changed_is_not_missing_any_more(path: Path) -> None:
    records = opened(path)
    one = create(records, vae("one"))
    with records.transaction() as transaction:
        run_at_once(rules.mark(transaction, one.key, True, None, time.time()))
    assert by_name(records.state)["one"].HasField("missing_time")
    path.write_text(path.read_text().replace("path: /models/one", "path: /models/found"))
    assert not by_name(records.read())["one"].HasField("missing_time")


def test_what_an_editor_is_still_writing_is_not_taken(path: Path) -> None:
    changes: list[Change] = []
    records = opened(path, changes)
    create(records, vae("one"))
    create(records, vae("two"))
    changes.clear()
    whole = path.read_text() + MINE
    cut = whole.index(by_name(records.state)["two"].key)  # so far it is a file without the second record
    with open(path, "w") as editor:
        for end in range(cut, len(whole), 40):
            editor.seek(0)
            editor.write(whole[:end])
            editor.flush()
            records.look()
            assert changes == []
            time.sleep(file.QUIET_S / 10)
        editor.seek(0)
        editor.write(whole)
    records.read()
    assert [change.message is None for change in changes] == [False]


def test_a_hand_edit_at_the_moment_of_a_change_is_not_written_over(path: Path) -> None:
    records = opened(path)
    create(records, vae("one"))

    def change() -> None:
        with records.transaction() as transaction:
            run_at_once(rules.create(transaction, vae("two"), [], time.time()))
            add(path, MINE)

    with pytest.raises(ChangedMeanwhileError):
        change()
    assert set(by_name(records.read())) == {"one", "mine"}


def test_a_unit_that_fails_leaves_no_trace_and_its_neighbours_alone(path: Path) -> None:
    changes: list[Change] = []
    records = opened(path, changes)
    with records.transaction() as transaction:
        for name in ("one", "bad", "two"):
            try:
                with transaction.unit():
                    run_at_once(rules.create(transaction, vae(name, path=f"/{name[0]}"), [], time.time()))
                    if name == "bad":
                        run_at_once(rules.create(transaction, vae("x", path="/o"), [], time.time()))
            except DuplicatePathException:
                assert name == "bad"
    assert set(by_name(opened(path).state)) == {"one", "two"}
    assert [change.revision for change in changes] == [1, 2]


def test_a_record_that_no_entry_can_say_is_refused(path: Path) -> None:
    records = opened(path)
    model = vae("one", key="a" * 32)
    model.unknown.raw_json = "{}"  # settings of another type than the record's
    with (
        records.transaction() as transaction,
        pytest.raises(FieldInvalidException, match="has its config in"),
    ):
        run_at_once(transaction.put(model, []))
    assert opened(path).state.entries == {}


def test_two_that_have_it_open_see_each_other_and_number_alike(path: Path) -> None:
    changes: list[list[Change]] = [[], []]
    one, two = opened(path, changes[0]), opened(path, changes[1])
    kept = create(one, vae("one"))
    gone = create(two, vae("two"))
    with one.transaction() as transaction:
        run_at_once(rules.delete(transaction, gone.key, "", time.time()))
    update(two, model_pb2.Model(key=kept.key, name="renamed"))
    one.read()
    assert changes[0] == changes[1]
    assert [change.revision for change in changes[0]] == [1, 2, 3, 4]
    assert by_name(one.state) == by_name(two.state)


def test_changes_that_one_did_not_look_at_in_between_come_in_order(path: Path) -> None:
    changes: list[Change] = []
    one, two = opened(path), opened(path, changes)
    models = [create(one, vae(f"v{number}")) for number in range(4)]
    two.read()
    changes.clear()
    update(one, model_pb2.Model(key=models[0].key, name="a"))
    with one.transaction() as transaction:
        run_at_once(rules.delete(transaction, models[1].key, "", time.time()))
    update(one, model_pb2.Model(key=models[2].key, name="b"))
    two.read()
    assert [(change.revision, change.key) for change in changes] == [
        (number + 5, models[number].key) for number in range(3)
    ]
    assert two.state.revision == one.state.revision == 7


def test_a_transaction_waits_for_another_process_and_tells_when_it_takes_too_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = opened(path)
    held = take_lock(path.with_name(f".{path.name}.lock"))
    threading.Timer(0.2, os.close, (held,)).start()
    create(records, vae("one"))
    monkeypatch.setattr(file, "_PATIENCE_S", 0.05)
    held = take_lock(path.with_name(f".{path.name}.lock"))
    with pytest.raises(ServerBusyException, match=str(os.getpid())):
        create(records, vae("two"))
    os.close(held)


def test_a_file_of_the_original_is_read_and_becomes_one_of_this_version(path: Path) -> None:
    key = "f13dd932c0c35c22dcb8d6cda4203764"
    path.write_text(
        f"__metadata__:\n  version: 3.1.1\n{key}:\n  author: Runway\n  base_model: sd-1\n"
        "  config: configs/stable-diffusion/v1-inference.yaml\n  current_hash: b6d1f3c4\n"
        "  description: Stable Diffusion 1.5\n  license: null\n  model_format: checkpoint\n"
        f"  model_type: main\n  name: stable-diffusion-v1-5\n  key: {key}\n  original_hash: b6d1f3c4\n"
        "  path: /data/models/v1-5-pruned-emaonly.safetensors\n  source: null\n  tags: []\n"
        "  vae: sd-1/vae/ft-mse\n  variant: normal\n"
    )
    records = opened(path)
    (model,) = by_name(records.state).values()
    assert (model.key, model.original_hash, model.license) == (key, "b6d1f3c4", "")
    assert (model.main.vae, model.main.variant) == ("sd-1/vae/ft-mse", taxonomy_pb2.MODEL_VARIANT_NORMAL)
    assert model.main.checkpoint_config == "configs/stable-diffusion/v1-inference.yaml"
    assert dict(model.extra_fields) == {"author": '"Runway"'}
    changed = update(records, model_pb2.Model(key=key, tags=["sd"]))
    assert "  version: 3.2.0\n" in path.read_text()
    assert by_name(opened(path).state) == {model.name: changed}


def test_a_large_revision_by_hand_leaves_room_for_the_next_ones(path: Path) -> None:
    create(opened(path), vae("one"))
    path.write_text(path.read_text().replace("  revision: 1\n", "  revision: 999999999999999\n", 1))
    records = opened(path)
    create(records, vae("two"))
    create(records, vae("three"))
    assert opened(path).state.revision == records.state.revision == 10**15 + 1


def test_what_a_killed_process_left_is_taken_away(path: Path) -> None:
    opened(path)
    left = path.with_name(f".{path.name}.x.tmp")
    left.write_text("half")
    other = path.with_name("other.tmp")
    other.write_text("not ours")
    opened(path)
    assert (left.exists(), other.exists()) == (False, True)


def test_a_file_with_line_ends_of_windows_is_read_and_written(path: Path) -> None:
    text = "__metadata__:\r\n  version: 3.2.0\r\n" + MINE.replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    records = opened(path)
    mine = by_name(records.state)["mine"]
    create(records, vae("one"))
    update(records, model_pb2.Model(key=mine.key, description="changed"))
    assert set(by_name(opened(path).state)) == {"mine", "one"}
    assert by_name(opened(path).state)["mine"].type == taxonomy_pb2.MODEL_TYPE_VAE


def test_related_models_name_each_other_after_a_hand_edit(path: Path) -> None:
    changes: list[Change] = []
    records = opened(path, changes)
    one, two, three = (create(records, vae(name)) for name in ("one", "two", "three"))
    changes.clear()
    add(path, MINE + f"  related_keys: [{one.key}, {two.key}]\n")
    mine = by_name(records.read())["mine"]
    found = by_name(records.state)
    assert [list(found[name].related_keys) for name in ("one", "two", "three")] == [
        [mine.key],
        [mine.key],
        [],
    ]
    assert changes[0].key == mine.key
    assert sorted(change.key for change in changes[1:]) == sorted([one.key, two.key])
    assert [change.revision for change in changes] == [4, 5, 6]
    changes.clear()
    path.write_text(path.read_text().replace(f"[{one.key}, {two.key}]", f"[{two.key}, {three.key}]"))
    found = by_name(records.read())
    assert [list(found[name].related_keys) for name in ("one", "two", "three")] == [
        [],
        [mine.key],
        [mine.key],
    ]
    update(records, model_pb2.Model(key=one.key, description="d"))
    assert by_name(opened(path).state) == by_name(records.state)
    path.write_text(path.read_text().split("\n# --- mine ---")[0])
    assert not any(model.related_keys for model in by_name(records.read()).values())
    assert max(model.revision for model in by_name(records.state).values()) == records.state.revision


def test_related_models_name_each_other_also_after_an_edit_while_no_program_ran(path: Path) -> None:
    one, two = (create(opened(path), vae(name)) for name in ("one", "two"))
    text = path.read_text()
    path.write_text(f"{text}  related_keys: [{one.key}]\n")
    records = opened(path)
    assert [list(model.related_keys) for model in by_name(records.state).values()] == [[two.key], [one.key]]
    update(records, model_pb2.Model(key=two.key, description="d"))
    assert by_name(opened(path).state) == by_name(records.state)


@pytest.mark.skipif(not has_loop(), reason="needs a disk of its own: root, loop devices and mkfs.ext4")
def test_what_was_written_is_there_after_a_power_cut() -> None:
    with PowerDisk(32) as disk:
        records = opened(disk.folder / "records" / "models.yaml")
        models = [create(records, vae(f"v{number}")) for number in range(5)]
        renamed = update(records, model_pb2.Model(key=models[0].key, name="renamed"))
        disk.cut_power()
        disk.power_up()
        found = by_name(opened(disk.folder / "records" / "models.yaml").state)
        assert found == {model.name: model for model in (renamed, *models[1:])}
