"""What deploy/ holds fits the code: commands, options, ports, paths, names of variables."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from embedsearch.cli.app import app
from embedsearch.cli.entry import run  # which registers the commands
from embedsearch.cli.servers import OverHttp
from embedsearch.network.catalog import CATALOG
from embedsearch.web.limits import ServerLimits
from embedsearch.web.probes import PROBES
from tests.support.library import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
FILES = (
    *("Dockerfile", "compose.yaml", "embedsearch.service", "kubernetes.yaml", "README.md"),
    *("nginx-site.conf", "nginx-path.conf"),
)
TEXTS = {name: (DEPLOY / name).read_text() for name in FILES}
USER = "10001"


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return the options of a command line. Fails where it cannot be parsed."""
    assert callable(run)
    name, *rest = arguments
    command: Any = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    values: dict[str, Any] = command.make_context(name, rest).params
    return values


def json_words(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)


def documents(name: str) -> list[Any]:
    yaml: Any = pytest.importorskip("yaml", reason="needs PyYAML")
    return list(yaml.safe_load_all(TEXTS[name]))


def check_server(arguments: list[str], *, has_token: bool) -> None:
    values = parsed(arguments)
    assert arguments[0] == "serve" and values["port"] == OverHttp.port == 8000
    is_public = values["host"] != OverHttp.host
    assert not is_public or has_token
    assert ("*" in (values["allow_host"] or [])) == is_public


def test_the_image() -> None:
    text = TEXTS["Dockerfile"].replace("\\\n", " ")
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.M)
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.M) == ['["embedsearch"]']
    check_server(json_words(command), has_token=True)
    assert re.findall(r"^EXPOSE (.*)$", text, re.M) == [str(OverHttp.port)]
    probe = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", text)
    assert probe == [(str(OverHttp.port), "/livez")] and probe[0][1] in PROBES
    (model,) = re.findall(r"^ARG MODEL=(.*)$", text, re.M)
    assert model in CATALOG
    assert parsed(["prepare", model])["models"] == [model]
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        *sources, _ = line.split()
        assert all((REPOSITORY / source).exists() for source in sources), line
        ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        assert {f"!{source}" for source in sources} <= set(ignored)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r'"/src\[(.*)\]"', text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (python,) = re.findall(r"^ARG PYTHON=(.*)$", text, re.M)
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"]}
    assert needed <= set(text.split()), "what the build reads"
    assert re.findall(r"^USER (.*)$", text, re.M) == [f"{USER}:0"], "not root"


def test_variables_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (REPOSITORY / "embedsearch").rglob("*.py"))
    known = set(re.findall(r"EMBEDSEARCH_[A-Z_]+", code))
    for name, text in TEXTS.items():
        assert set(re.findall(r"EMBEDSEARCH_[A-Z_]+", text)) <= known, name


def test_the_compose_file() -> None:
    (compose,) = documents("compose.yaml")
    image = dict(re.findall(r"(EMBEDSEARCH_\w+)=(\S+)", TEXTS["Dockerfile"]))
    services = compose["services"]
    for service in services.values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert (DEPLOY / service["build"]["context"]).resolve() == REPOSITORY.resolve()
        assert (REPOSITORY / service["build"]["dockerfile"]).exists()
        targets = {
            volume.split(":")[-1 if "}" not in volume else -2] for volume in service["volumes"]
        }
        assert {image["EMBEDSEARCH_CACHE"], "/photos"} <= targets
        assert any(image["EMBEDSEARCH_STORE"].startswith(f"{target}/") for target in targets)
        assert any(line.startswith("/tmp:") for line in service["tmpfs"])
    names = {volume.split(":")[0] for volume in services["index"]["volumes"][1:]}
    assert names == set(compose["volumes"])
    assert services["serve"]["ports"] == [f"127.0.0.1:8000:{OverHttp.port}"]
    assert "EMBEDSEARCH_TOKEN" in services["serve"]["environment"]
    assert parsed(services["index"]["command"])["folders"] == ["/photos"]


def test_the_manifest_of_kubernetes() -> None:
    found = {document["kind"]: document for document in documents("kubernetes.yaml")}
    assert set(found) == {"PersistentVolumeClaim", "Job", "Deployment", "Service"}
    pods = {kind: found[kind]["spec"]["template"]["spec"] for kind in ("Job", "Deployment")}
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert str(pod["securityContext"]["runAsUser"]) == USER
        (container,) = pod["containers"]
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert (mounts["store"], mounts["tmp"]) == ("/data", "/tmp")
        assert {"requests", "limits"} == set(container["resources"])
    (index,), (server,) = pods["Job"]["containers"], pods["Deployment"]["containers"]
    assert parsed(index["args"])["folders"] == ["/photos"]
    names = {variable["name"] for variable in server["env"]}
    check_server(server["args"], has_token="EMBEDSEARCH_TOKEN" in names)
    assert server["ports"] == [{"name": "http", "containerPort": OverHttp.port}]
    probes = {
        name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {probe["path"] for probe in probes.values()} == PROBES
    assert probes["readiness"]["path"] == "/readyz"
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    claim = found["PersistentVolumeClaim"]["metadata"]["name"]
    (store,) = (v for v in pods["Job"]["volumes"] if v["name"] == "store")
    assert store["persistentVolumeClaim"]["claimName"] == claim
    secret = server["env"][0]["valueFrom"]["secretKeyRef"]
    assert (
        f"create secret generic {secret['name']} --from-literal={secret['key']}="
        in (TEXTS["kubernetes.yaml"])
    )


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    text = TEXTS["embedsearch.service"]
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
    program, *arguments = shlex.split(start)
    check_server(arguments, has_token=True)
    assert "SuccessExitStatus=143" in text, "which ends it by SIGTERM"
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "embedsearch.service"
    here = text.replace(program, shutil.which("true") or "/bin/true")
    unit.write_text(here.replace("User=embedsearch", "User=daemon"))
    done = subprocess.run(
        [analyze, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "embedsearch" in line]
    assert (done.returncode, said) == (0, [])
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-300:]


@pytest.mark.parametrize("name", ["nginx-site.conf", "nginx-path.conf"])
def test_the_bounds_of_nginx_are_those_of_the_server(name: str) -> None:
    text, limits = TEXTS[name], ServerLimits()
    assert re.findall(r"client_max_body_size (\d+)m;", text) == [str(limits.body_bytes >> 20)]
    (idle,) = re.findall(r"^    keepalive_timeout (\d+)s;", text, re.M)
    assert int(idle) < limits.idle_s
    assert f"server 127.0.0.1:{OverHttp.port};" in text
    (command,) = re.findall(r"^#   embedsearch (.*)$", text, re.M)
    assert parsed(shlex.split(command))["public_url"].startswith("https://")


def test_commands_of_the_page() -> None:
    commands = re.findall(
        r"^(?:\$ )?embedsearch ((?:serve|index|prepare|mcp) .*)$", TEXTS["README.md"], re.M
    )
    assert commands
    for command in commands:
        parsed(shlex.split(command))
