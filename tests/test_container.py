"""The image: what the Dockerfile says, and the package under the conditions of its container.

No test builds the image, since that needs a container engine. The environment variables, the user and the directories
are those of the Dockerfile.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from dockerfile import is_ignored, read_dockerfile

from asyncstreams.testing import BearerAuth, MockApi, Resource

ROOT = Path(__file__).parent.parent
UID = 10001
SHOP = """
from asyncstreams import HttpStream, PageNumber, Source, TokenAuthenticator

class ShopStream(HttpStream):
    primary_key = "id"
    records_path = "data"
    paginator = PageNumber()
    max_concurrency = 1

    def __init__(self, url_base):
        self.url_base = url_base
        super().__init__(authenticator=TokenAuthenticator("secret"))

    def path(self, context):
        return self.name

class Orders(ShopStream): ...
class Customers(ShopStream): ...

class Shop(Source):
    spec = {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}}

    def streams(self, config):
        return [Orders(config["url"]), Customers(config["url"])]
"""
READ = """
import asyncio, sys
from asyncstreams import DuckDB, JsonLines, Parquet, SQLite
from shop import Shop

DESTINATIONS = {"lines": JsonLines, "parquet": Parquet, "shop.sqlite": SQLite, "shop.duckdb": DuckDB}

url, data, *names = sys.argv[1:]
print("starts", flush=True)
for name in names:
    report = asyncio.run(Shop({"url": url}).extract(to=DESTINATIONS[name](f"{data}/{name}")))
    print(name, report.streams[0].written.rows, flush=True)
"""


IMAGE = read_dockerfile((ROOT / "Dockerfile").read_text("utf-8"))
IGNORE_RULES = [
    line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def arguments_of(name: str, stage: int) -> list[str]:
    return [instruction.arguments for instruction in IMAGE if (instruction.name, instruction.stage) == (name, stage)]


def environment_of_image(data: Path, source: Path) -> dict[str, str]:
    """ENV of the image, with the directories of a test in place of /data and /source, and this interpreter's PATH."""
    pairs = dict(pair.split("=", 1) for line in arguments_of("ENV", 1) for pair in shlex.split(line))
    moved = {name: value.replace("/data", str(data)).replace("/source", str(source)) for name, value in pairs.items()}
    return {**moved, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": f"{source}:{ROOT}"}


def test_image_has_two_stages_of_one_pinned_base() -> None:
    version = next(argument for argument in arguments_of("ARG", -1) if argument.startswith("PYTHON_VERSION="))

    assert re.fullmatch(r"PYTHON_VERSION=3\.\d+", version)
    assert f"Programming Language :: Python :: {version.split('=')[1]}" in PROJECT["project"]["classifiers"]
    assert [item.arguments for item in IMAGE if item.name == "FROM"] == [
        "python:${PYTHON_VERSION}-slim AS build",
        "python:${PYTHON_VERSION}-slim",
    ]


def test_extras_of_the_image_exist() -> None:
    [extras] = [argument for argument in arguments_of("ARG", 0) if argument.startswith("EXTRAS=")]
    known = PROJECT["project"]["optional-dependencies"]

    names = extras.removeprefix("EXTRAS=").split(",")
    assert {"cli", "report", "duckdb", "parquet", "zstd", "br", "uvloop"} <= set(names) <= set(known)
    assert any('".[${EXTRAS}]"' in command for command in arguments_of("RUN", 0))


def test_copied_files_exist_and_are_not_ignored() -> None:
    copied = [source for line in arguments_of("COPY", 0) for source in line.split()[:-1]]
    ignored = {name for name in os.listdir(ROOT) if is_ignored(name, IGNORE_RULES)}

    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert set(copied) == set(os.listdir(ROOT)) - ignored
    assert {".git", ".venv", "tests", "Dockerfile"} & set(os.listdir(ROOT)) <= ignored
    assert is_ignored("asyncstreams/cli/__pycache__/x.cpython-313.pyc", IGNORE_RULES)
    assert not is_ignored("asyncstreams/py.typed", IGNORE_RULES)


def test_build_needs_only_the_copied_files() -> None:
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *packages}

    assert needed == {source for line in arguments_of("COPY", 0) for source in line.split()[:-1]}


