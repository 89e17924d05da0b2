"""Configuration of the command line: files, environment, flags, types and references to secrets."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncstreams import ConfigError
from asyncstreams.cli import references
from asyncstreams.cli.configuration import load_config, read_config_file

SPEC: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "api_key": {"type": "string", "airbyte_secret": True},
        "start_date": {"type": "string"},
        "page_size": {"type": "integer"},
        "ratio": {"type": ["number", "null"]},
        "verbose": {"type": "boolean"},
        "shops": {"type": "array", "items": {"type": "object", "properties": {"pin": {"$ref": "#/$defs/pin"}}}},
        "credentials": {
            "oneOf": [
                {
                    "properties": {
                        "kind": {"const": "password"},
                        "value": {"type": "string", "format": "password"},
                    }
                },
                {"properties": {"kind": {"const": "name"}, "value": {"type": "string"}}},
                {"allOf": [{"properties": {"kind": {"const": "oauth"}, "refresh": {"writeOnly": True}}}]},
            ]
        },
    },
    "$defs": {"pin": {"type": "string", "writeOnly": True}},
}


def loaded(*flags: str, environ: Mapping[str, str] | None = None, file: Path | None = None, spec: Any = SPEC) -> Any:
    return load_config(spec, file, flags, environ or {})


def test_flag_wins_over_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"start_date": "file", "page_size": 1, "verbose": false}')
    environ = {"ASYNCSTREAMS_CONFIG_START_DATE": "environment", "ASYNCSTREAMS_CONFIG_PAGE_SIZE": "2"}

    found = loaded("start_date=flag", environ=environ, file=file)

    assert found.values == {"start_date": "flag", "page_size": 2, "verbose": False}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"a": {"b": [1, "x"]}, "day": "2026-01-31"}'),
        ("c.yaml", "a:\n  b: [1, x]\nday: 2026-01-31\n"),
        ("c.YML", '{"a": {"b": [1, "x"]}, "day": "2026-01-31"}'),
        ("c.toml", 'day = 2026-01-31\n[a]\nb = [1, "x"]\n'),
    ],
)
def test_file_is_read_by_its_suffix(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)

    assert read_config_file(tmp_path / name) == {"a": {"b": [1, "x"]}, "day": "2026-01-31"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.ini", "", "unknown suffix '.ini'; use one of .json, .yaml, .yml, .toml"),
        ("c.json", '{"key": "s3cret-value', "is not JSON: Unterminated string starting at, line 1, column 9"),
        ("c.json", '{"key": "s3cret-value", "key": 1}', "the key 'key' occurs twice"),
        ("c.json", "[]", "is not an object"),
        ("c.yaml", 'key: "s3cret-value\n', "is not YAML, line 2, column 1"),
        ("c.yaml", "1: s3cret-value", "a key is not a string"),
        ("c.toml", "key = s3cret-value", "is not TOML: at line 1, column 7"),
        ("c.json", b"\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_broken_file_is_named_without_its_text(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ConfigError) as raised:
        read_config_file(tmp_path / name)

    assert message in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_config_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("start_date=2026", {"start_date": "2026"}),
        ("page_size=50", {"page_size": 50}),
        ("page_size=fifty", {"page_size": "fifty"}),
        ("ratio=0.5", {"ratio": 0.5}),
        ("ratio=null", {"ratio": None}),
        ("verbose=True", {"verbose": True}),
        ('shops=[{"pin": "1"}]', {"shops": [{"pin": "1"}]}),
        ("credentials.kind=name", {"credentials": {"kind": "name"}}),
        ("unknown=7", {"unknown": 7}),
        ("unknown=text", {"unknown": "text"}),
        ("start_date=a=b", {"start_date": "a=b"}),
    ],
)
def test_text_of_a_flag_gets_the_type_of_the_spec(flag: str, values: Mapping[str, Any]) -> None:
    assert loaded(flag).values == values


def test_flag_reaches_into_a_list() -> None:
    assert loaded('shops=[{"pin": "1"}, {}]', "shops.1.pin=22").values == {"shops": [{"pin": "1"}, {"pin": "22"}]}


@pytest.mark.parametrize("flag", ["s3cret-value", "=x", "a..b=s3cret-value"])
def test_malformed_flag_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value") as raised:
        loaded(flag)

    assert "s3cret" not in str(raised.value)


def test_flag_below_a_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="/start_date is not an object"):
        loaded("start_date=x", "start_date.day=1")


def test_variable_names_a_nested_field() -> None:
    environ = {"ASYNCSTREAMS_CONFIG_CREDENTIALS__KIND": "name", "ASYNCSTREAMS_CONFIG_CREDENTIALS__VALUE": "Ann"}

    assert loaded(environ=environ).values == {"credentials": {"kind": "name", "value": "Ann"}}


def test_variable_finds_the_spelling_of_the_spec() -> None:
    spec = {"properties": {"apiKey": {"type": "string"}, "page-size": {"type": "integer"}}}
    environ = {"ASYNCSTREAMS_CONFIG_APIKEY": "x", "ASYNCSTREAMS_CONFIG_PAGE_SIZE": "5"}

    assert loaded(environ=environ, spec=spec).values == {"apiKey": "x", "page-size": 5}


def test_unknown_variable_is_warned_of() -> None:
    found = loaded(environ={"ASYNCSTREAMS_CONFIG_API_KEE": "x"})

    assert found.values == {"api_kee": "x"}
    assert found.warnings == ["ASYNCSTREAMS_CONFIG_API_KEE: 'api_kee' is not in the spec: did you mean 'api_key'?"]


SECRET_FIELDS = [
    ("api_key={}", ("api_key",)),
    ('credentials={{"kind": "password", "value": "{}"}}', ("credentials", "value")),
    ('credentials={{"kind": "oauth", "refresh": "{}"}}', ("credentials", "refresh")),
    ('shops=[{{"pin": "{}"}}]', ("shops", 0, "pin")),
]


@pytest.mark.parametrize(("flag", "path"), SECRET_FIELDS, ids=["flat", "one of", "all of", "reference in a list"])
def test_reference_is_resolved_in_a_secret_field(flag: str, path: tuple[str | int, ...]) -> None:
    found = loaded(flag.format("env:TOKEN"), environ={"TOKEN": "s3cret-value"})

    value: Any = found.values
    for step in path:
        value = value[step]
    assert value == "s3cret-value"
    assert found.secrets == ["s3cret-value"]
    assert found.warnings == []


@pytest.mark.parametrize("flag", ["start_date=env:TOKEN", 'credentials={"kind": "name", "value": "env:TOKEN"}'])
def test_reference_in_another_field_stays_a_text(flag: str) -> None:
    found = loaded(flag, environ={"TOKEN": "s3cret-value"})

    assert "s3cret-value" not in json.dumps(found.values)
    assert found.warnings[0].endswith(
        "env: is not resolved and stays a text, since the spec does not mark the field secret"
    )


def test_reference_without_a_spec_stays_a_text() -> None:
    found = loaded("api_key=env:TOKEN", environ={"TOKEN": "s3cret-value"}, spec=None)

    assert found.values == {"api_key": "env:TOKEN"}
    assert found.warnings == [
        "configuration: /api_key: env: is not resolved and stays a text, since the Source has no spec"
    ]


def test_value_of_the_environment_is_no_reference() -> None:
    found = loaded(environ={"ASYNCSTREAMS_CONFIG_API_KEY": "env:TOKEN", "TOKEN": "s3cret-value"})

    assert found.values == {"api_key": "env:TOKEN"}


def test_default_of_the_spec_is_no_reference() -> None:
    spec = {"properties": {"api_key": {"type": "string", "airbyte_secret": True, "default": "cmd:touch evil"}}}

    assert loaded(spec=spec).values == {}


@pytest.mark.parametrize("kind", ["env", "file", "cmd"])
def test_two_colons_escape_a_reference(kind: str) -> None:
    assert loaded(f"api_key={kind}::x y").values == {"api_key": f"{kind}:x y"}


def test_file_reference_is_relative_to_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("two\nlines\n\n")
    (tmp_path / "config.json").write_text('{"api_key": "file:key.txt"}')

    assert loaded(file=tmp_path / "config.json").values == {"api_key": "two\nlines\n"}


def test_command_runs_without_a_shell(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('noise'); print(sys.argv[1:])"

    found = loaded(f"api_key=cmd:{sys.executable} -c \"{script}\" 'a b' $HOME ; >x")

    assert found.values == {"api_key": "['a b', '$HOME', ';', '>x']"}


def test_slow_command_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_COMMAND_TIMEOUT_S", 0.1)

    with pytest.raises(ConfigError, match="the command 'sleep' did not end within"):
        loaded("api_key=cmd:sleep 60")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("env:TOKEN", "/api_key: the environment variable TOKEN is not set"),
        ("env:EMPTY", "/api_key: the reference env: leads to an empty text"),
        ("file:none.txt", "none.txt cannot be read: No such file"),
        ("cmd:", "cmd: names no command"),
        ("cmd:pass 'api", "the command cannot be split into words: No closing quotation"),
        ("cmd:/nowhere/vault s3cret-value", "the command 'vault' cannot be started: No such file"),
        ("cmd:false s3cret-value", "the command 'false' failed with exit code 1"),
    ],
)
def test_reference_that_leads_nowhere_is_an_error(reference: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(f"api_key={reference}", environ={"EMPTY": ""})

    assert message in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_secrets_of_all_origins_are_masked(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"api_key": "from-file"}')
    environ = {"ASYNCSTREAMS_CONFIG_CREDENTIALS__REFRESH": "from-environment"}

    found = loaded('shops=[{"pin": "from-flag"}]', environ=environ, file=tmp_path / "c.json")

    assert sorted(found.secrets) == ["from-environment", "from-file", "from-flag"]
    assert "from-" not in repr(found.without_secrets())


def test_names_decide_what_is_masked_without_a_spec() -> None:
    found = loaded("api_key=abcdef", 'login={"password": "ghijkl", "user": "ann"}', spec=None)

    assert sorted(found.secrets) == ["abcdef", "ghijkl"]
    assert found.without_secrets() == [("/login/user", "ann")]


def test_recursive_spec_ends() -> None:
    spec: dict[str, Any] = {"$ref": "#/$defs/node", "$defs": {"node": {"allOf": [{"$ref": "#/$defs/node"}] * 2}}}

    assert loaded("a.b=1", spec=spec).values == {"a": {"b": 1}}
