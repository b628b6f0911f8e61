"""deploy/: what can be said of the files without a cluster, a daemon or root."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import click
import pytest
import yaml

from gateway.cli.serve import serve
from gateway.config import is_loopback, loads
from gateway.server.app import build_app
from gateway.server.listening_socket import BACKLOG, inherited
from tests.deploy_commands import manifest

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
HIGHEST_EXPOSURE = 1.5
"""What ``systemd-analyze security`` says of a service that still needs the network is 1.2."""


def paths_served() -> set[str]:
    state = MagicMock()
    state.config.server.max_body_bytes = 1
    return {route.resource.canonical for route in build_app(state).router.routes() if route.resource is not None}


def options_of(words: list[str]) -> dict[str, Any]:
    """What ``gateway serve`` understands by ``words``, the first of which is ``serve``. Raises click's errors."""
    assert words[0] == "serve"
    return serve.make_context("serve", words[1:]).params


# -- systemd ---------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """Key -> its values, of all sections."""
    values: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def test_the_service_starts_what_exists() -> None:
    service = unit("gateway.service")
    (command,) = service["ExecStart"]
    program, *words = shlex.split(command)
    assert program.endswith("/bin/gateway")
    options = options_of(words)
    assert service["Type"] == ["notify"]
    assert service["KillMode"] == ["mixed"], "a worker that is signalled too would leave early"
    assert int(service["TimeoutStopSec"][0]) >= options["drain_seconds"] + 10
    assert int(service["WatchdogSec"][0]) > 0
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert not str(options["path"]).startswith(("/home", "/root")), "ProtectHome hides it"


def test_the_socket_is_one_that_the_gateway_takes() -> None:
    socket = unit("gateway.socket")
    host, _, port = socket["ListenStream"][0].rpartition(":")
    assert is_loopback(host)
    assert port.isdigit()
    assert socket["Backlog"] == [str(BACKLOG)]
    assert "Accept" not in socket, "one process for all connections"
    assert inherited({}) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    for name in ("gateway.service", "gateway.socket"):
        text = (DEPLOY / name).read_text()
        # The programs of this machine stand in for those of the one where it is installed.
        text = text.replace("/opt/gateway/bin/gateway", sys.executable).replace("/bin/kill", str(shutil.which("true")))
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "./gateway.service", "./gateway.socket"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    said = [line for line in (checked.stdout + checked.stderr).splitlines() if "gateway." in line]
    assert said == []
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_service_is_locked_up(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "gateway.service", tmp_path)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "./gateway.service"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    if "Unknown" in checked.stderr or "unrecognized option" in checked.stderr:
        pytest.skip("this systemd is older than 250")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", checked.stdout)
    assert found is not None, checked.stderr
    assert float(found[1]) <= HIGHEST_EXPOSURE, checked.stdout


# -- Docker ----------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def of(kind: str) -> list[str]:
    return [value for name, value in instructions() if name == kind]


def test_the_image_is_built_from_what_is_there() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for value in of("COPY"):
        words = value.split()
        if words[0].startswith("--from="):
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert f"\n!{source.split('/')[0]}\n" in ignored, f"{source} is not sent to the builder"
    kept = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    assert not [name for name in kept if not (ROOT / name).exists()]


def test_the_image_installs_what_is_pinned() -> None:
    installs = [step for value in of("RUN") for step in value.split("&&") if " pip install " in step]
    assert len(installs) == 3
    for step in installs:
        assert "--require-hashes" in step or "--no-index" in step, step
    assert {"run", "build"} == set(re.findall(r"-r requirements/(\w+)\.txt", " ".join(installs)))


def test_the_image_runs_without_rights() -> None:
    (user,) = of("USER")
    assert all(part.isdigit() and int(part) > 0 for part in user.split(":")), "a number, or runAsNonRoot cannot tell"
    last_from = max(number for number, (name, _) in enumerate(instructions()) if name == "FROM")
    assert [name for name, _ in instructions()[last_from:] if name == "RUN"] == []
    assert all(":" in value and ":latest" not in value for value in of("FROM"))


