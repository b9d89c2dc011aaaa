"""What a caller gives that no field can have: told by the field and its range, never by protobuf."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

import modelkeep
from modelkeep.client import AsyncClient
from modelkeep.configs import ModelConfigFactory, ModelFile
from modelkeep.configs.wire import to_file, to_model
from modelkeep.download.v1 import download_service_pb2
from modelkeep.exceptions import FieldInvalidException
from modelkeep.messages import duration, made, time_kept

HUGE = 1 << 70
LONE = "\udcff"  # half a character, as a file name that is no UTF-8 has


@pytest.fixture
async def client() -> Any:
    async with AsyncClient(
        record="127.0.0.1:9", download="127.0.0.1:9", install="127.0.0.1:9", loader="127.0.0.1:9"
    ) as opened:
        yield opened


CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "id": lambda client: client.download_queue.id_to_job(HUGE),
    "install id": lambda client: client.model_install.get_job_by_id(HUGE),
    "key": lambda client: client.model_record_store.get_model(LONE),
    "name": lambda client: client.model_record_store.search_by_name(LONE),
    "labels": lambda client: client.model_record_store.list_models(labels={"a": 1}),
    "tags": lambda client: client.model_record_store.list_models(tags=[3]),
    "order": lambda client: client.model_record_store.list_models(order="colour"),
    "priority": lambda client: client.model_install.import_model("/x", priority=HUGE),
    "access_token": lambda client: client.model_install.import_model("/x", access_token=LONE),
    "lease_id": lambda client: client.model_loader.revoke(LONE),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_value_that_no_field_can_have_is_a_bad_field(name: str, client: Any) -> None:
    with pytest.raises(FieldInvalidException) as caught:
        await CALLS[name](client)
    (violation,) = caught.value.violations
    assert violation.field == name.rpartition(" ")[2]
    assert violation.description.startswith("must be ")
    assert caught.value.message == violation.words


def test_a_number_out_of_range_is_told_with_the_range() -> None:
    with pytest.raises(FieldInvalidException) as caught:
        made(download_service_pb2.CreateDownloadRequest, priority=1 << 40, filename="x")
    assert caught.value.message == (
        "priority must be a whole number from -2,147,483,648 to 2,147,483,647, not 1099511627776"
    )


def test_sizes_and_texts_of_a_record_are_told_by_field() -> None:
    config = ModelConfigFactory.make_config(
        {"name": "a", "path": "/a", "type": "vae", "format": "diffusers", "base": "sd-1", "size_bytes": HUGE}
    )
    with pytest.raises(FieldInvalidException, match="size_bytes must be a whole number"):
        to_model(config)
    with pytest.raises(FieldInvalidException, match="size_bytes must be a whole number"):
        to_file(ModelFile(path="w", size_bytes=HUGE))


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -1.0, 1e300])
def test_a_time_that_no_duration_holds_is_a_bad_field(seconds: float) -> None:
    with pytest.raises(FieldInvalidException, match="max_wait_s must be from 0 to"):
        duration(seconds, "max_wait_s")
    assert (duration(1.5, "x").seconds, duration(1.5, "x").nanos) == (1, 500_000_000)


def test_a_time_to_be_kept_may_be_negative_and_its_refusal_says_so() -> None:
    kept = time_kept(-0.5)
    assert kept is not None
    assert kept.seconds == -1
    with pytest.raises(FieldInvalidException, match="or negative for as long as there is room, not nan"):
        time_kept(float("nan"))


def classes() -> Iterator[tuple[str, type[Message]]]:
    """Every message of the API by its name."""
    root = Path(modelkeep.__file__).parent
    for path in sorted(root.glob("*/v1/*_pb2.py")):
        module = importlib.import_module(f"modelkeep.{path.parent.parent.name}.v1.{path.stem}")
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, Message):
                yield name, value


CLASSES = dict(classes())


def calls() -> Iterator[tuple[str, ast.Call]]:
    for package in ("client", "worker"):
        for path in sorted((Path(modelkeep.__file__).parent / package).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield f"{path.name}:{node.lineno}", node


#: What a worker says of a lease that it was given; marks that are made already.
GIVEN = ("ReleaseLeaseRequest", "DemoteLeaseRequest", "PromoteLeaseRequest", "MarkModelsRequest")


def test_every_message_of_what_a_caller_gives_is_made_by_the_one_function() -> None:
    direct = {
        place
        for place, call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in CLASSES
        and call.keywords
        and call.func.attr not in GIVEN
    }
    assert direct == set(), "made(pb.Request, field=value) tells the field of a bad value"


def test_messages_are_made_of_fields_that_they_have() -> None:
    checked = 0
    for place, call in calls():
        if isinstance(call.func, ast.Name) and call.func.id == "made":
            assert isinstance(call.args[0], ast.Attribute), place
            fields = CLASSES[call.args[0].attr].DESCRIPTOR.fields_by_name
            assert {keyword.arg for keyword in call.keywords} <= set(fields), place
            checked += 1
    assert checked > 20
