"""What every field of the API keeps to: numbers that JavaScript can hold, zero values that harm nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldOptions

from buf.validate import validate_pb2
from modelkeep.server.v1 import job_pb2
from support import apidescriptors

_INTEGERS = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
#: int64 fields that name a job. JavaScript's numbers are exact up to 2^53 only.
_JOB_ID = re.compile(r"(^|_)ids?$")
#: int64 fields that are counted or measured.
_QUANTITY = re.compile(
    r"(^|_)(bytes(_done|_total|_per_second|_short)?|count|revision|sequence|offset|shape|strides|value"
    r"|number)$"
)

#: What the zero value of each choice in a request does. None of them removes or moves anything.
ZERO = {
    "download.v1.CancelAllDownloadsRequest.all_queues": "one queue",
    "download.v1.CreateDownloadRequest.replace_existing": "a file that is there stays",
    "download.v1.Download.replace_existing": "output only",
    "download.v1.CreateDownloadRequest.preserve_partial": "a download that fails keeps no partial file",
    "download.v1.Download.preserve_partial": "as in CreateDownloadRequest, where the mask says so",
    "download.v1.Download.ended": "output only",
    "download.v1.Download.stage": "output only",
    "download.v1.Download.state": "output only",
    "download.v1.Download.verified": "output only",
    "download.v1.DownloadFile.done": "output only",
    "download.v1.DownloadFile.verified": "output only",
    "download.v1.ListDownloadsRequest.all_queues": "one queue",
    "download.v1.LocalPath.move": "the source stays",
    "download.v1.PauseAllDownloadsRequest.all_queues": "one queue",
    "download.v1.PruneDownloadsRequest.all_queues": "one queue",
    "download.v1.StartAllDownloadsRequest.all_queues": "one queue",
    "download.v1.WatchDownloadsRequest.all_queues": "one queue",
    "download.v1.SetLimitsRequest.reset": "what was set before stays, where nothing else is named",
    "download.v1.WatchDownloadsRequest.skip_snapshot": "a snapshot first",
    "download.v1.WatchDownloadsRequest.until_ended": "the watch goes on",
    "install.v1.ImportModelRequest.move": "the source stays",
    "install.v1.InstallPathRequest.move": "the source stays",
    "install.v1.ImportModelRequest.reuse": "a model from the same source is taken, and no other",
    "install.v1.ImportModelRequest.validate_only": "a model is installed, and none removed",
    "install.v1.ImportInvokeAIRequest.overwrite": "what was changed here stays",
    "install.v1.ImportInvokeAIRequest.skip_missing": "models without files are registered too",
    "install.v1.ImportInvokeAIRequest.validate_only": "models are registered, and none removed",
    "install.v1.ModelOverrides.format": "what the probe finds",
    "install.v1.ModelOverrides.prediction_type": "what the probe finds",
    "install.v1.ModelOverrides.source_type": "what the source is",
    "install.v1.ModelOverrides.type": "what the probe finds",
    "install.v1.ModelOverrides.variant": "what the probe finds",
    "install.v1.RelinkModelRequest.validate_only": "the record alone changes, and only to what is the same",
    "install.v1.ScanDirectoryRequest.install": "what is new is registered where it lies",
    "install.v1.ScanDirectoryRequest.validate_only": "what is new is registered, and nothing removed",
    "install.v1.SyncModelsRequest.force": "no record goes while a disk may be away",
    "install.v1.SyncModelsRequest.remove_orphans": "records without files are told, and stay",
    "install.v1.SyncModelsRequest.validate_only": "what is new is registered; what goes is said beside it",
    "install.v1.UninstallModelRequest.force": "nothing is deleted while a lease holds it",
    "install.v1.UninstallModelRequest.validate_only": "what happens to files must be said beside it",
    "install.v1.RetryInstallRequest.all_failed": "those that are named, and none where none is",
    "install.v1.WatchInstallsRequest.skip_snapshot": "a snapshot first",
    "install.v1.WatchInstallsRequest.until_ended": "the stream goes on",
    "loader.v1.AcquireLeaseRequest.delivery": "descriptors",
    "loader.v1.ComponentRef.memory_format": "contiguous",
    "loader.v1.ComponentRef.precision": "the precision of the files",
    "loader.v1.ComponentRef.submodel": "a model that is one component; others are refused",
    "loader.v1.ComponentRef.weights": "dequantised",
    "loader.v1.DrainRequest.revoke": "leases end by themselves",
    "loader.v1.EvictModelRequest.submodel": "all of the model that `key` names, where none is leased",
    "loader.v1.EvictModelRequest.tier": "RAM; copies on the disk stay",
    "loader.v1.EvictModelRequest.validate_only": "drops what the request names, where none is leased",
    "loader.v1.HoldModelRequest.delivery": "descriptors",
    "loader.v1.LoadModelRequest.tier": "RAM",
    "loader.v1.WatchLeasesRequest.skip_snapshot": "a snapshot first",
    "loader.v1.PinModelRequest.load": "pins what is there, and what comes",
    "loader.v1.WatchResidentsRequest.skip_snapshot": "a snapshot first",
    "model.v1.MainConfig.prediction_type": "not known",
    "model.v1.MainConfig.variant": "not known",
    "model.v1.Model.format": "refused by the rules of records",
    "model.v1.Model.source_type": "not known",
    "model.v1.Model.type": "refused by the rules of records",
    "model.v1.ModelFile.digest_state": "pending",
    "model.v1.OnnxConfig.prediction_type": "not known",
    "model.v1.OnnxConfig.variant": "not known",
    "record.v1.ExportModelsRequest.with_covers": "records without their pictures",
    "record.v1.ExportedModel.is_continuation": "a whole record, or the first part of one",
    "record.v1.ExportedModel.is_continued": "the whole record",
    "record.v1.ImportModelsRequest.validate_only": "what was asked for is done; a dry run is asked for",
    "record.v1.ListModelsRequest.descending": "ascending",
    "record.v1.ListModelsRequest.order": "by name",
    "record.v1.ListModelsRequest.view": "the short view",
    "record.v1.ModelMark.missing": "the files are there",
    "record.v1.UpdateModelRequest.replace_files": "the list of files stays",
    "record.v1.UpdateModelRequest.validate_only": "what was asked for is done; a dry run is asked for",
    "record.v1.WatchModelsRequest.skip_snapshot": "a snapshot first",
}


def options(field: FieldDescriptor) -> FieldOptions:
    return FieldOptions.FromString(field.GetOptions().SerializeToString())


def name_of(field: FieldDescriptor) -> str:
    return field.full_name.removeprefix("modelkeep.")


def integers() -> Iterator[FieldDescriptor]:
    for message in apidescriptors.messages():
        yield from (field for field in message.fields if field.type in _INTEGERS)


def refuses_zero(field: FieldDescriptor) -> bool:
    """Whether the field's rule forbids the zero value, or that of its items."""
    rules: Any = options(field).Extensions[validate_pb2.field]  # type: ignore[index]  # no types for extensions
    return 0 in (rules.repeated.items.enum.not_in if field.is_repeated else rules.enum.not_in)


