"""Schema files: lookup for each kind of module, and resolution of references to other files."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from asyncstreams import ConfigError, HttpStream
from asyncstreams.schemas.record_schema import RecordSchema

MODULE = """
from asyncstreams import HttpStream


class Orders(HttpStream):
    url_base = "https://api.test/"

    def path(self, context):
        return "orders"
"""
MONEY = {"type": "string", "pattern": "^[0-9]+$", "definitions": {"x": {"type": "null"}, "a/b": {"type": "boolean"}}}
StreamFactory = Callable[..., HttpStream]


NOT_JSON = ["{", "", '{"a": NaN}', '{"a": 1} x', b"\xff\xfe\x00", b'{"a": "\xe9"}']


def write_files(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def import_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], Any]]:
    """A function that imports a module from a folder or zip file; it is unloaded after the test."""
    loaded = set(sys.modules)

    def import_from(where: Path, name: str) -> Any:
        monkeypatch.syspath_prepend(str(where))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield import_from
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


@pytest.fixture
def make_stream(tmp_path: Path, import_module: Callable[[Path, str], Any]) -> StreamFactory:
    """A function that creates the stream Orders of a package with these files in `schemas/`."""

    def stream(module: str = MODULE, name: str = "Orders", **files: Any) -> HttpStream:
        write_files(tmp_path, {"shop/__init__.py": "", "shop/streams.py": module})
        write_files(tmp_path / "shop" / "schemas", files.pop("files", files))
        return getattr(import_module(tmp_path, "shop.streams"), name)()

    return stream


def files_of(field: Any, **others: Any) -> dict[str, Any]:
    """Files with a schema of one field."""
    return {"orders.json": {"type": "object", "properties": {"field": field}}, **others}


def verdicts(stream: HttpStream, *values: Any) -> list[bool]:
    """Our verdicts, which equal those of jsonschema without a registry: the schema must be self-contained."""
    schema: Any = stream.get_json_schema()
    ours = [RecordSchema(schema).is_valid({"field": value}) for value in values]
    assert ours == [jsonschema.Draft7Validator(schema).is_valid({"field": value}) for value in values]
    return ours


def test_file_is_found_next_to_package_module(make_stream: StreamFactory) -> None:
    stream = make_stream(files=files_of({"type": "null"}))

    schema = stream.get_json_schema()

    assert schema == {"type": "object", "properties": {"field": {"type": "null"}}}


def test_name_too_long_for_file_means_no_schema(make_stream: StreamFactory) -> None:
    stream = make_stream(**{"schemas/orders.json": {}})
    stream.name = "q" * 300

    assert stream.get_json_schema() is None


def test_missing_file_means_no_schema(make_stream: StreamFactory) -> None:
    stream = make_stream(files={"customers.json": {}})

    assert stream.get_json_schema() is None


@pytest.mark.parametrize("module", ["orders_alone", "shop_space.deep.streams"])
def test_file_is_found_for_top_level_and_namespace_modules(
    tmp_path: Path, import_module: Callable[[Path, str], Any], module: str
) -> None:
    path = tmp_path / (module.replace(".", "/") + ".py")
    write_files(tmp_path, {str(path): MODULE})
    write_files(path.parent, {"schemas/orders.json": {"title": "found"}})

    schema = import_module(tmp_path, module).Orders().get_json_schema()

    assert schema == {"title": "found"}


def test_file_is_found_in_zip_file(tmp_path: Path, import_module: Callable[[Path, str], Any]) -> None:
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("shop/__init__.py", MODULE)
        archive.writestr("shop/schemas/orders.json", json.dumps(files_of({"$ref": "money.json"})["orders.json"]))
        archive.writestr("shop/schemas/shared/money.json", json.dumps(MONEY))

    found = verdicts(import_module(tmp_path / "shop.zip", "shop").Orders(), "12", "x")

    assert found == [True, False]


def run_python(folder: Path, *command: str) -> str:
    completed = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=True)
    return completed.stdout.strip()


@pytest.mark.parametrize("command", [("program.py",), ("-m", "program")])
def test_file_is_found_next_to_script(tmp_path: Path, command: tuple[str, ...]) -> None:
    write_files(
        tmp_path,
        {"program.py": MODULE + "\nprint(Orders().get_json_schema())", "schemas/orders.json": {"title": "found"}},
    )

    assert run_python(tmp_path, *command) == "{'title': 'found'}"


def test_file_is_found_in_working_directory_of_notebook(tmp_path: Path) -> None:
    write_files(tmp_path, {"schemas/orders.json": {"title": "found"}})

    assert run_python(tmp_path, "-c", MODULE + "\nprint(Orders().get_json_schema())") == "{'title': 'found'}"


def test_class_with_unknown_module_has_no_schema(make_stream: StreamFactory) -> None:
    stream = make_stream(files={"orders.json": {}})
    type(stream).__module__ = "nowhere_at_all"

    assert stream.get_json_schema() is None


SUBCLASS = "from base_shop import Orders as BaseOrders\nclass Orders(BaseOrders): pass\n"


@pytest.mark.parametrize(("own", "found"), [({}, "base"), ({"orders.json": {"title": "own"}}, "own")])
def test_nearest_class_with_file_wins(
    tmp_path: Path,
    import_module: Callable[[Path, str], Any],
    make_stream: StreamFactory,
    own: dict[str, Any],
    found: str,
) -> None:
    write_files(tmp_path, {"elsewhere/base_shop/__init__.py": MODULE})
    write_files(tmp_path, {"elsewhere/base_shop/schemas/orders.json": {"title": "base"}})
    import_module(tmp_path / "elsewhere", "base_shop")

    schema: Any = make_stream(module=SUBCLASS, files=own).get_json_schema()

    assert schema["title"] == found


@pytest.mark.parametrize(
    "name",
    [
        *("orders-2024", "a.b", "100%", "a#b", "a~b", "$x"),
        *(pytest.param(name) for name in ("Größe", "two words", "注文")),
    ],
)
def test_stream_name_may_have_special_characters(make_stream: StreamFactory, name: str) -> None:
    files = {
        f"{name}.json": {"properties": {"field": {"$ref": f"{name}.json#/definitions/x"}}, "definitions": {"x": False}}
    }
    if set(name) & set("%#"):  # These have a meaning in a reference.
        files[f"{name}.json"]["properties"] = {"field": False}
    stream = make_stream(files=files)
    stream.name = name

    assert verdicts(stream, 1) == [False]


@pytest.mark.parametrize(
    "name",
    [
        "..\\outside",
        *(pytest.param(name) for name in ("../outside", "shared/../../outside", "/outside")),
    ],
)
def test_stream_name_cannot_leave_folder(tmp_path: Path, make_stream: StreamFactory, name: str) -> None:
    stream = make_stream(files={"shared/money.json": MONEY})
    write_files(tmp_path, {"shop/outside.json": {"title": "outside"}})
    stream.name = str(tmp_path / "shop/outside") if name == "/outside" else name

    try:
        schema = stream.get_json_schema()
    except ConfigError:
        schema = None

    assert schema is None


@pytest.mark.parametrize(
    ("reference", "valid", "invalid"),
    [
        *((f"{prefix}money.json", "12", "x") for prefix in ("", "./", "shared/", "./shared/")),
        ("money.json#", "12", "x"),
        ("money.json#/definitions/x", None, 1),
        ("money.json#/definitions/a~1b", True, 1),
        ("customers.json", 1, "x"),
        ("./customers.json#/definitions/y", "x", 1),
        ("orders.json#/definitions/own", 0, 1),
        ("#/definitions/own", 0, 1),
        ("both.json", "in schemas", "in shared"),
        ("shared/both.json", "in shared", "in schemas"),
        *(pytest.param(name, "two", "2") for name in ("two words.json", "two%20words.json")),
        *(pytest.param(name, "L", "l") for name in ("größe.json", "gr%C3%B6%C3%9Fe.json")),
    ],
)
def test_reference_to_file_is_resolved(make_stream: StreamFactory, reference: str, valid: Any, invalid: Any) -> None:
    files = files_of({"$ref": reference})
    files["orders.json"]["definitions"] = {"own": {"const": 0}}
    files["customers.json"] = {"type": "integer", "definitions": {"y": {"type": "string"}}}
    files |= {"both.json": {"const": "in schemas"}, "shared/both.json": {"const": "in shared"}}
    files |= {"shared/two words.json": {"const": "two"}, "shared/größe.json": {"const": "L"}}
    files["shared/money.json"] = MONEY

    assert verdicts(make_stream(files=files), valid, invalid) == [True, False]


REJECT: dict[str, Any] = {"$ref": "#/no"}
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


@pytest.mark.parametrize(
    ("shared", "valid", "invalid"),
    [
        ({"$ref": "#/definitions/n"}, [None], [1]),
        ({"$ref": "money.json"}, ["12"], ["x"]),
        ({"$ref": "./money.json#/definitions/x"}, [None], [1]),
        ({"$ref": "list.json#/part/items"}, [1], ["x"]),
        ({"$ref": "list.json#"}, [[]], [{}]),
        ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/a"}}]}, [[[None], None]], [[1]]),
        ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "first.json#/a"}}]}, [[[None]]], [[[1]]]),
        ({"properties": {"b": {"$ref": "second.json#/b"}}}, [{"b": {"b": []}}], [{"b": {"b": 1}}]),
        ({"properties": {"b": {"enum": [{"$ref": "../x.json"}]}}}, [{"b": {"$ref": "../x.json"}}], [{"b": 1}]),
        ({"properties": {"$ref": REJECT}}, [{}], [{"$ref": 1}]),
        ({"properties": {"properties": {"properties": {"b": REJECT}}}}, [{"b": 1}], [{"properties": {"b": 1}}]),
        ({"items": [{"type": "null"}, {"allOf": [{"not": REJECT}]}, REJECT]}, [[None, 1]], [[1], [None, 1, 1]]),
        ({"if": REJECT, "then": True, "else": {"additionalProperties": REJECT}}, [{}], [{"b": 1}]),
        *(
            pytest.param(schema, valid, invalid)
            for schema, valid, invalid in [
                ({"properties": {"enum": {"$ref": "money.json"}}}, [{"enum": "12"}], [{"enum": "x"}]),
                ({"properties": {"default": REJECT}}, [{}], [{"default": 1}]),
                ({"properties": {"const": {"properties": {"examples": REJECT}}}}, [{}], [{"const": {"examples": 1}}]),
                ({"patternProperties": {"enum": REJECT}}, [{"b": 1}], [{"enum": 1}]),
                ({"dependencies": {"default": REJECT}}, [{"b": 1}], [{"default": 1}]),
                ({"$ref": "#/definitions/default"}, [], [1]),
            ]
        ),
    ],
)
def test_references_in_shared_file_are_relative_to_it(
    make_stream: StreamFactory, shared: Any, valid: list[Any], invalid: list[Any]
) -> None:
    first = {"a": shared, "no": False, "definitions": {"n": {"type": "null"}, "default": {"$ref": "#/no"}}}
    files = files_of({"$ref": "first.json#/a"}, **{"shared/first.json": first, "shared/money.json": MONEY})
    files["shared/list.json"] = {"type": "array", "part": {"items": {"type": "integer"}}}
    files["shared/second.json"] = {
        "b": {"anyOf": [{"type": "array"}, {"type": "object", "properties": {"b": {"$ref": "#/b"}}, "required": ["b"]}]}
    }
    files["orders.json"] |= {"definitions": {"n": False, "default": True}, "no": True, "a": False}

    assert verdicts(make_stream(files=files), *valid, *invalid) == [True] * len(valid) + [False] * len(invalid)


@pytest.mark.parametrize("identity", [{"$id": "https://api.test/first.json"}, {"$id": "first.json"}, DRAFT_7])
def test_shared_file_may_have_id_and_draft(make_stream: StreamFactory, identity: dict[str, str]) -> None:
    first = {**identity, "a": {"$ref": "#/n"}, "b": {"$ref": "money.json"}, "n": {"type": "null"}}
    files = files_of({"anyOf": [{"$ref": "first.json#/a"}, {"$ref": "first.json#/b"}]})
    files |= {"shared/first.json": first, "shared/money.json": MONEY}

    assert verdicts(make_stream(files=files), None, "12", 1, "x") == [True, True, False, False]


def test_recursive_schema_stays_finite(make_stream: StreamFactory) -> None:
    tree = {"type": "object", "properties": {"field": {"$ref": "orders.json"}, "other": {"$ref": "branch.json"}}}
    branch = {"type": "object", "properties": {"field": {"$ref": "branch.json"}}, "required": ["name"]}
    stream = make_stream(files={"orders.json": tree, "shared/branch.json": branch})

    found = verdicts(stream, {"field": {}}, {"field": 1}, {"other": {"field": {}}}, {"other": {"name": 1}})

    assert found == [True, False, False, True]


def test_definitions_of_files_do_not_collide_with_own(make_stream: StreamFactory) -> None:
    files = files_of({"$ref": "#/$defs/money.json"}, **{"shared/money.json": MONEY})
    files["orders.json"]["properties"]["other"] = {"$ref": "money.json"}
    files["orders.json"]["$defs"] = {name: {"const": "own"} for name in ("money.json", "money", "shared/money.json")}

    assert verdicts(make_stream(files=files), "own", "12") == [True, False]


def test_property_order_is_kept(make_stream: StreamFactory) -> None:
    names = ["zeta", "alpha", "mid", "beta"]
    shared = {"properties": {name: {} for name in names}}
    schema = {"properties": {name: {"$ref": "money.json"} for name in names}, "type": "object"}
    stream = make_stream(files={"orders.json": schema, "shared/money.json": shared})

    found: Any = stream.get_json_schema()

    assert list(found)[:2] == ["properties", "type"]
    assert list(found["properties"]) == names
    assert [list(definition["properties"]) for definition in found["$defs"].values()] == [names]


OUTSIDE = r"""
../outside.json shared/../../outside.json ./../outside.json %2e%2e/outside.json ..%2Foutside.json ..\outside.json
{folder}/shop/outside.json file://{folder}/shop/outside.json http://127.0.0.1:9/outside.json urn:outside
https://api.test/outside.json#/definitions/x //api.test/outside.json
missing.json shared money.json#/definitions/missing #/definitions/missing
"""


@pytest.mark.parametrize("reference", [*OUTSIDE.split(), 7, None])
def test_reference_outside_folder_is_rejected(tmp_path: Path, make_stream: StreamFactory, reference: Any) -> None:
    write_files(tmp_path, {"shop/outside.json": "{ not read"})
    ref = reference.format(folder=tmp_path) if isinstance(reference, str) else reference
    stream = make_stream(files=files_of({"$ref": ref}, **{"shared/money.json": MONEY}))

    with pytest.raises(ConfigError) as caught:
        RecordSchema(cast(Any, stream.get_json_schema()))

    assert repr(ref).strip("'").rpartition("#")[2] in str(caught.value)
    assert "not read" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "content"),
    [
        *((name, text) for name in ("orders.json", "shared/money.json") for text in NOT_JSON),
        *(("orders.json", text) for text in ("[]", "1")),
        *(pytest.param("shared/money.json", text) for text in ("[]", "1")),
    ],
)
def test_file_without_schema_is_named_in_error(make_stream: StreamFactory, broken: str, content: Any) -> None:
    stream = make_stream(files=files_of({"$ref": "money.json"}, **{"shared/money.json": MONEY}) | {broken: content})

    with pytest.raises(ConfigError, match=broken):
        stream.get_json_schema()


def test_file_with_byte_order_mark_is_read(make_stream: StreamFactory) -> None:
    stream = make_stream(files={"orders.json": b'\xef\xbb\xbf{"title": "found"}'})

    assert stream.get_json_schema() == {"title": "found"}


@pytest.mark.parametrize(
    "similar",
    [
        *("order.json", "Orders.json", "orderss.json"),
        *(pytest.param(name) for name in ("ordres.json", "orders.JSON")),
    ],
)
def test_similar_file_name_logs_warning(
    make_stream: StreamFactory, caplog: pytest.LogCaptureFixture, similar: str
) -> None:
    stream = make_stream(files={similar: {}, "customers.json": {}, "shared/money.json": {}})

    assert stream.get_json_schema() is None

    [warning] = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "asyncstreams"]
    assert warning[0] == logging.WARNING
    assert similar in warning[1]
    assert "customers" not in warning[1]