def test_the_image_starts_what_exists() -> None:
    assert json.loads(of("ENTRYPOINT")[0]) == ["gateway"]
    options = options_of(json.loads(of("CMD")[0]))
    assert of("EXPOSE") == [str(options["port"])]
    assert str(options["path"].parent) == of("WORKDIR")[-1]
    (health,) = of("HEALTHCHECK")
    probe = json.loads(health.partition("CMD ")[2])
    assert probe[:2] == ["python", "-c"]
    found = re.search(r"127\.0\.0\.1:(\d+)(/\w+)", probe[2])
    assert found is not None
    assert found[1] == str(options["port"])
    assert found[2] in paths_served()
    compile(probe[2], "HEALTHCHECK", "exec")


def test_the_ledger_can_be_written_wherever_the_gateway_is_deployed(container: dict[str, Any]) -> None:
    """In each place one folder is its own, and the documents and the manifest put the ledger there."""
    (folder,) = of("VOLUME")
    owned = [value for value in of("COPY") if value.endswith(f" {folder}")]
    assert [f"--chown={of('USER')[0]}" in value for value in owned] == [True]
    assert [f"/var/lib/{name}" for name in unit("gateway.service")["StateDirectory"]] == [folder]
    assert [each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")] == [folder]
    said = yaml.safe_load(of_kind("ConfigMap")["data"]["providers.yaml"])["server"]["ledger"]["file"]
    assert said == f"{folder}/usage.db"
    pages = (ROOT / "docs" / "operations.md").read_text()
    for place in ("systemd", "Docker"):
        section = pages.partition(f"## {place}\n")[2].partition("\n## ")[0]
        assert f"ledger: {{file: {said}}}" in section


# -- Kubernetes ------------------------------------------------------------------------------------------


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in manifest() if each["kind"] == kind)
    return found


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = of_kind("Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return dict(only)


def test_the_config_map_is_a_configuration(tmp_path: Path, container: dict[str, Any]) -> None:
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    text: str = of_kind("ConfigMap")["data"]["providers.yaml"]
    # The directory of the Secret, with its files.
    for name, value in of_kind("Secret")["stringData"].items():
        (tmp_path / name).write_text(value)
    config = loads(text.replace(mounts["keys"], str(tmp_path)).encode(), "providers.yaml", {})
    assert config.warnings == ()
    assert config.server.token, "the network needs a token"
    assert not is_loopback(config.server.host)
    assert all(provider.missing_key is None for provider in config.providers.values())
    assert {file.name for file in config.files} == set(of_kind("Secret")["stringData"])


def test_the_container_reads_what_is_mounted(pod: dict[str, Any], container: dict[str, Any]) -> None:
    options = options_of(container["args"])
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    assert str(options["path"]) == f"{mounts['config']['mountPath']}/providers.yaml"
    assert options["port"] == container["ports"][0]["containerPort"]
    assert not [each for each in mounts.values() if "subPath" in each], "such a file never changes"
    assert [name for name, each in mounts.items() if not each.get("readOnly")] == ["state"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == of_kind("ConfigMap")["metadata"]["name"]
    assert volumes["keys"]["secret"]["secretName"] == of_kind("Secret")["metadata"]["name"]
    assert set(volumes) == set(mounts)


def test_the_probes_ask_for_what_is_served(container: dict[str, Any]) -> None:
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": container["ports"][0]["name"]}
        assert path in paths_served()


def test_there_is_time_to_stop(pod: dict[str, Any], container: dict[str, Any]) -> None:
    drain = options_of(container["args"])["drain_seconds"]
    asleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= asleep + drain + 10
    assert of_kind("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_pod_has_no_rights(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) == of("USER")[0].split(":")[0]
    assert pod["automountServiceAccountToken"] is False
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}


def test_the_parts_find_each_other() -> None:
    template = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = of_kind(kind)["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= template.items()
    assert of_kind("Service")["spec"]["ports"][0]["targetPort"] == "http"


@pytest.mark.parametrize("words", [["serve", "--no-such-option"], ["serve", "--drain-seconds", "901"]])
def test_the_reader_of_options_refuses(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        options_of(words)
