"""Labels keep to the same bounds wherever a request has them."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldOptions

from buf.validate import validate_pb2
from modelkeep.configs.fields import is_map
from support import apidescriptors


def bounds(field: Any) -> tuple[int, str, int]:
    options = FieldOptions.FromString(field.GetOptions().SerializeToString())
    rules: Any = options.Extensions[validate_pb2.field]  # type: ignore[index]  # no types for extensions
    return rules.map.max_pairs, rules.map.keys.string.pattern, rules.map.values.string.max_bytes


#: A resource that an update takes, though it cannot change its labels.
OUTPUT_ONLY = {"modelkeep.download.v1.Download.labels"}


def test_all_labels_in_requests_have_the_same_bounds() -> None:
    found = {
        field.full_name: bounds(field)
        for method in apidescriptors.methods()
        for _, field in apidescriptors.fields_below(method.input_type)
        if field.name == "labels" and is_map(field) and field.full_name not in OUTPUT_ONLY
    }
    assert {"modelkeep.model.v1.Model.labels", "modelkeep.record.v1.ModelFilter.labels"} <= found.keys()
    assert set(found.values()) == {(32, "^[a-z0-9./_-]{1,63}$", 256)}, found
