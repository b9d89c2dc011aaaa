"""The one table of who may call what, against the descriptors."""

from __future__ import annotations

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from modelkeep_common.auth import ROLES
from modelkeep_common.auth.table import ALLOWED, EVERYBODY


def methods_of_the_api() -> set[str]:
    """Full names of all methods of all services of the suite."""
    api = FileDescriptorSet.FromString(files("modelkeep").joinpath("api.binpb").read_bytes())
    return {
        f"{file.package}.{service.name}/{method.name}"
        for file in api.file
        if file.package.startswith("modelkeep.")
        for service in file.service
        for method in service.method
    }


def test_every_method_of_the_api_stands_in_the_table_and_no_other() -> None:
    assert {name for name in ALLOWED if name.startswith("modelkeep.")} == methods_of_the_api()


def test_the_table_names_roles_that_exist() -> None:
    for method, roles in ALLOWED.items():
        assert roles == EVERYBODY or (roles and roles <= ROLES), method


def test_an_admin_may_call_every_method() -> None:
    assert [name for name, roles in ALLOWED.items() if roles != EVERYBODY and "admin" not in roles] == []


def test_who_only_looks_cannot_change_probe_or_lease() -> None:
    looks = {name.rpartition("/")[2] for name, roles in ALLOWED.items() if "viewer" in roles}
    first_words = ("Estimate", "Get", "BatchGet", "Find", "List", "Watch", "Wait", "ServerReflectionInfo")
    assert [name for name in sorted(looks) if not name.startswith(first_words)] == []
