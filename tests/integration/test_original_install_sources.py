"""The examples of the original's chapter on installs that name what to install, run as they stand there.

Indentation, which the reference has lost, a comma that it lacks, folders and the address of a file elsewhere
apart. The hubs are servers of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client
from modelkeep.configs import LoRAConfig, MainDiffusersConfig, SchedulerPredictionType, VaeDiffusersConfig
from modelkeep.supervisor import Suite
from support import modelshapes
from support.civitai import Civitai, File, Model, Version
from support.httpserver import HttpServer, Resource
from support.hub import Hub, files_of
from support.installs import small_lora
from support.tinymodels import save_pipeline, text_encoder, unet, vae

pytestmark = pytest.mark.timeout(120)

#: Not part of the repository; where it is at hand, the examples are compared with it.
REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "model_manager_v2.md"

SOURCES = """
sources = [
    Path('/srv/models/sushi.safetensors'), # a local safetensors file
    Path('/srv/models/sushi_diffusers/'), # a local diffusers folder
    'runwayml/stable-diffusion-v1-5', # a repo_id
    'runwayml/stable-diffusion-v1-5:vae', # a subfolder within a repo_id
    'https://civitai.com/api/download/models/63006', # a civitai direct download link
    'https://civitai.com/models/8765?modelVersionId=10638', # civitai model page
    'https://s3.amazon.com/fjacks/sd-3.safetensors', # arbitrary URL
]
for source in sources:
    install_job = installer.install_model(source)
source2job = installer.wait_for_installs()
for source in sources:
    job = source2job[source]
    if job.status == "completed":
        model_config = job.config_out
        model_key = model_config.key
        print(f"{source} installed as {model_key}")
    elif job.status == "error":
        print(f"{source}: {job.error_type}.\\nStack trace:\\n{job.error}")
"""
OVERRIDES = """
install_job = installer.import_model(
    source='stabilityai/stable-diffusion-2-1',
    variant='fp16',
    config=dict(
        prediction_type=SchedulerPredictionType('v_prediction')
        name='stable diffusion 2 base model',
    )
)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as started:
        yield started


@pytest.fixture(scope="module")
def site() -> Iterator[Civitai]:
    with Civitai() as started:
        yield started


@pytest.fixture(scope="module")
def suite_options(hub: Hub, site: Civitai) -> dict[str, Any]:
    env = {
        "MODELKEEP_DOWNLOAD_HUB_ENDPOINT": hub.url,
        "MODELKEEP_DOWNLOAD_CIVITAI_ENDPOINT": site.endpoint,
    }
    return {"services": ("record", "download", "install"), "env": env}


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference is not at hand")
@pytest.mark.parametrize("code", [SOURCES, OVERRIDES], ids=["sources", "overrides"])
def test_the_examples_are_the_references(code: str) -> None:
    unindented = "\n".join(line.strip() for line in code.splitlines())
    assert f"\n```{unindented}\n```\n" in REFERENCE.read_text()


def test_every_kind_of_source_becomes_a_model(
    client: Client,
    hub: Hub,
    site: Civitai,
    web: HttpServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    sushi = small_lora(models / "sushi.safetensors").read_bytes()
    link, page, elsewhere = (sushi[:-1] + bytes([last]) for last in (1, 2, 3))
    modelshapes.write_vae_folder(models / "sushi_diffusers")
    pipeline = save_pipeline(tmp_path / "pipeline")
    hub.repository("runwayml/stable-diffusion-v1-5", files_of(pipeline))
    site.add(Model("Link", [Version("v1", [File("link.safetensors", link)], id=63006)], type="LORA"))
    newest = Version("v2", [File("newest.safetensors", sushi)], published="2026-02-01T00:00:00.000Z")
    wanted = Version("v1", [File("page.safetensors", page)], id=10638, trained_words=["page turner"])
    site.add(Model("Page", [newest, wanted], type="LORA", id=8765))
    url = web.put("/fjacks/sd-3.safetensors", Resource(elsewhere))

    code = SOURCES.replace("/srv/models/", f"{models}/")
    code = code.replace("https://s3.amazon.com/fjacks/sd-3.safetensors", url)
    names: dict[str, Any] = {"Path": Path, "installer": client.model_install}
    exec(code, names)

    sources, jobs = names["sources"], names["source2job"]
    assert list(jobs) == sources
    assert {source: jobs[source].error for source in sources} == dict.fromkeys(sources)
    said = [f"{source} installed as {jobs[source].config_out.key}" for source in sources]
    assert capsys.readouterr().out.splitlines() == said
    kinds = (
        *(LoRAConfig, VaeDiffusersConfig, MainDiffusersConfig, VaeDiffusersConfig),
        *(LoRAConfig, LoRAConfig, LoRAConfig),
    )
    configs = [jobs[source].config_out for source in sources]
    assert [type(config) for config in configs] == list(kinds)
    assert len({config.key for config in configs}) == len(sources)
    assert [config.source_type for config in configs] == [
        *("path", "path", "hf_repo_id", "hf_repo_id"),
        *("civitai", "civitai", "url"),
    ]
    assert [config.source for config in configs[:4]] == [str(source) for source in sources[:4]]
    assert configs[5].source == sources[5]
    assert configs[5].trigger_phrases == ["page turner"]
    for config, body in zip(configs[4:], (link, page, elsewhere), strict=True):
        stored = client.model_install.get_job(sources[configs.index(config)]).local_path
        assert stored is not None
        assert stored.read_bytes() == body


def test_overrides_with_the_variant_fp16(client: Client, hub: Hub, tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "sd-2-1")
    parts = {"unet": unet(cross_attention_dim=1024), "vae": vae(), "text_encoder": text_encoder(width=64)}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        part.half().save_pretrained(folder / name, variant="fp16")
    hub.repository("stabilityai/stable-diffusion-2-1", files_of(folder))

    code = OVERRIDES.replace("('v_prediction')", "('v_prediction'),")
    names: dict[str, Any] = {
        "installer": client.model_install,
        "SchedulerPredictionType": SchedulerPredictionType,
    }
    exec(code, names)
    job = client.model_install.wait_for_job(names["install_job"], timeout=60)

    assert (job.status, job.error) == ("completed", None)
    config = job.config_out
    assert isinstance(config, MainDiffusersConfig)
    assert (config.name, config.base_model) == ("stable diffusion 2 base model", "sd-2")
    assert config.prediction_type is SchedulerPredictionType.VPrediction
    assert job.local_path is not None
    weights = {path.relative_to(job.local_path).as_posix() for path in job.local_path.rglob("*.safetensors")}
    assert weights == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    }
