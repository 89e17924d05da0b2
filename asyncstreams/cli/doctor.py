"""The command `doctor`: what of this machine matters for a run, and how to fix what is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

import certifi
import typer

from .._version import __version__
from ..errors import AsyncStreamsError, ConfigError
from ..launch import ExitCode
from ..schemas.record_schema import RecordSchema
from ..wire.proxies import parse_proxy
from ..wire.tls import DEFAULT_TLS, tls_context, with_environment
from .failures import CommandOutput, command_output
from .opened_source import open_source
from .options import ConfigOption, DebugOption, SetOption
from .source_loader import load_source_class
from .state_folder import state_folder
from .stdout_tables import Cell, StyledText, TablePrinter

Status: TypeAlias = Literal["ok", "warning", "problem"]
_STYLES: Mapping[Status, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_MIN_OPEN_FILES, _FEW_OPEN_FILES = 64, 1_024
_MIN_UVLOOP = 0, 23
_MIN_FREE_BYTES = 100 * 2**20
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_PROXY_SCHEMES = ("http", "https", "all")


class Extra(NamedTuple):
    """An extra of the package: what it is for, and its distributions with the modules that show that they are there."""

    name: str
    purpose: str
    modules: Mapping[str, str]


_EXTRAS = (
    Extra("cli", "configuration in YAML", {"typer": "typer", "rich": "rich", "pyyaml": "yaml"}),
    Extra("progress", "live view", {"rich": "rich"}),
    Extra("report", "reports as HTML", {"jinja2": "jinja2", "plotly": "plotly"}),
    Extra("otel", "OpenTelemetry", {"opentelemetry-api": "opentelemetry.trace"}),
    Extra("parquet", "Parquet files", {"pyarrow": "pyarrow"}),
    Extra("duckdb", "DuckDB files", {"duckdb": "duckdb", "pyarrow": "pyarrow"}),
    Extra("uvloop", "a faster event loop", {"uvloop": "uvloop"}),
    Extra("http2", "HTTP/2", {"h2": "h2"}),
    Extra("socks", "SOCKS proxies", {"socksio": "socksio"}),
    Extra("br", "Brotli bodies", {"brotli": "brotli"}),
    Extra("zstd", "Zstandard bodies", {} if sys.version_info >= (3, 14) else {"backports.zstd": "backports.zstd"}),
)


class Finding(NamedTuple):
    """One result: a subject such as "open files", what was found, and how to fix it, if there is something to fix."""

    subject: str
    status: Status
    details: str
    hint: str = ""


def add_doctor(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="A Source to load, too.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    flags: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """Look for what would disturb a run: extras, TLS, proxies, open files, write access. Sends no request.

    The exit code is 1 if there is a problem; warnings do not count.
    """
    with command_output(debug=debug) as output:
        findings = list(examine(os.environ))
        if source is not None:
            findings += _examine_source(source, config, flags, output)
        printer = TablePrinter(output)
        if as_json:
            printer.json([finding._asdict() for finding in findings])
        else:
            rows: list[list[Cell]] = []
            for finding in findings:
                details = f"{finding.details}\nhint: {finding.hint}" if finding.hint else finding.details
                rows.append([StyledText(finding.status, _STYLES[finding.status]), finding.subject, details])
            printer.table(["status", "subject", "details"], rows)
        if problems := sum(finding.status == "problem" for finding in findings):
            output.note(f"{problems} problem{'s' if problems > 1 else ''}")
            raise typer.Exit(ExitCode.FAILED)


def examine(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that can be examined without a Source."""
    yield from _examine_interpreter()
    yield from map(examine_extra, _EXTRAS)
    yield from examine_tls(environ)
    yield from examine_proxies(urllib.request.getproxies(), environ)
    yield examine_open_files(_open_files_limit())
    yield examine_folder("working directory", Path.cwd(), "name absolute paths of outputs, or use another directory")
    yield examine_folder("state folder", state_folder(), "set XDG_STATE_HOME to a folder that can be written")
    yield examine_folder(
        "temporary files", _temporary_folder(), "set TMPDIR to a folder with free space", is_vital=True
    )
    yield from _examine_terminal(environ)


def examine_extra(extra: Extra) -> Finding:
    """Whether an extra is installed. A missing one is no problem until it is used."""
    subject = f"extra {extra.name}"
    missing = [name for name, module in extra.modules.items() if not _is_installed(module)]
    if missing:
        command = f'pip install "asyncstreams[{extra.name}]"'
        return Finding(subject, "ok", f"not installed: {', '.join(missing)}, for {extra.purpose}", command)
    versions = ", ".join(f"{name} {_version_of(name)}" for name in extra.modules) or "part of Python"
    if extra.name == "uvloop" and _version_tuple("uvloop") < _MIN_UVLOOP:
        hint = 'pip install --upgrade "asyncstreams[uvloop]"'
        return Finding(subject, "warning", f"{versions} may close files of other connections (uvloop #738)", hint)
    return Finding(
        subject, "ok", f"{versions}; commands use asyncio all the same" if extra.name == "uvloop" else versions
    )