def test_image_runs_the_command_as_a_user_without_rights() -> None:
    assert arguments_of("USER", 1) == [f"{UID}:{UID}"]
    assert json.loads(arguments_of("ENTRYPOINT", 1)[0]) == list(PROJECT["project"]["scripts"])
    assert isinstance(json.loads(arguments_of("CMD", 1)[0]), list)
    assert arguments_of("STOPSIGNAL", 1) == ["SIGTERM"]
    [run] = arguments_of("RUN", 1)
    assert f"--uid {UID} --gid {UID}" in run
    assert f"install --directory --owner={UID} --group={UID} --mode=0750 /data" in run


def test_image_writes_to_its_volume_only() -> None:
    environment = environment_of_image(Path("/data"), Path("/source"))

    assert arguments_of("VOLUME", 1) == arguments_of("WORKDIR", 1) == ["/data"]
    written = {name: path for name, path in environment.items() if name == "HOME" or name.startswith("XDG_")}
    assert set(written) == {"HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"}
    assert all(Path(path).is_relative_to("/data") for path in written.values())
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "PYTHONPYCACHEPREFIX" not in environment  # Python would not use the compiled modules


def test_image_keeps_no_cache_of_pip() -> None:
    installs = [run for stage in (0, 1) for run in arguments_of("RUN", stage) if "pip" in run]

    assert len(installs) == 1
    assert "--no-cache-dir" in installs[0]
    assert arguments_of("COPY", 1) == ["--from=build /opt/asyncstreams /opt/asyncstreams"]
    assert "org.opencontainers.image.licenses=Apache-2.0" in shlex.split(arguments_of("LABEL", 1)[0])


@dataclass(frozen=True)
class Container:
    """Directories like those of the container: `source` and `empty` are read-only, `data` belongs to its user."""

    source: Path
    empty: Path
    data: Path

    def files_outside_data(self) -> list[str]:
        return sorted(str(path) for folder in (self.source, self.empty) for path in folder.rglob("*"))


