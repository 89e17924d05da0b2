"""The snippets of docs/deployment.md, and the commands of all pages about operation, run against a MockApi."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from doc_snippets import DOCS, snippet_of
from dockerfile import read_dockerfile

from asyncstreams.launch import ExitCode
from asyncstreams.storage.file_lock import OutputLock
from asyncstreams.testing import BearerAuth, MockApi, Resource

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
ORDERS = 250


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    resources = Resource("customers", 30), Resource("orders", ORDERS)
    with MockApi(*resources, auth=BearerAuth("secret"), process=True) as running:
        yield running


class Machine:
    """A machine of the documentation: its absolute paths lie in a folder of the test."""

    def __init__(self, folder: Path, api: MockApi) -> None:
        self.folder, self.api = folder, api
        for name, text in {
            "/opt/shop/shop.py": snippet_of("deployment", file="shop.py"),
            "/opt/shop/config.yaml": snippet_of("deployment", file="config.yaml"),
            "/source/shop.py": snippet_of("deployment", file="shop.py"),
            "/source/config.yaml": snippet_of("deployment", file="config.yaml"),
            "/etc/shop/config.yaml": snippet_of("deployment", file="/etc/shop/config.yaml"),
            "/run/credentials/shop.service/token": "secret\n",
        }.items():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.moved(text), "utf-8")

    def path(self, name: str) -> Path:
        return self.folder / name.removeprefix("/")

    def moved(self, text: str) -> str:
        """A text with the paths of this machine, and the URL of its API."""
        text = text.replace("https://api.shop.example/v1/", self.api.url).replace("/opt/shop/.venv/bin", str(BIN))
        return re.sub(
            r"(?<![\w/])/(opt/shop|source|data|var/lib|etc/shop|run/credentials)\b", rf"{self.folder}/\1", text
        )

    def environment(self, token: str = "secret") -> dict[str, str]:
        return {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHONPATH": os.pathsep.join((str(self.path("/source")), str(ROOT))),
            "SHOP_TOKEN": token,
        }

    def run(self, command: str, token: str = "secret") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", self.moved(command)],
            cwd=self.folder,
            env=self.environment(token),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def machine(tmp_path: Path, api: MockApi) -> Machine:
    return Machine(tmp_path, api)


def records_of(out: Path, stream: str = "orders") -> int:
    return sum(len(part.read_bytes().splitlines()) for part in out.joinpath(stream).glob("*.jsonl"))


def run_records(out: Path) -> list[Any]:
    return [json.loads(path.read_bytes()) for path in sorted(out.joinpath(".asyncstreams", "runs").glob("*.json"))]


def cron_job() -> str:
    [job] = [line for line in snippet_of("deployment", language="crontab").splitlines() if not re.match(r"\w+=", line)]
    return job


def cron_job_manifest() -> dict[str, Any]:
    return yaml.safe_load(snippet_of("deployment", heading="Kubernetes", language="yaml"))


def docker_run() -> list[str]:
    script = snippet_of("deployment", heading="Docker", language="sh").replace("\\\n", " ")
    [command] = [line for line in script.splitlines() if line.startswith("docker run")]
    return shlex.split(command)


def unit(name: str) -> str:
    return snippet_of("deployment", file=f"/etc/systemd/system/{name}")


def directives(name: str) -> dict[str, dict[str, list[str]]]:
    """The values of a unit file, by section and key, in order."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in unit(name).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


def test_configuration_fits_the_spec_of_the_source(machine: Machine) -> None:
    names: dict[str, Any] = {}
    exec(snippet_of("deployment", file="shop.py"), names)
    spec = names["Shop"].spec

    for file in ("config.yaml", "/etc/shop/config.yaml"):
        jsonschema.validate(yaml.safe_load(snippet_of("deployment", file=file)), spec)
    assert [name for name, field in spec["properties"].items() if field.get("airbyte_secret")] == ["token"]


def test_documented_exit_codes_are_those_of_the_command() -> None:
    section = DOCS.joinpath("deployment.md").read_text("utf-8").partition("**Exit codes.**")[2].partition("\n\n**")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if re.match(r"\| \d", line)]

    assert sorted(int(code) for cell in cells for code in cell.split(",")) == sorted(ExitCode)


@pytest.mark.program
def test_docker_run_is_read_only_and_stops_in_order(machine: Machine) -> None:
    words = docker_run()
    options, arguments = words[: words.index("asyncstreams")], words[words.index("asyncstreams") :]

    assert {"--rm", "--read-only", "--tmpfs", "--cap-drop"} <= set(options)
    assert int(options[options.index("--stop-timeout") + 1]) >= 30
    mounts = dict(options[place + 1].split(":")[:2] for place, word in enumerate(options) if word == "--volume")
    assert mounts == {"out": "/data", "./shop.py": "/source/shop.py", "./config.yaml": "/source/config.yaml"}
    assert options[options.index("--env") + 1] == "SHOP_TOKEN"  # its value stays out of the history of the shell
    done = machine.run(shlex.join(arguments))
    assert done.returncode == 0, done.stderr
    assert records_of(machine.path("/data/out")) == ORDERS
    assert all(json.loads(line) for line in done.stderr.splitlines())
    assert [record["outcome"] for record in run_records(machine.path("/data/out"))] == ["complete"]


