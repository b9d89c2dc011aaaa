"""deploy/ against the code: settings that exist, ports, users, probes, and time to end."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import first_start
from modelkeep.defaults import DEFAULT_PORTS, EXIT_CONFIG, EXIT_DATA, SERVICES
from modelkeep.devcerts import make_certificates
from modelkeep.gateway.__main__ import gateway_from, parser
from modelkeep_common.auth.tokens import read_tokens
from modelkeep_common.settings import ServiceSettings
from support import deployed

each_service = pytest.mark.parametrize("service", SERVICES)


def environments(service: str) -> dict[str, dict[str, str]]:
    """The variables of a service in each way to start it in a container."""
    image = deployed.stage_environment(service)
    found = {"image": image, "kubernetes": deployed.container_environment(service)}
    for name, one in deployed.compose().items():
        if one["image"] == f"modelkeep/{service}":
            found[f"compose: {name}"] = image | one["environment"]
    return found


@each_service
def test_containers_set_settings_that_there_are(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, environment in environments(service).items():
        settings = deployed.settings_of(service, environment, [], monkeypatch)
        assert settings.host == "0.0.0.0", where
        assert settings.port == DEFAULT_PORTS[settings.service], where
        assert settings.data_dir == Path("/var/lib/modelkeep"), where
        assert not settings.insecure, where
        others = [name for name in environment if name.startswith("MODELKEEP_")]
        assert all(name.startswith(settings.env_prefix()) for name in others), where


@each_service
def test_callers_over_the_network_show_certificates(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, environment in environments(service).items():
        if where == "image":
            continue
        settings = deployed.settings_of(service, environment, [], monkeypatch)
        assert settings.tls_client_ca_file, where
        assert settings.tls_callers_file, where
        assert settings.anonymous == "none", where
        if service in ("install", "loader"):
            assert settings.peer_ca_file, where


@each_service
def test_others_are_called_where_they_listen(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {one["metadata"]["name"]: one["spec"] for one in deployed.objects("Service")}
    aliases = {"loader"}
    for where, environment in environments(service).items():
        if where == "image":
            continue
        settings = deployed.settings_of(service, environment, [], monkeypatch)
        for name in SERVICES:
            address = getattr(settings, f"{name}_address", "")
            if address:
                assert address == f"{name}:{DEFAULT_PORTS[name]}", where
                assert name in (names if where == "kubernetes" else {*deployed.compose(), *aliases})


@each_service
def test_images_start_and_check_their_service(service: str) -> None:
    start = ["python", "-P", "-m", f"modelkeep_{service}"]
    assert deployed.command_of(service, "ENTRYPOINT") == start
    assert deployed.command_of(service, "HEALTHCHECK") == [*start, "--health"]
    (exposed,) = (line.split()[1:] for line in deployed.stages()[service] if line.startswith("EXPOSE"))
    probes = deployed.stage_environment(service)[f"MODELKEEP_{service.upper()}_METRICS_PORT"]
    assert exposed == [str(DEFAULT_PORTS[service]), probes]


@each_service
def test_probes_ask_where_they_are_answered(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = deployed.container_environment(service)
    settings = deployed.settings_of(service, environment, [], monkeypatch)
    container = deployed.container(service)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"grpc": settings.port, "probes": settings.metrics_port}
    asked = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {one["port"] for one in asked.values()} == {"probes"}
    # No number bounds a migration: once the process answers it is live, and ready when its stores are open.
    assert [one["path"] for one in asked.values()] == ["/livez", "/readyz", "/livez"]
    start, live = container["startupProbe"], container["livenessProbe"]
    # Imports from a cold disk, torch among them.
    assert start["periodSeconds"] * start["failureThreshold"] >= 300
    assert start["timeoutSeconds"] == live["timeoutSeconds"] >= 5
    # The service ends itself first, and says in its log where it hung.
    assert live["periodSeconds"] * live["failureThreshold"] > settings.watchdog_s


@each_service
def test_services_of_kubernetes_lead_to_the_port(service: str) -> None:
    found = [one for one in deployed.objects("Service") if one["metadata"]["name"].startswith(service)]
    assert {one["metadata"]["name"] for one in found} >= {service, f"{service}-headless"}
    for one in found:
        (port,) = one["spec"]["ports"]
        assert (port["name"], port["port"], port["targetPort"]) == (
            "grpc",
            DEFAULT_PORTS[service],
            "grpc",
        )
        assert one["spec"]["selector"] == {"app.kubernetes.io/name": service}


@each_service
def test_there_is_time_to_drain(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def needed(settings: ServiceSettings) -> float:
        return settings.drain_delay_s + settings.drain_watchdog_s

    for where, environment in environments(service).items():
        needs = needed(deployed.settings_of(service, environment, [], monkeypatch))
        if where == "kubernetes":
            assert deployed.pods()[service]["terminationGracePeriodSeconds"] > needs
        elif where.startswith("compose"):
            name = where.removeprefix("compose: ")
            assert deployed.seconds(deployed.compose()[name]["stop_grace_period"]) > needs
    (given,) = deployed.unit(service)["TimeoutStopSec"]
    assert float(given) > needed(deployed.settings_of(service, {}, [], monkeypatch))


@each_service
def test_calls_that_still_arrive_at_a_pod_that_ends_are_answered(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = deployed.settings_of(service, deployed.container_environment(service), [], monkeypatch)
    assert settings.drain_delay_s >= 5


def test_the_gateway_has_time_to_drain() -> None:
    def seconds(environment: dict[str, str]) -> tuple[float, float]:
        delay_s, limit_s = (environment[f"MODELKEEP_GATEWAY_DRAIN_{name}"] for name in ("DELAY_S", "S"))
        return float(delay_s), float(limit_s)

    delay_s, limit_s = seconds(deployed.container_environment("gateway"))
    assert delay_s >= 5
    # Besides, the program that drains has to start.
    assert deployed.pods()["gateway"]["terminationGracePeriodSeconds"] >= delay_s + limit_s + 10
    live = deployed.container("gateway")["livenessProbe"]
    # In a drain it takes no connections in the end, those of the probe neither.
    assert live["periodSeconds"] * live["failureThreshold"] > limit_s
    compose = deployed.compose()["gateway"]
    delay_s, limit_s = seconds(deployed.stage_environment("gateway") | compose.get("environment", {}))
    assert deployed.seconds(compose["stop_grace_period"]) >= delay_s + limit_s + 10


@each_service
def test_units_start_with_settings_that_there_are(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = deployed.unit(service)
    (start,) = said["ExecStart"]
    program, *arguments = start.replace("%d", "/credentials").split()
    assert program == "/opt/modelkeep/bin/python"
    assert arguments[:3] == ["-P", "-m", f"modelkeep_{service}"]
    settings = deployed.settings_of(service, {}, arguments[3:], monkeypatch)
    state = {Path("/var/lib") / folder for line in said["StateDirectory"] for folder in line.split()}
    assert settings.service_dir in state
    if service in ("download", "install"):
        assert settings.models in state
    credentials = {line.split(":")[0] for line in said["LoadCredential"]}
    named = {path.name for path in (settings.token_file, settings.peer_token_file) if path is not None}
    assert named == credentials
    assert said["RestartPreventExitStatus"] == [f"{EXIT_DATA} {EXIT_CONFIG}"]
    # Else systemd gives up after five starts in ten seconds.
    assert said["StartLimitIntervalSec"] == ["0"]


def test_the_gateway_of_kubernetes_answers_at_the_port_of_its_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(deployed.DEPLOY / "envoy")
    (service,) = (one for one in deployed.objects("Service") if one["metadata"]["name"] == "gateway")
    said = [text.replace("@/etc/modelkeep/", "@") for text in deployed.container("gateway")["args"]]
    gateway = gateway_from(parser().parse_args(said))
    (port,) = service["spec"]["ports"]
    assert {f"{name}:{port['port']}" for name in ("models.example.com", "gateway")} <= {*gateway.hosts}
    (listens,) = deployed.container("gateway")["ports"]
    assert gateway.port == listens["containerPort"]


def test_the_user_is_the_same_everywhere() -> None:
    (user,) = (line.split()[1] for line in deployed.stages()["common"] if line.startswith("USER"))
    assert {one["user"] for one in deployed.compose().values()} == {user}
    uid, gid = map(int, user.split(":"))
    for name, pod in deployed.pods().items():
        context = pod["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (uid, gid, gid), name


def test_the_first_start_makes_tokens_and_certificates_and_the_second_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "secrets"
    command = ["--certs", "--token", "install", str(folder)]
    assert first_start.main(command) == 0
    known = read_tokens(folder / "tokens.json")
    for name, roles in (("owner", {"admin", "owner"}), ("install", {"install"})):
        principal = known.principal_of((folder / f"{name}.token").read_text().strip())
        assert principal is not None
        assert (principal.name, set(principal.roles)) == (name, roles)
    assert (folder / "gateway.key").stat().st_mode & 0o777 == 0o600
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert first_start.main(command) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "tokens.json").unlink()
    assert first_start.main(command) == 1
    assert "is not empty" in capsys.readouterr().err


def test_callers_are_those_of_certs_dev(tmp_path: Path) -> None:
    make_certificates(tmp_path / "certs")
    made = json.loads((tmp_path / "certs" / "callers.json").read_text())
    assert json.loads((deployed.BASE / "callers.json").read_text()) == made


def test_images_have_the_version_of_the_package() -> None:
    version = tomllib.loads((deployed.ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = yaml.safe_load((deployed.BASE / "kustomization.yaml").read_text())["images"]
    named = {one["image"] for pod in deployed.pods().values() for one in pod["containers"]}
    assert {one["name"]: one["newTag"] for one in images} == dict.fromkeys(named, version)


def test_what_is_in_an_image_is_an_extra_of_the_package() -> None:
    project: dict[str, Any] = tomllib.loads((deployed.ROOT / "pyproject.toml").read_text())["project"]
    for service in SERVICES:
        assert any(
            f"environment={service} " in f"{line} " for line in deployed.stages()[f"{service}-environment"]
        )
        assert service in project["optional-dependencies"]
