"""The files of deploy/: each is well-formed, agrees with the server's settings, and names only what exists.

There is no container engine in the tests: instead the Dockerfile's steps are followed with a wheel in
an environment of its own, and its entry point and health check are run against the server there.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessera.server.settings import Settings, resolve_settings
from tests.server.conftest import Running

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DRAIN_S = Settings().shutdown_timeout
METRIC = re.compile(r"\b(?:tessera:|process_)\w+")


def manifest(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return next(document for document in documents if document["kind"] == kind)


def expressions() -> dict[str, list[str]]:
    board = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))
    return {
        "grafana": [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])],
        "alerts": [rule["expr"] for group in rules["groups"] for rule in group["rules"]],
    }


@pytest.mark.parametrize("source", ["grafana", "alerts"])
def test_every_metric_asked_for_exists(running: Running, source: str) -> None:
    running.get("/version")  # answers are counted by what they are, so there must be one
    lines = [line for line in running.get("/metrics").text.splitlines() if not line.startswith("#")]
    known = {re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines}
    asked = {name for expression in expressions()[source] for name in METRIC.findall(expression)}
    assert len(asked) >= 7
    assert asked <= known, asked - known
    # Labels that are grouped by or matched are labels that these metrics have.
    labels = {label for line in lines for label in re.findall(r"[{,](\w+)=", line)} | {"instance", "job"}
    for expression in expressions()[source]:
        used = re.findall(r"[{,]\s*(\w+)=", expression)
        used += [name for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(", ")]
        assert set(used) <= labels, expression
        assert all(expression.count(left) == expression.count(right) for left, right in ("()", "{}", "[]"))


def test_the_board_has_no_two_panels_in_one_place() -> None:
    panels = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))["panels"]
    cells = [
        (place["x"] + dx, place["y"] + dy)
        for place in (panel["gridPos"] for panel in panels)
        for dx in range(place["w"])
        for dy in range(place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_each_alert_says_what_it_means() -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert len({rule["alert"] for rule in rules}) == len(rules)


def test_the_kubernetes_manifest_agrees_with_the_server(tmp_path: Path) -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["enableServiceLinks"] is False  # or a service named tessera sets TESSERA_PORT=tcp://...
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert [probe["path"] for probe in probes.values()] == ["/health", "/health", "/ready"]
    file = tmp_path / "server.yaml"
    file.write_text(manifest("ConfigMap")["data"]["server.yaml"])
    environment = {entry["name"]: entry["value"] for entry in container["env"]} | {"TESSERA_HOST": "0.0.0.0"}
    settings, _ = resolve_settings({}, environment, file)
    assert settings.port == container["ports"][0]["containerPort"]
    assert settings.api_key_file is not None
    (pause,) = re.findall(r"time\.sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] > int(pause) + settings.shutdown_timeout
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert str(settings.api_key_file.parent) == mounts["keys"]
    assert container["args"] == ["serve", "--config", f"{mounts['settings']}/server.yaml"]
    assert manifest("Service")["spec"]["selector"].items() <= manifest("Deployment")["spec"]["template"]["metadata"][
        "labels"
    ].items()  # fmt: skip
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "tessera.service")
    return parser


def test_the_unit_waits_longer_than_the_server_drains() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > DRAIN_S
    assert int(service["WatchdogSec"]) >= 30  # a sign comes every ten seconds
    assert "--config" in service["ExecStart"]
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "tessera.service").read_text(encoding="utf-8")
    copy = tmp_path / "tessera.service"  # where its program exists
    copy.write_text(text.replace("/opt/tessera/bin/tessera", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    findings = [line for line in (done.stdout + done.stderr).splitlines() if "tessera.service" in line]
    assert not findings


def directives(text: str) -> dict[str, list[str]]:
    """nginx's directives by name, with their arguments; blocks are only counted."""
    text = re.sub(r"#.*", "", text)
    assert text.count("{") == text.count("}")
    found: dict[str, list[str]] = {}
    for statement in re.split(r"[;{}]", text):
        name, _, arguments = " ".join(statement.split()).partition(" ")
        found.setdefault(name, []).append(arguments)
    return found


def test_nginx_holds_no_stream_back() -> None:
    found = directives((DEPLOY / "nginx.conf").read_text(encoding="utf-8"))
    assert found["proxy_buffering"] == ["off"]
    assert found["proxy_http_version"] == ["1.1"]
    assert int(found["client_max_body_size"][0].removesuffix("m")) * 2**20 > Settings().max_body_bytes
    assert int(found["proxy_read_timeout"][0].removesuffix("s")) > 10 * Settings().keep_alive_s
    assert found["server"] == ["127.0.0.1:8000", ""]


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_takes_its_file(tmp_path: Path) -> None:
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    text = re.sub(r"listen 443 ssl;|ssl_certificate\w*\s.*;", "", text)  # there is no certificate here
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {folders} {text} }}"
    )
    command = ["nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_dockerfile_is_careful() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    names = {stage.split()[2]: stage for stage in stages}
    assert set(names) == {"wheel", "base", "cpu", "cuda"}
    for target in ("cpu", "cuda"):
        assert re.findall(r"^USER (.*)$", names[target], re.MULTILINE)[-1] == "10001:10001"
    instructions = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    assert "HEALTHCHECK" in instructions
    assert "safetensors" not in instructions  # no weights but those in the wheel
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied), copied
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "tessera"} <= copied  # what a wheel is built of
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied


@pytest.mark.slow
def test_the_wheel_serves_from_an_environment_of_its_own(tmp_path: Path) -> None:
    """The Dockerfile's steps: the wheel is built, installed, and started by the entry point as in the image."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TESSERA_", "PYTHON"))}

    def do(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    do(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels", str(ROOT))
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    home = tmp_path / "venv"
    do(sys.executable, "-m", "venv", "--without-pip", str(home))
    python = str(home / "bin" / "python")
    do(*pip, "--python", python, "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = home.glob("lib/python*/site-packages")
    # The dependencies are those of the tests, but not their editable Tessera: a .pth file leads to no other.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for name in ("entrypoint.sh", "healthy.py"):
        shutil.copy(DEPLOY / name, home / "bin")
    assert str(home) in do(python, "-c", "import tessera; print(tessera.__file__)")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment |= {"PATH": f"{home / 'bin'}:{environment['PATH']}", "TESSERA_PORT": port, "OMP_NUM_THREADS": "1"}
    assert "max_num_seqs" in do(str(home / "bin" / "entrypoint.sh"), "config", "show")
    healthy = [python, str(home / "bin" / "healthy.py")]
    assert subprocess.run(healthy, env=environment, timeout=60, check=False).returncode == 1
    server = subprocess.Popen(
        [str(home / "bin" / "entrypoint.sh"), "-m", "nano", "--kv-cache-bytes", "32M"],
        cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while subprocess.run(healthy, env=environment, timeout=60, check=False).returncode:
            assert server.poll() is None
            assert time.monotonic() < deadline
        page = do(python, "-c", f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/').read())")
        assert "Tessera" in page
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) in (0, -signal.SIGTERM)