@pytest.fixture
def container() -> Iterator[Container]:
    """Directories that other users can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="asyncstreams-container-") as folder:
        root = Path(folder)
        made = Container(root / "source", root / "empty", root / "data")
        root.chmod(0o755)
        for path in (made.source, made.empty, made.data):
            path.mkdir()
        made.source.joinpath("shop.py").write_text(SHOP)
        made.source.joinpath("read.py").write_text(READ)
        if os.geteuid() == 0:
            os.chown(made.data, UID, UID)
        made.data.chmod(0o700)
        for path in (made.source, made.empty):
            path.chmod(0o555)
        yield made
        for path in (made.source, made.empty):
            path.chmod(0o755)


def resources() -> tuple[Resource, Resource]:
    return Resource("orders", 95, page_size=10), Resource("customers", 5)


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(*resources(), auth=BearerAuth("secret"), process=True) as running:
        yield running


@cache
def as_container_user() -> list[str]:
    """The prefix of a command that runs it as the user of the image; empty if this process may not change its user."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed: apt-get install util-linux")
    options = (f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
    command = [setpriv, *options]
    probe = subprocess.run([*command, sys.executable, "-c", "import asyncstreams"], cwd=ROOT, capture_output=True)
    if probe.returncode != 0:
        pytest.skip(f"user {UID} cannot read the interpreter or the package: {probe.stderr.decode()[-200:]}")
    return command


def run_read(
    container: Container, environment: Mapping[str, str], api: MockApi, *names: str
) -> subprocess.CompletedProcess[str]:
    command = [*as_container_user(), sys.executable, "-W", "error", str(container.source / "read.py")]
    return subprocess.run(
        [*command, api.url, str(container.data), *names],
        cwd=container.empty,
        env=dict(environment),
        umask=0o077,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.program
def test_all_destinations_are_written_below_data_only(container: Container, api: MockApi) -> None:
    before = container.files_outside_data()
    environment = environment_of_image(container.data, container.source)

    done = run_read(container, environment, api, "lines", "parquet", "shop.sqlite", "shop.duckdb")

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.split("\n")[1:] == ["lines 95", "parquet 95", "shop.sqlite 95", "shop.duckdb 95", ""]
    assert container.files_outside_data() == before
    assert {path.stat().st_mode & 0o077 for path in container.data.rglob("*")} == {0}


def test_home_of_an_unknown_user_is_not_needed(container: Container, api: MockApi) -> None:
    given = environment_of_image(container.data, container.source)
    environment = {name: value for name, value in given.items() if name != "HOME" and not name.startswith("XDG_")}

    done = run_read(container, environment, api, "lines")

    assert (done.stderr, done.returncode) == ("", 0)
    assert [path.name for path in container.data.iterdir()] == ["lines"]


ISOLATED = """
set -eu
mount --make-rprivate /
mount --bind "$DATA" "$DATA"
mount -t tmpfs tmpfs "$TMPDIR"
mount -o remount,bind,ro /
cd "$DATA"
exec "$@"
"""
"""Runs a command with a read-only root: only the volume and the directory of temporary files can be written."""


def isolated(container: Container, *command: str) -> list[str]:
    """The command as process 1 of its own namespace, as the user of the image. Skips if that is not permitted."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("this user may not create namespaces: run it as root")
    return [*unshare, "sh", "-c", ISOLATED, "sh", *as_container_user(), *command]


def isolated_environment(container: Container) -> dict[str, str]:
    environment = environment_of_image(container.data, container.source)
    return {**environment, "DATA": str(container.data), "TMPDIR": str(container.empty)}


def process_1_of(unshare: subprocess.Popen[str]) -> int:
    """The id, outside of the namespace, of the process that is number 1 inside."""
    return int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0])


@pytest.mark.server("unshare")
@pytest.mark.program
def test_root_file_system_is_read_only(container: Container, api: MockApi) -> None:
    names = ("lines", "shop.duckdb")
    reading = [sys.executable, "-W", "error", str(container.source / "read.py"), api.url, str(container.data), *names]
    writing = [sys.executable, "-c", f"open({str(container.data.parent / 'x')!r}, 'w')"]
    environment = isolated_environment(container)

    refused = subprocess.run(isolated(container, *writing), env=environment, capture_output=True, text=True)
    done = subprocess.run(isolated(container, *reading), env=environment, capture_output=True, text=True)

    assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.split("\n")[1:] == [f"{name} 95" for name in names] + [""]
    assert list(container.empty.iterdir()) == []


@pytest.mark.server("unshare")
@pytest.mark.program
def test_process_1_commits_and_ends_on_sigterm(container: Container) -> None:
    environment = isolated_environment(container)
    with MockApi(*resources(), auth=BearerAuth("secret"), latency=0.05, process=True) as slow:
        reading = [sys.executable, str(container.source / "read.py"), slow.url, str(container.data), "lines"]
        command = isolated(container, *reading)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as first:
            wait_for_requests(slow, customers=2, orders=4)
            os.kill(process_1_of(first), signal.SIGTERM)
            assert first.wait(15) == 143
        before = slow.counts.by_resource
        second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        after = slow.counts.by_resource

    assert before["orders"] < 10
    assert (second.stdout, second.returncode) == ("starts\nlines 95\n", 0)
    assert after["customers"] == before["customers"]  # complete and committed before the signal


def wait_for_requests(api: MockApi, **counts: int) -> None:
    deadline = time.monotonic() + 20
    while any(api.counts.by_resource.get(name, 0) < count for name, count in counts.items()):
        assert time.monotonic() < deadline, api.counts
        time.sleep(0.02)