def examine_tls(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The TLS library, and the certificate authorities that are trusted."""
    number = ssl.OPENSSL_VERSION_INFO
    is_old = ssl.OPENSSL_VERSION.startswith("OpenSSL") and number < (3, 0)
    hint = "this version gets no security fixes: use a newer Python" if is_old else ""
    yield Finding("TLS library", "warning" if is_old else "ok", ssl.OPENSSL_VERSION, hint)
    named = [name for name in _TLS_VARIABLES if environ.get(name)]
    where = f"{environ[named[0]]} ({named[0]})" if named else f"{certifi.where()} (certifi {_version_of('certifi')})"
    try:
        tls_context(with_environment(DEFAULT_TLS, environ))
    except (ConfigError, OSError) as error:
        hint = f"set {named[0]} to a PEM file of authorities, or unset it" if named else "pip install --upgrade certifi"
        yield Finding("certificates", "problem", f"{where}: {error}", hint)
    else:
        unused = f"; not used beside it: {', '.join(named[1:])}" if named[1:] else ""
        yield Finding("certificates", "ok", f"{where}{unused}")
    if path := environ.get("SSLKEYLOGFILE"):
        yield Finding(
            "TLS keys", "warning", f"are logged to {path}: who reads it can decrypt the traffic", "unset SSLKEYLOGFILE"
        )


def examine_proxies(proxies: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Finding]:
    """The proxies of the environment, without user names and passwords."""
    found = {scheme: proxies[scheme] for scheme in _PROXY_SCHEMES if proxies.get(scheme)}
    if not found:
        yield Finding("proxies", "ok", "none")
        return
    for scheme, url in found.items():
        subject = f"proxy for {scheme}"
        try:
            proxy = parse_proxy(url if "://" in url else f"http://{url}", f"{scheme.upper()}_PROXY")
        except ConfigError as error:
            yield Finding(subject, "problem", error.message, error.hint or "")
            continue
        shown = f"{proxy}, with a password" if proxy.authorization else str(proxy)
        if proxy.is_socks and not _is_installed("socksio"):
            yield Finding(subject, "problem", f"{shown} requires socksio", 'pip install "asyncstreams[socks]"')
        else:
            yield Finding(subject, "ok", shown)
    if excluded := proxies.get("no"):
        yield Finding("no proxy", "ok", f"for {excluded}")
    if "http" in found and "REQUEST_METHOD" in environ:
        yield Finding("proxy for http", "warning", "is ignored, since REQUEST_METHOD is set as in a CGI script")


def examine_open_files(limit: int | None) -> Finding:
    """The limit on open files: each connection needs one. None: there is none."""
    if limit is None:
        return Finding("open files", "ok", "no limit")
    if limit >= _FEW_OPEN_FILES:
        return Finding("open files", "ok", f"up to {limit:,}")
    status: Status = "problem" if limit < _MIN_OPEN_FILES else "warning"
    details = f"up to {limit:,}, which limits max_concurrency"
    return Finding("open files", status, details, "ulimit -n 4096, or LimitNOFILE= of systemd")


def examine_folder(subject: str, folder: Path, hint: str, *, is_vital: bool = False) -> Finding:
    """Whether files can be created in a folder, and the free space. A folder that does not exist would be created."""
    existing = folder
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    status: Status = "problem" if is_vital else "warning"
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0")
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Finding(subject, status, f"{folder} cannot be written: {error.strerror or error}", hint)
    if free < _MIN_FREE_BYTES:
        return Finding(subject, status, f"{folder}: only {free / 2**20:,.0f} MiB are free", hint)
    return Finding(subject, "ok", f"{folder}, {free / 2**30:,.1f} GiB free")


def _examine_interpreter() -> Iterator[Finding]:
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    python = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}, {system}"
    is_known = platform.python_implementation() == "CPython"
    yield Finding("Python", "ok" if is_known else "warning", python, "" if is_known else "only CPython is tested")
    yield Finding("asyncstreams", "ok", f"{__version__}, {Path(__file__).parent.parent}")
    if sys.flags.optimize:
        yield Finding("Python -O", "warning", "assertions are off", "run Python without -O and PYTHONOPTIMIZE")


def _examine_terminal(environ: Mapping[str, str]) -> Iterator[Finding]:
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    is_unicode = encoding in ("utf8", "utf8sig")
    kind = f"{shutil.get_terminal_size().columns} columns" if sys.stderr.isatty() else "none: log lines, no live view"
    term = environ.get("TERM", "")
    colors = ", without colors" if "NO_COLOR" in environ or term == "dumb" else ""
    yield Finding(
        "terminal",
        "ok" if is_unicode else "warning",
        f"{kind}{colors}, {sys.stdout.encoding}",
        "" if is_unicode else "set PYTHONUTF8=1: some characters are shown as escapes",
    )


def _examine_source(
    text: str, config: Path | None, flags: Sequence[str] | None, output: CommandOutput
) -> Iterator[Finding]:
    """Whether a Source can be imported, has a valid spec and, with a configuration or without a spec, can be made."""
    try:
        loaded = load_source_class(text)
        yield Finding("Source", "ok", f"{loaded.import_path} can be imported")
        if loaded.spec is not None:
            RecordSchema(loaded.spec, f"{loaded.name}.spec", checks_times=True)
            yield Finding("spec", "ok", "is a valid JSON schema")
        if config is None and not flags and loaded.spec is not None:
            return
        source = open_source(text, config, flags, output).source
        names = ", ".join(stream.name for stream in source)
        yield Finding("streams", "ok", names)
        if any(stream.allow_insecure for stream in source):
            yield Finding("encryption", "warning", "allow_insecure is set: credentials may be sent without TLS")
    except AsyncStreamsError as error:
        yield Finding("Source", "problem", error.message, error.hint or "")


def _open_files_limit() -> int | None:
    """The soft limit on open files; None without one, and on Windows."""
    if find_spec("resource") is None:
        return None
    resource = import_module("resource")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # none of the usual folders can be written
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _version_tuple(distribution: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _version_of(distribution).split(".")[:2] if part.isdigit())


def _version_of(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow: all commands would wait for it

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of unknown version"