def choices() -> Iterator[FieldDescriptor]:
    """The fields of requests whose zero value means something: enums, and bools that are never unset."""
    seen = set()
    for method in apidescriptors.methods():
        for _, field in apidescriptors.fields_below(method.input_type):
            is_bool = field.type == FieldDescriptor.TYPE_BOOL and not field.has_presence
            if (field.enum_type is not None or is_bool) and field.full_name not in seen:
                seen.add(field.full_name)
                yield field


def test_job_ids_are_strings_in_javascript_and_quantities_are_numbers() -> None:
    for field in integers():
        is_id = bool(_JOB_ID.search(field.name))
        assert is_id or _QUANTITY.search(field.name), f"{field.full_name}: an id, or counted in what?"
        expected = FieldOptions.JS_STRING if is_id else FieldOptions.JS_NORMAL
        assert options(field).jstype == expected, field.full_name


def test_every_id_of_a_job_is_an_int64() -> None:
    found = {name_of(field) for field in integers() if options(field).jstype == FieldOptions.JS_STRING}
    assert {"download.v1.Download.id", "install.v1.Install.id", "install.v1.Install.download_id"} <= found
    assert "install.v1.InstallEvent.removed_id" in found


def test_what_the_zero_value_of_every_choice_does_is_known_and_harmless() -> None:
    """A new choice: say in ZERO what zero does; where it would remove or move something, refuse zero."""
    undecided = {name_of(field) for field in choices() if not refuses_zero(field)}
    assert undecided == ZERO.keys()


def test_a_filter_never_takes_unspecified_for_everything() -> None:
    for field in choices():
        if field.is_repeated:
            assert refuses_zero(field), field.full_name


def test_what_happens_to_files_must_be_said() -> None:
    (files,) = [f for f in choices() if name_of(f) == "install.v1.UninstallModelRequest.files"]
    assert refuses_zero(files)


def test_a_total_that_is_not_known_is_not_set() -> None:
    def totals(message: Descriptor) -> Iterator[FieldDescriptor]:
        yield from (field for field in message.fields if field.name.endswith("_total"))

    found = [field for message in apidescriptors.messages() for field in totals(message)]
    assert {field.full_name for field in found} == {
        "modelkeep.server.v1.Progress.bytes_total",
        "modelkeep.server.v1.FileProgress.bytes_total",
        "modelkeep.download.v1.DownloadFile.bytes_total",
        "modelkeep.download.v1.SourceChoice.bytes_total",
        "modelkeep.download.v1.SourcePlan.bytes_total",
        "modelkeep.download.v1.SourcePlan.source_bytes_total",
    }
    assert all(field.has_presence for field in found)
    assert not job_pb2.Progress(bytes_done=5).HasField("bytes_total")


def test_the_error_of_a_job_speaks_no_language() -> None:
    assert [field.name for field in job_pb2.JobError.DESCRIPTOR.fields] == [
        "code",
        "reason",
        "message",
        "metadata",
        "retry_time",
        "detail",
    ]
