"""The snippets of docs/orchestrators.md: each runs against a MockApi.

By default, modules with the few names that the snippets use stand in for Airflow, Dagster and Prefect. With
`make test-orchestrators`, which sets ORCHESTRATORS to the folder of their environments, the real ones run the snippets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_snippets import snippet_of

from asyncstreams.testing import BearerAuth, MockApi, Resource

ROOT = Path(__file__).parent.parent
HERE = ROOT / "tests" / "orchestrators"
ENVIRONMENTS = os.environ.get("ORCHESTRATORS")
FILES = ("dags/shop_dags.py", "definitions.py", "flow.py")
QUIET = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


@dataclass(frozen=True)
class Deployment:
    """The files of the snippets, with `/opt/shop` and `/var/lib/shop` in a folder of the test."""

    folder: Path
    api: MockApi

    @property
    def out(self) -> Path:
        return self.folder / "lib" / "out"

    def moved(self, text: str) -> str:
        paths = {"/opt/shop": self.folder, "/var/lib/shop": self.folder / "lib"}
        for path, new in paths.items():
            text = text.replace(path, str(new))
        return text.replace("https://api.shop.example/v1/", self.api.url)

    def environment(self, name: str) -> dict[str, str]:
        """Variables of the shop and the orchestrator; the real one has its own environment, with the package."""
        connection = {"conn_type": "http", "host": self.api.url, "password": "secret"}
        modules = [self.folder] if ENVIRONMENTS else [self.folder, ROOT, HERE / "stubs"]
        modules.append(self.folder / "dags")
        return {
            **QUIET,
            "PATH": f"{self.python(name).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, modules)),
            "HOME": str(self.folder),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW_CONN_SHOP": json.dumps(connection),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "SHOP_URL": self.api.url,
            "SHOP_TOKEN": "secret",
            "OUT": str(self.out),
        }

    def python(self, name: str) -> Path:
        return ROOT / ENVIRONMENTS / name / "bin" / "python" if ENVIRONMENTS else Path(sys.executable)

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python(name)), *arguments]
        environment = self.environment(name)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    resources = Resource("customers", 30), Resource("orders", 250)
    with MockApi(*resources, auth=BearerAuth("secret"), process=True) as running:
        yield running


@pytest.fixture
def deployment(tmp_path: Path, api: MockApi) -> Deployment:
    made = Deployment(tmp_path, api)
    pages = {"shop.py": "deployment", "config.yaml": "deployment", **dict.fromkeys(FILES, "orchestrators")}
    tmp_path.joinpath("dags").mkdir()
    for file, page in pages.items():
        tmp_path.joinpath(file).write_text(made.moved(snippet_of(page, file=file)), "utf-8")
    return made


def result_of(done: subprocess.CompletedProcess[str]) -> Mapping[str, Any]:
    """The last line that a driver prints."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def records_of(out: Path, stream: str) -> int:
    return sum(len(part.read_bytes().splitlines()) for part in out.joinpath(stream).glob("*.jsonl"))


def test_dagster_asset_reports_the_run_as_metadata(deployment: Deployment) -> None:
    result = result_of(deployment.run("dagster", str(HERE / "run_dagster.py")))

    assert {name: result[name] for name in ("ok", "refused", "cron")} == {
        "ok": True,
        "refused": True,
        "cron": "15 * * * *",
    }
    assert (result["customers_records"], result["orders_records"]) == (30, 250)
    assert json.loads(Path(result["record"]).read_text())["verdict"] == result["limited_by"] != ""
    assert result["seconds"] > 0


def test_prefect_flow_returns_the_counts(deployment: Deployment) -> None:
    result = result_of(deployment.run("prefect", str(HERE / "run_prefect.py")))

    assert result == {"ok": True, "refused": True, "customers_records": 30, "orders_records": 250}
    assert records_of(deployment.out, "orders") == 250


@pytest.mark.program
def test_airflow_runs_the_task_and_the_command(deployment: Deployment) -> None:
    if ENVIRONMENTS:
        migrated = deployment.run("airflow", "-m", "airflow", "db", "migrate")
        assert migrated.returncode == 0, migrated.stderr

    result = result_of(deployment.run("airflow", str(HERE / "run_airflow.py")))

    assert result == {"ok": True, "refused": True}
    assert records_of(deployment.out, "orders") == 250
    assert records_of(deployment.folder / "lib" / "command", "orders") == 250


def workflow() -> dict[str, Any]:
    """The workflow of GitHub Actions; YAML 1.1 reads its key `on` as True."""
    document = yaml.safe_load(snippet_of("orchestrators", file=".github/workflows/shop.yml"))
    return {("on" if key is True else key): value for key, value in document.items()}


def test_workflow_keeps_its_output_and_its_secrets() -> None:
    found = workflow()
    [job] = found["jobs"].values()
    actions = {step["uses"].partition("@")[0]: step for step in job["steps"] if "uses" in step}
    saved, restored = actions["actions/cache/save"], actions["actions/cache/restore"]

    assert [len(schedule["cron"].split()) for schedule in found["on"]["schedule"]] == [5]
    assert found["permissions"] == {"contents": "read"}
    assert found["concurrency"]["cancel-in-progress"] is False
    assert saved["with"]["key"] == restored["with"]["key"] != restored["with"]["restore-keys"]
    assert saved["with"]["key"].startswith(restored["with"]["restore-keys"])
    assert saved["with"]["path"] == restored["with"]["path"] == "out"
    assert saved["if"] == actions["actions/upload-artifact"]["if"] == "always()"
    assert [name for step in job["steps"] for name in step.get("env", {})] == ["SHOP_TOKEN"]


@pytest.mark.parametrize(
    ("codes", "expected", "sleeps"),
    [([0], 0, []), ([2], 2, []), ([5], 5, []), ([4, 0], 0, [60]), ([3, 4, 1], 1, [60, 300, 0]), ([143], 143, [])],
)
def test_workflow_retries_what_may_end(codes: list[int], expected: int, sleeps: list[int], tmp_path: Path) -> None:
    [job] = workflow()["jobs"].values()
    [script] = [step["run"] for step in job["steps"] if step.get("name") == "Read the shop"]
    tmp_path.joinpath("codes").write_text("".join(f"{code}\n" for code in codes))
    commands = """
asyncstreams() { code=$(head -1 codes); sed -i 1d codes; return $code; }
sleep() { echo $1; }
"""

    # GitHub runs a script of bash with these options.
    done = subprocess.run(["bash", "-e", "-c", commands + script], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, list(map(int, done.stdout.split()))) == (expected, sleeps)
    assert tmp_path.joinpath("codes").read_text() == ""