@pytest.mark.program
def test_report_and_history_of_the_documented_output(machine: Machine) -> None:
    pytest.importorskip("asyncstreams.observability.report", exc_type=ImportError)
    [*read, place, out, _] = docker_run()[docker_run().index("asyncstreams") :]
    read_once = machine.run(shlex.join([*read, place, out, "--select", "customers"]))
    assert read_once.returncode == 0, read_once.stderr
    pages = "".join(DOCS.joinpath(f"{page}.md").read_text("utf-8") for page in ("deployment", "orchestrators"))
    found = {match[1] for match in re.finditer(r"(asyncstreams (?:runs|report) [^`\n]+)[`\n]", pages)}

    for command in found:
        moved = command.replace(" out/", " /data/out").replace("/var/lib/shop/out", "/data/out")
        done = machine.run(moved.replace("/tmp/", f"{machine.folder}/"))
        assert done.returncode == 0, f"{command}: {done.stderr}"
    [record] = run_records(machine.path("/data/out"))
    for page in ("shop.html", "report.html", f"report-{record['id'].replace('.', '_')}.html"):
        assert record["id"] in machine.folder.joinpath(page).read_text("utf-8")
    assert len(found) == 5


def test_derived_image_runs_as_the_same_user() -> None:
    image = read_dockerfile((ROOT / "Dockerfile").read_text("utf-8"))
    derived = read_dockerfile(snippet_of("deployment", language="dockerfile"))
    users = [item.arguments for item in derived if item.name == "USER"]
    [install] = [item.arguments for item in derived if item.name == "RUN"]

    assert users == ["root", *(item.arguments for item in image if item.name == "USER")]
    folder = install.partition("--python ")[2].split()[0]
    assert ("COPY", f"--from=build {folder} {folder}") in [(item.name, item.arguments) for item in image]


def test_kubernetes_job_has_no_rights_and_no_overlap() -> None:
    manifest = cron_job_manifest()
    job = manifest["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]

    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    assert len(manifest["spec"]["schedule"].split()) == 5
    assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
    assert pod["terminationGracePeriodSeconds"] >= 30
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"data": "/data", "source": "/source", "tmp": "/tmp"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_kubernetes_retries_what_may_end_otherwise() -> None:
    job = cron_job_manifest()["spec"]["jobTemplate"]["spec"]
    fail, ignore = job["podFailurePolicy"]["rules"]

    assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy requires it
    assert fail["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert (fail["action"], fail["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert fail["onExitCodes"]["values"] == [ExitCode.USAGE, ExitCode.THRESHOLD_MISSED]
    assert (ignore["action"], ignore["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget"}])


def test_kubernetes_runs_the_command_of_docker() -> None:
    [container] = cron_job_manifest()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]

    assert container["args"] == docker_run()[docker_run().index("asyncstreams") + 1 :]
    assert [variable["name"] for variable in container["env"]] == ["SHOP_TOKEN"]


@pytest.mark.program
def test_cron_job_prints_only_when_it_fails(machine: Machine) -> None:
    *fields, command = cron_job().split(" ", 5)

    assert len(fields) == 5
    assert "%" not in command  # cron ends the command there
    done = machine.run(command)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert records_of(machine.path("/var/lib/shop/out")) == ORDERS
    refused = machine.run(command, token="wrong")
    assert refused.stderr
    assert refused.returncode == ExitCode.USAGE
    assert "wrong" not in refused.stderr


def test_second_run_ends_and_names_the_first_one(machine: Machine) -> None:
    command = cron_job().split(" ", 5)[5]
    folder = machine.path("/var/lib/shop/out/.asyncstreams")
    folder.mkdir(parents=True)
    lock = OutputLock(folder / "lock", time.time())

    try:
        second = machine.run(command)
    finally:
        lock.release()

    assert second.returncode == ExitCode.FAILED
    assert f"is being written to by process {os.getpid()} on " in second.stderr


def test_systemd_service_reads_with_its_credential(machine: Machine) -> None:
    service = directives("shop.service")["Service"]

    done = machine.run(service["ExecStart"][0], token="")

    assert done.returncode == 0, done.stderr
    assert records_of(machine.path("/var/lib/shop/out")) == ORDERS
    assert service["Type"] == ["oneshot"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["LoadCredential"] == ["token:/etc/shop/token"]
    assert service["SuccessExitStatus"] == [str(int(ExitCode.TERMINATED))]
    assert service["RestartPreventExitStatus"] == [f"{ExitCode.USAGE:d} {ExitCode.THRESHOLD_MISSED:d}"]
    assert directives("shop.service").keys() == {"Unit", "Service"}  # the timer starts it, so it has no [Install]
    assert directives("shop.timer").keys() == {"Unit", "Timer", "Install"}


@pytest.mark.server("systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name in ("shop.service", "shop.timer"):
        text = unit(name).replace("User=shop", "DynamicUser=yes")  # this machine has neither the user nor the command
        tmp_path.joinpath(name).write_text(re.sub(r"ExecStart=\S+", "ExecStart=/usr/bin/env", text))
    verify = ["systemd-analyze", "verify", "shop.service", "shop.timer"]
    secure = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", "shop.service"]

    verified = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True)
    secured = subprocess.run(secure, cwd=tmp_path, capture_output=True, text=True)

    assert (verified.stdout, verified.stderr, verified.returncode) == ("", "", 0)
    assert secured.returncode == 0, secured.stdout[-500:]  # an exposure of at most 2.5 of 10
