"""The manifest for KubeRay is YAML, and what it names is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

yaml: Any = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
CLUSTER, SERVICE = yaml.safe_load_all((ROOT / "docs" / "kuberay" / "squares.yaml").read_text())
GROUPS: list[dict[str, Any]] = CLUSTER["spec"]["workerGroupSpecs"]
HEAD: dict[str, Any] = CLUSTER["spec"]["headGroupSpec"]


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    return only  # type: ignore[no-any-return]


def test_it_is_a_cluster_and_a_service() -> None:
    assert (CLUSTER["apiVersion"], CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("v1", "Service")


def test_it_has_the_version_of_ray_that_poise_is_tested_with() -> None:
    assert f"ray=={CLUSTER['spec']['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert len({container(group)["image"] for group in (HEAD, *GROUPS)}) == 1


def test_the_service_finds_the_pods_that_serve_and_their_port() -> None:
    (web,) = [group for group in GROUPS if group["groupName"] == "web"]
    labels = web["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in container(web)["ports"]}
    (target,) = [port["targetPort"] for port in SERVICE["spec"]["ports"]]
    assert f"--port {ports[target]}" in container(web)["args"][0]
    assert container(web)["readinessProbe"]["httpGet"]["port"] in ports


def test_every_container_starts_ray_itself_as_the_annotation_asks() -> None:
    assert CLUSTER["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"
    for group in (HEAD, *GROUPS):
        assert "KUBERAY_GEN_RAY_START_CMD" in container(group)["args"][0]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes strings"


def test_the_application_that_it_serves_is_there() -> None:
    (web,) = [group for group in GROUPS if group["groupName"] == "web"]
    found = re.search(r"uvicorn (\S+):(\w+)", container(web)["args"][0])
    assert found is not None
    app: Any = getattr(importlib.import_module(found[1]), found[2])
    paths = {route.path for route in app.routes}
    assert container(web)["readinessProbe"]["httpGet"]["path"] in paths
