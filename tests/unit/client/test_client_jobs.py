"""Job objects and overrides by themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from modelkeep.client import (
    DownloadJobPath,
    DownloadJobRemoteSource,
    DownloadJobRepoID,
    DownloadJobStatus,
    DownloadJobURL,
    ModelInstallJob,
)
from modelkeep.client._download_jobs import job_class_of, make_job
from modelkeep.components import precision_name
from modelkeep.configs import SubmodelDefinition
from modelkeep.configs.overrides import config_of, overrides_of
from modelkeep.exceptions import FieldInvalidException, InvalidModelConfigException, TokenRequiredException
from modelkeep.install.v1 import install_pb2
from modelkeep.server.v1 import job_pb2
from modelkeep.taxonomy import ModelSourceType, ModelType, SchedulerPredictionType, SubModelType
from modelkeep_install.domain.jobs import JobError


def test_overrides_use_the_originals_names_and_come_back() -> None:
    config = {
        "name": "n",
        "model_type": ModelType.Main,
        "base_model": "sd-2",
        "prediction_type": SchedulerPredictionType.VPrediction,
        "upcast_attention": False,
        "tags": ["a"],
        "config": "v2.yaml",
        "compatible_bases": ["sd-1"],
        "source_type": ModelSourceType.Civitai,
        "scaling_factor": 0.5,
        "rank": 16,
        "submodels": [SubmodelDefinition(type=SubModelType.VAE, path_or_prefix="vae")],
        "description": "",
    }
    message = overrides_of(config)
    assert message is not None
    assert message.HasField("upcast_attention")
    assert config_of(message) == config
    assert overrides_of({}) is None


def test_every_bad_override_is_named_at_once() -> None:
    with pytest.raises(InvalidModelConfigException) as caught:
        overrides_of({"base_model": "sd-9", "key": "x", "variant": "huge", "rank": "many", "name": "fine"})
    assert {violation.field for violation in caught.value.violations} == {
        "base_model",
        "key",
        "variant",
        "rank",
    }


def test_an_install_job_that_waits_says_for_what() -> None:
    message = install_pb2.Install(
        id=1,
        state=install_pb2.INSTALL_STATE_PAUSED,
        source=install_pb2.InstallSource(url="https://host/x"),
        error=job_pb2.JobError(reason="TOKEN_REQUIRED", message="Bring a token."),
    )
    job = ModelInstallJob(message)
    assert (job.status, job.source, job.settled, job.ended) == ("paused", "https://host/x", True, False)
    assert (job.error_type, job.error) == ("TokenRequiredException", "Bring a token.")
    assert isinstance(job.exception, TokenRequiredException)


def test_the_error_of_an_unforeseen_failure_says_where_it_happened_and_not_what_it_said() -> None:
    def fail() -> None:
        raise RuntimeError("token=hush")

    try:
        fail()
    except RuntimeError as error:
        failure = JobError.failure(error)
    told = job_pb2.JobError(reason=failure.reason, message=failure.message, detail=failure.detail)
    job = ModelInstallJob(install_pb2.Install(id=1, state=install_pb2.INSTALL_STATE_ERROR, error=told))
    assert job.error is not None
    assert job.error_type == "ModelkeepError"
    assert re.search(r"\nTraceback .*\n(.*\n)*  test_client_jobs\.py:\d+ in fail\nRuntimeError$", job.error)
    assert "hush" not in job.error


def test_a_state_of_a_newer_service_counts_as_running() -> None:
    assert ModelInstallJob(install_pb2.Install(id=1, state=99)).status == "running"  # type: ignore[arg-type]


def test_the_class_of_a_download_job_fits_its_source() -> None:
    for source, cls in (
        ("https://host/x", DownloadJobURL),
        (Path("/x"), DownloadJobPath),
        ("./relative/x", DownloadJobPath),
        ("a/b/c", DownloadJobPath),
        (Path("owner/name"), DownloadJobPath),
        ("owner/name", DownloadJobRepoID),
        ("hf://owner/name@v1:vae", DownloadJobRepoID),
        ("https://huggingface.co/owner/name/tree/main/vae", DownloadJobRepoID),
        ("http://www.civitai.com/models/13456", DownloadJobRepoID),
        ("https://huggingface.co/datasets/owner/name/resolve/main/a.bin", DownloadJobURL),
    ):
        assert job_class_of(source) is cls
        assert type(make_job(cls, source, destination=Path("/d"))) is cls
    with pytest.raises(FieldInvalidException):
        make_job(DownloadJobURL, "ftp://host/x", destination=Path("/d"))


def test_a_path_that_exists_is_a_path_however_it_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert job_class_of("owner/name") is DownloadJobPath
    assert job_class_of("hf:owner/name") is DownloadJobRepoID


def test_a_remote_source_is_an_address_or_what_a_hub_names() -> None:
    page = DownloadJobRemoteSource(source="http://www.civitai.com/models/13456", destination="/d")
    assert page.source_message().remote.source == "http://www.civitai.com/models/13456"
    file = DownloadJobRemoteSource(source="https://host/x", destination="/d")
    assert file.source_message().url == "https://host/x"
    asked = DownloadJobRepoID(source="o/n", destination="/d", variant="fp16", subfolder="vae", revision="v1")
    found = asked.source_message().remote
    assert (found.source, found.variant, found.subfolder, found.revision) == ("o/n", "fp16", "vae", "v1")


def test_a_destination_with_a_slash_at_its_end_is_a_folder() -> None:
    folder = DownloadJobRemoteSource(source="https://h/x", destination="/data/models/")
    assert folder.destination_text() == "/data/models/"
    file = DownloadJobRemoteSource(source="https://h/x", destination="/data/models")
    assert file.destination_text() == "/data/models"


def test_download_jobs_have_the_originals_fields_and_defaults() -> None:
    job = DownloadJobRemoteSource(source="https://h/x", destination="/d")
    assert (job.id, job.priority, job.status, job.preserve_partial_downloads) == (0, 10, "idle", False)
    assert (job.bytes, job.total_bytes, job.access_token, job.error) == (0, 0, None, None)
    with pytest.raises(ValidationError):
        DownloadJobURL(source="no address", destination="/d")


def test_the_statuses_have_the_originals_values() -> None:
    values = {status.name: status.value for status in DownloadJobStatus}
    names = ("IDLE", "ENQUEUED", "RUNNING", "PAUSED", "COMPLETED", "ERROR", "CANCELLED")
    assert values == {name: name.lower() for name in names}


def test_a_token_is_neither_shown_nor_dumped() -> None:
    job = DownloadJobRemoteSource(source="https://h/x", destination="/d", access_token="secret")
    assert "secret" not in repr(job)
    assert "secret" not in job.model_dump_json()


def test_handlers_are_added_after_the_jobs_own_and_cleared() -> None:
    job = DownloadJobRemoteSource(source="https://h/x", destination="/d", event_handlers=[print])
    job.add_event_handler(repr)
    assert job.event_handlers == [print, repr]
    job.clear_event_handlers()
    assert job.event_handlers == []


@pytest.mark.parametrize(
    ("given", "name"),
    [("auto", "auto"), ("bf16", "bfloat16"), ("torch.float16", "float16"), ("FP32", "float32")],
)
def test_precisions_are_known_by_several_names(given: str, name: str) -> None:
    assert precision_name(given) == name


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(FieldInvalidException):
        precision_name("int3")
