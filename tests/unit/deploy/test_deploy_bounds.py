"""deploy/kubernetes and deploy/compose.yaml: what the containers may do, and whom they reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.defaults import DEFAULT_PORTS, SERVICES
from support import deployed

WORKLOADS = (*SERVICES, "gateway")
each_workload = pytest.mark.parametrize("name", WORKLOADS)


def policies() -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one["spec"] for one in deployed.objects("NetworkPolicy")}


def reached(name: str) -> set[str]:
    """The pods of the suite that a policy lets its own pods call."""
    found: set[str] = set()
    for rule in policies()[name].get("egress", []):
        for peer in rule["to"]:
            selector = peer.get("podSelector", {})
            found |= {one for part in selector.get("matchExpressions", []) for one in part["values"]}
            found |= {one for key, one in selector.get("matchLabels", {}).items() if key.endswith("/name")}
    return found


def let_in(name: str) -> set[str]:
    """The pods of the suite that may call this one."""
    found: set[str] = set()
    for rule in policies()[name]["ingress"]:
        for peer in rule.get("from", []):
            selector = {} if "namespaceSelector" in peer else peer["podSelector"]
            found |= {one for part in selector.get("matchExpressions", []) for one in part["values"]}
            found |= {one for key, one in selector.get("matchLabels", {}).items() if key.endswith("/name")}
    return found


@each_workload
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    pod = deployed.pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        assert key not in pod
    # What the level `restricted` allows, but for the loader's socket.
    kinds = {key for volume in pod["volumes"] for key in volume} - {"name"}
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    assert kinds - allowed == ({"hostPath"} if name == "loader" else set())
    assert not any("hostPort" in port for one in pod["containers"] for port in one.get("ports", []))
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, container["name"]
        assert context["readOnlyRootFilesystem"] is True, container["name"]
        assert context["capabilities"]["drop"] == ["ALL"], container["name"]
        assert "memory" in container["resources"]["limits"], container["name"]
    as_root = {
        one["name"] for one in pod.get("initContainers", []) if one["securityContext"].get("runAsUser") == 0
    }
    assert as_root == ({"folder"} if name == "loader" else set())


@pytest.mark.parametrize("service", SERVICES)
def test_files_and_folders_of_settings_are_mounted(service: str) -> None:
    places = set(deployed.volumes_at(service))
    for variable, value in deployed.container_environment(service).items():
        if variable.startswith("MODELKEEP_") and value.startswith("/") and not variable.endswith("_DATA_DIR"):
            assert places & {*Path(value).parents, Path(value)}, f"{variable}: {value}"
    assert Path("/var/lib/modelkeep", service) in places
    assert (Path("/var/lib/modelkeep/models") in places) == (service != "record")


@pytest.mark.parametrize("service", ["record", "download", "install"])
def test_one_process_has_the_jobs_and_the_records(service: str) -> None:
    (made,) = (one for one in deployed.objects("Deployment") if one["metadata"]["name"] == service)
    assert made["spec"]["replicas"] == 1
    assert made["spec"]["strategy"] == {"type": "Recreate"}
    # A version that has migrated a database cannot be rolled back.
    assert made["spec"]["progressDeadlineSeconds"] >= 3600


def test_hosts_can_be_emptied_and_the_gateway_stays() -> None:
    """A budget for a single process would keep whoever drains its host waiting for good."""
    several = {one["metadata"]["name"]: one["spec"] for one in deployed.objects("Deployment")}
    several = {name: spec for name, spec in several.items() if spec["replicas"] > 1}
    budgets = {one["metadata"]["name"]: one["spec"] for one in deployed.objects("PodDisruptionBudget")}
    assert several.keys() == budgets.keys() == {"gateway"}
    for name, spec in several.items():
        assert budgets[name]["selector"] == spec["selector"]
        assert budgets[name]["maxUnavailable"] < spec["replicas"]
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"] == spec["selector"]


def test_volumes_are_claims_that_there_are() -> None:
    claims = {one["metadata"]["name"] for one in deployed.objects("PersistentVolumeClaim")}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in deployed.pods().values()
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == claims


def test_lent_memory_is_reached_at_the_path_that_the_loader_tells() -> None:
    environment = deployed.container_environment("loader")
    (mount,) = (one for one in deployed.container("loader")["volumeMounts"] if one["name"] == "run")
    (volume,) = (one for one in deployed.pods()["loader"]["volumes"] if one["name"] == "run")
    assert volume["hostPath"]["path"] == mount["mountPath"]
    for variable in ("DESCRIPTOR_DIR", "KEEPER_SOCKET"):
        assert Path(environment[f"MODELKEEP_LOADER_{variable}"]).is_relative_to(mount["mountPath"])
    (keeper,) = (one for one in deployed.pods()["loader"]["containers"] if one["name"] == "keeper")
    assert environment["MODELKEEP_LOADER_KEEPER_SOCKET"] in keeper["command"]
    (folder,) = deployed.pods()["loader"]["initContainers"]
    made = {Path(one).name for one in folder["command"] if one.startswith("/host/")}
    assert made == {"loader", "keeper"}


def test_nobody_is_reached_but_by_a_policy_that_says_so() -> None:
    nobody = policies()["nobody"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert {name: let_in(name) for name in SERVICES} == {
        "record": {"install", "loader", "gateway"},
        "download": {"install", "gateway"},
        "install": {"gateway"},
        "loader": {"install", "gateway"},
    }


@each_workload
def test_who_may_call_is_let_in_and_the_other_way_round(name: str) -> None:
    assert reached(name) == {other for other in SERVICES if name in let_in(other)}


def test_download_alone_reaches_out() -> None:
    out = {
        name
        for name, spec in policies().items()
        for rule in spec.get("egress", [])
        for peer in rule.get("to", [{"ipBlock": {}}])
        if "ipBlock" in peer
    }
    assert out == {"download"}
    compose = deployed.compose()
    assert {name for name, one in compose.items() if "outside" in one.get("networks", [])} == {
        "download",
        "gateway",  # whose port is published
    }


@each_workload
def test_policies_name_the_ports(name: str) -> None:
    ports = {port["port"] for rule in policies()[name]["ingress"] for port in rule["ports"]}
    own = {
        one["containerPort"] for one in deployed.container(name)["ports"] if one["name"] in ("grpc", "https")
    }
    assert ports == own
    called = {
        port["port"]
        for rule in policies()[name].get("egress", [])
        if all("podSelector" in peer for peer in rule["to"])
        for port in rule["ports"]
    }
    assert called == {DEFAULT_PORTS[other] for other in SERVICES if other in reached(name)}


def test_containers_of_compose_have_no_rights_that_they_do_not_need() -> None:
    for name, one in deployed.compose().items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", [])), name
