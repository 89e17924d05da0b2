"""The command doctor: each finding, its hint, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import command_shop
import pytest
from typer.testing import CliRunner

import asyncstreams
from asyncstreams.cli import doctor
from asyncstreams.cli.app import new_app
from asyncstreams.cli.doctor import Extra, Finding

PROXY = "http://user:pa%20ss@proxy.example.com:3128"


def one(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert isinstance(finding, Finding)
    return finding


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_healthy_machine_has_no_problem() -> None:
    result = CliRunner().invoke(new_app(), ["doctor", "--json"])
    findings = {finding["subject"]: finding for finding in json.loads(result.stdout)}

    assert result.exit_code == 0, result.output
    subjects = {"Python", "extra duckdb", "TLS library", "certificates", "proxies", "open files", "state folder"}
    assert subjects <= findings.keys()
    assert {finding["status"] for finding in findings.values()} <= {"ok", "warning"}
    assert not any(name in os.listdir() for name in ("state", "asyncstreams"))


def test_source_is_loaded_too() -> None:
    result = CliRunner().invoke(new_app(), ["doctor", f"{command_shop.__file__}:Shop"])
    created = CliRunner().invoke(
        new_app(), ["doctor", f"{command_shop.__file__}:Shop", "--set", "url=http://x/", "--set", "token=t0ken-1"]
    )

    assert result.exit_code == created.exit_code == 0
    assert "can be imported" in result.stdout
    assert "is a valid JSON schema" in result.stdout
    assert "customers, orders, products" in created.stdout


def test_broken_source_is_a_problem() -> None:
    Path("broken.py").write_text("import nothing_of_this_name")

    result = CliRunner().invoke(new_app(), ["doctor", "broken.py:Shop"])

    assert result.exit_code == 1
    assert "nothing_of_this_name" in result.stdout
    assert result.stderr == "1 problem\n"


def test_missing_extra_has_its_command() -> None:
    missing = Extra("x", "something", {"a-distribution": "no_module_of_this_name", "b": "no_module.inner"})

    finding = doctor.examine_extra(missing)

    assert finding == Finding(
        "extra x", "ok", "not installed: a-distribution, b, for something", 'pip install "asyncstreams[x]"'
    )
    assert doctor.examine_extra(Extra("r", "", {"rich": "rich"})).details.startswith("rich 1")


def test_old_uvloop_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version_of", lambda name: "0.9.1")

    finding = doctor.examine_extra(Extra("uvloop", "", {"uvloop": "rich"}))

    assert finding.status == "warning"
    assert "--upgrade" in finding.hint


def test_certificates_that_do_not_exist_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")

    for path in ("/nonexistent.pem", str(tmp_path / "empty.pem")):
        finding = list(doctor.examine_tls({"SSL_CERT_FILE": path}))[1]
        assert finding.status == "problem"
        assert path in finding.details
        assert finding.hint.startswith("set SSL_CERT_FILE")


def test_log_of_tls_keys_is_a_warning() -> None:
    finding = list(doctor.examine_tls({"SSLKEYLOGFILE": "/tmp/keys"}))[-1]

    assert (finding.status, finding.hint) == ("warning", "unset SSLKEYLOGFILE")


def test_password_of_a_proxy_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)

    result = CliRunner().invoke(new_app(), ["doctor", "--json"])

    assert "http://proxy.example.com:3128, with a password" in result.stdout
    assert not any(secret in result.output for secret in ("user:", "pa%20ss", "pa ss"))


def test_text_that_is_no_proxy_is_a_problem() -> None:
    finding = one(doctor.examine_proxies({"https": "ftp://user:secret@x"}, {}))

    assert finding.status == "problem"
    assert "secret" not in str(finding)


def test_socks_proxy_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name != "socksio")

    finding = one(doctor.examine_proxies({"all": "socks5://proxy"}, {}))

    assert (finding.status, finding.hint) == ("problem", 'pip install "asyncstreams[socks]"')


def test_ignored_proxy_of_a_cgi_script_is_a_warning() -> None:
    findings = list(doctor.examine_proxies({"http": "proxy:80", "no": "localhost"}, {"REQUEST_METHOD": "GET"}))

    assert [finding.status for finding in findings] == ["ok", "ok", "warning"]


@pytest.mark.parametrize(
    ("limit", "status"), [(None, "ok"), (65_536, "ok"), (256, "warning"), (32, "problem")], ids=str
)
def test_low_limit_on_open_files(limit: int | None, status: str) -> None:
    finding = doctor.examine_open_files(limit)

    assert finding.status == status
    assert ("ulimit -n" in finding.hint) == (status != "ok")


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)

    finding = doctor.examine_folder("state folder", tmp_path / "deep" / "state", "set X")

    assert finding == Finding(
        "state folder", "warning", f"{tmp_path}/deep/state cannot be written: Read-only file system", "set X"
    )
    assert doctor.examine_folder("temporary files", tmp_path, "", is_vital=True).status == "problem"


def test_nearly_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage())

    finding = doctor.examine_folder("working directory", tmp_path, "free space")

    assert finding.details == f"{tmp_path}: only 3 MiB are free"


class _Usage:
    free = 3 * 2**20


def test_doctor_as_a_process() -> None:
    environ = os.environ | {
        "PYTHONPATH": str(Path(asyncstreams.__file__).parent.parent),
        "ALL_PROXY": "gopher://user:secret@x",
    }
    command = [sys.executable, "-W", "error", "-m", "asyncstreams", "doctor"]

    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "proxy for all" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert done.stderr == "1 problem\n"
