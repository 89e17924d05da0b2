"""Sources that commands name, and what a Source writes back to its configuration."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncstreams import ConfigError, Secret, StateCorrupt
from asyncstreams.cli.configuration import load_config
from asyncstreams.cli.failures import CommandOutput
from asyncstreams.cli.opened_source import open_source
from asyncstreams.cli.rotated_tokens import RotatedTokens
from asyncstreams.cli.source_loader import load_source_class

MODULE = """
from asyncstreams import HttpStream, Source

class Orders(HttpStream):
    url_base = "https://api.example.com"
    def path(self, context):
        return "orders"

class Shop(Source):
    def streams(self, config):
        return [Orders()]
"""
SPEC = {
    "properties": {
        "start": {"type": "string"},
        "credentials": {
            "properties": {"client_secret": {"airbyte_secret": True}, "refresh_token": {"airbyte_secret": True}}
        },
    }
}
Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def own_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", "") or ""):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    return write_file


@pytest.mark.parametrize(
    ("text", "import_path"),
    [
        ("cli_shop:Shop", "cli_shop:Shop"),
        ("cli_shop", "cli_shop:Shop"),
        ("cli_shop.py:Shop", "cli_shop.py:Shop"),
        ("./cli_shop.py", "./cli_shop.py:Shop"),
        ("package.cli_inner:Shop", "package.cli_inner:Shop"),
        ("package/cli_inner.py:Shop", "package/cli_inner.py:Shop"),
    ],
)
def test_source_is_found_by_module_and_by_file(text: str, import_path: str, write: Write) -> None:
    write("cli_shop.py", MODULE)
    write("package/cli_inner.py", MODULE)

    loaded = load_source_class(text)

    assert loaded.import_path == import_path
    assert [stream.name for stream in loaded.create({})] == ["orders"]


def test_file_imports_its_neighbours(write: Write) -> None:
    write("folder/cli_neighbour.py", MODULE)
    write("folder/cli_source.py", "from cli_neighbour import Shop as Base\nclass Own(Base): ...")

    assert load_source_class("folder/cli_source.py").name == "Own"


def test_file_with_the_name_of_a_module_is_loaded(write: Write) -> None:
    write("json.py", MODULE)

    assert load_source_class("json.py:Shop").name == "Shop"
    assert json.loads("[]") == []


def test_source_that_a_module_has_made_is_accepted(write: Write) -> None:
    write("cli_shop.py", MODULE + "\nsource = Shop()")

    loaded = load_source_class("cli_shop:source")

    assert loaded.create({}) is loaded.target
    with pytest.raises(ConfigError, match="is a Source that its module has made: it cannot be given a configuration"):
        loaded.create({"a": 1})


def test_source_without_arguments_is_created(write: Write) -> None:
    write("cli_shop.py", MODULE + "\nclass Bare(Source):\n def __init__(self): super().__init__([Orders()])")

    assert len(load_source_class("cli_shop:Bare").create({})) == 1
    with pytest.raises(ConfigError, match=r"Bare.__init__ does not accept the option 'max_concurrency'"):
        load_source_class("cli_shop:Bare").create({}, max_concurrency=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cli_none:Shop", "cli_none: no module of this name in"),
        ("package.cli_none:Shop", "package.cli_none: no module of this name in"),
        ("cli_shop:Shap", "cli_shop: has no 'Shap'\n  hint: did you mean 'Shop'?"),
        (
            "cli_shop:Orders",
            "cli_shop: Orders is a class that is not a subclass of Source\n  hint: its Sources are Shop",
        ),
        ("cli_shop:Source", "cli_shop: Source is the base class of all Sources"),
        ("cli_shop:Shop.spec", "cli_shop: Shop.spec is not a Source"),
        ("cli_two", "cli_two: defines 2 Sources\n  hint: write cli_two:Shop or cli_two:Other"),
        ("cli_empty.py", "cli_empty.py: defines no Source"),
        ("cli_shap.py:Shop", "cli_shap.py: there is no such file\n  hint: did you mean cli_shop.py?"),
        ("folder/shop:Shop", "a path must end in .py"),
        (":Shop", "names no module"),
        ("cli_missing:Shop", "ModuleNotFoundError: No module named 'not_installed' (FILE, line 2)"),
        ("cli_missing.py:Shop", "ModuleNotFoundError: No module named 'not_installed' (FILE, line 2)"),
        ("cli_syntax:Shop", "SyntaxError: '(' was never closed (FILE, line 1)"),
        ("cli_raises.py:Shop", "cli_raises.py cannot be imported: KeyError: 'x' (FILE, line 3)"),
    ],
)
def test_source_that_cannot_be_loaded_is_explained(text: str, message: str, write: Write) -> None:
    write("cli_shop.py", MODULE)
    write("package/__init__.py", "")
    write("cli_two.py", MODULE + "\nclass Other(Shop): ...")
    write("cli_empty.py", "from asyncstreams import Source")
    write("cli_missing.py", "\nimport not_installed")
    write("cli_syntax.py", "print(")
    write("cli_raises.py", "def fail():\n\n    return {}['x']\nfail()")

    with pytest.raises(ConfigError) as raised:
        load_source_class(text)

    file = Path.cwd() / f"{text.partition(':')[0].removesuffix('.py')}.py"
    assert message.replace("FILE", str(file)) in str(raised.value)


def test_exit_of_a_module_is_an_error(write: Write) -> None:
    write("cli_exits.py", "import sys\nsys.exit('no')")

    with pytest.raises(ConfigError, match="cli_exits cannot be imported: SystemExit: no"):
        load_source_class("cli_exits:Shop")


def config_file(write: Write, suffix: str = ".json", **credentials: str) -> Path:
    values = {"start": "2026-01-01", "credentials": {"client_secret": "c-1", "refresh_token": "r-1"} | credentials}
    return write(f"config{suffix}", json.dumps(values))


def tokens(file: Path, tmp_path: Path, output: CommandOutput, *flags: str, writes: bool = False) -> tuple[Any, Any]:
    """The configuration of a command and what keeps its tokens; the Source has been created."""
    kept = RotatedTokens(load_config(SPEC, file, flags, {}), tmp_path / "kept", "Shop", output, writes_config=writes)
    config = kept.apply()
    kept.begin()
    return config, kept


def test_rotated_token_is_kept_for_the_next_command(write: Write, tmp_path: Path) -> None:
    file, output = config_file(write), CommandOutput()
    before = file.read_text()
    config, _ = tokens(file, tmp_path, output)

    config["credentials"]["refresh_token"] = Secret("r-2-rotated")
    config["credentials"]["expiry"] = "2026-02-01"
    later, _ = tokens(file, tmp_path, output, "start=2026-05-05")

    assert later == {
        "start": "2026-05-05",
        "credentials": {"client_secret": "c-1", "refresh_token": "r-2-rotated", "expiry": "2026-02-01"},
    }
    assert file.read_text() == before
    assert output.shown("r-2-rotated") == "***"
    [kept] = (tmp_path / "kept").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_new_authorization_replaces_a_kept_token(write: Write, tmp_path: Path) -> None:
    config, _ = tokens(config_file(write), tmp_path, CommandOutput())
    config["credentials"]["refresh_token"] = "r-2"

    later, _ = tokens(config_file(write, refresh_token="r-9"), tmp_path, CommandOutput())

    assert later["credentials"]["refresh_token"] == "r-9"


def test_token_of_a_new_object_is_kept(write: Write, tmp_path: Path) -> None:
    file = write("config.json", '{"start": "2026-01-01"}')
    config, _ = tokens(file, tmp_path, CommandOutput())

    config.setdefault("credentials", {})["refresh_token"] = "r-2"

    assert tokens(file, tmp_path, CommandOutput())[0]["credentials"] == {"refresh_token": "r-2"}


def test_default_that_a_source_sets_is_not_kept(write: Write, tmp_path: Path) -> None:
    file = config_file(write)
    kept = RotatedTokens(load_config(SPEC, file, (), {}), tmp_path / "kept", "Shop", CommandOutput())

    kept.apply()["start"] = "1970-01-01"

    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_write_config_replaces_the_token_in_the_file(suffix: str, write: Write, tmp_path: Path) -> None:
    file = config_file(write, suffix)
    file.chmod(0o640)
    config, _ = tokens(file, tmp_path, CommandOutput(), writes=True)

    config["credentials"]["refresh_token"] = "r-2"

    assert load_config(SPEC, file, (), {}).values == {
        "start": "2026-01-01",
        "credentials": {"client_secret": "c-1", "refresh_token": "r-2"},
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert tokens(file, tmp_path, CommandOutput())[0]["credentials"]["refresh_token"] == "r-2"


def test_write_config_leaves_a_reference(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config_file(write, refresh_token="file:token.txt")
    write("token.txt", "r-1")
    config, _ = tokens(file, tmp_path, CommandOutput(), writes=True)

    config["credentials"]["refresh_token"] = "r-2"

    assert "file:token.txt" in file.read_text()
    assert "--write-config: /credentials/refresh_token is a reference, which stays" in capsys.readouterr().err
    assert tokens(file, tmp_path, CommandOutput())[0]["credentials"]["refresh_token"] == "r-2"


def test_write_config_needs_a_file_that_can_be_written(write: Write, tmp_path: Path) -> None:
    toml = write("config.toml", 'start = "2026"')

    with pytest.raises(ConfigError, match="is TOML, which is only read"):
        tokens(toml, tmp_path, CommandOutput(), writes=True)
    with pytest.raises(ConfigError, match="there is no --config to write to"):
        RotatedTokens(load_config(SPEC), tmp_path, "Shop", CommandOutput(), writes_config=True)


def test_damaged_file_of_tokens_is_refused(write: Write, tmp_path: Path) -> None:
    file = config_file(write)
    tokens(file, tmp_path, CommandOutput())[0]["credentials"]["refresh_token"] = "r-2"
    [kept] = (tmp_path / "kept").iterdir()
    kept.write_text('{"format": 1')

    with pytest.raises(StateCorrupt, match="cannot be read as a file of tokens"):
        tokens(file, tmp_path, CommandOutput())


def test_state_file_does_not_depend_on_secrets(write: Write) -> None:
    text = MODULE.replace("class Shop(Source):", f"class Shop(Source):\n    spec = {SPEC!r}")
    source = f"{write('cli_shop.py', text)}:Shop"

    def path(*flags: str) -> Path:
        return open_source(source, None, flags, CommandOutput()).state_path

    assert path("credentials.client_secret=abcd", "start=1") == path("credentials.client_secret=efgh", "start=1")
    assert path("start=1") != path("start=2")
    assert "abcd" not in str(path("credentials.client_secret=abcd"))


def test_text_of_the_command_is_masked_and_escaped() -> None:
    output = CommandOutput()
    output.hide("s3cret value")

    assert output.shown("a s3cret%20value\x1b[31m\nb") == "a ***\\x1b[31m\nb"


def test_kept_values_have_plain_types(write: Write, tmp_path: Path) -> None:
    config, _ = tokens(config_file(write), tmp_path, CommandOutput())
    config["credentials"] = {"refresh_token": "r-3", "scopes": ["a"]}

    later, _ = tokens(config_file(write), tmp_path, CommandOutput())

    assert later["credentials"] == {"refresh_token": "r-3", "scopes": ["a"]}


def test_configuration_behaves_like_a_dict(write: Write, tmp_path: Path) -> None:
    config: Mapping[str, Any] = tokens(config_file(write), tmp_path, CommandOutput())[0]

    assert isinstance(config, dict)
    assert {**config}["start"] == "2026-01-01"
    assert json.loads(json.dumps(config)) == config
