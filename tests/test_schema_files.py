"""Is a stream's schema file found wherever its class comes from, with what it refers to, and nothing else?"""

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
Written = Callable[..., HttpStream]


NOT_JSON = ["{", "", '{"a": NaN}', '{"a": 1} x', b"\xff\xfe\x00", b'{"a": "\xe9"}']


def put(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], Any]]:
    """Imports a module from a folder or zip file, and forgets it after the test."""
    before = set(sys.modules)

    def imported(where: Path, name: str) -> Any:
        monkeypatch.syspath_prepend(str(where))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield imported
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def written(tmp_path: Path, importing: Callable[[Path, str], Any]) -> Written:
    """The stream Orders of a package with these files below its `schemas/`."""

    def stream(module: str = MODULE, name: str = "Orders", **files: Any) -> HttpStream:
        put(tmp_path, {"shop/__init__.py": "", "shop/streams.py": module})
        put(tmp_path / "shop" / "schemas", files.pop("files", files))
        return getattr(importing(tmp_path, "shop.streams"), name)()

    return stream


def of(field: Any, **others: Any) -> dict[str, Any]:
    """Files with a schema whose one field has this schema."""
    return {"orders.json": {"type": "object", "properties": {"field": field}}, **others}


def verdicts(stream: HttpStream, *values: Any) -> list[bool]:
    """Ours, and jsonschema's without any registry: the schema must stand by itself."""
    schema: Any = stream.get_json_schema()
    ours = [RecordSchema(schema).is_valid({"field": value}) for value in values]
    assert ours == [jsonschema.Draft7Validator(schema).is_valid({"field": value}) for value in values]
    return ours


def test_it_lies_beside_the_module_of_a_package(written: Written) -> None:
    stream = written(files=of({"type": "null"}))

    schema = stream.get_json_schema()

    assert schema == {"type": "object", "properties": {"field": {"type": "null"}}}


def test_without_a_file_there_is_no_schema(written: Written) -> None:
    stream = written(files={"customers.json": {}})

    assert stream.get_json_schema() is None


@pytest.mark.parametrize("module", ["orders_alone", "shop_space.deep.streams"])
def test_it_lies_beside_a_module_at_the_top_or_in_a_namespace(
    tmp_path: Path, importing: Callable[[Path, str], Any], module: str
) -> None:
    path = tmp_path / (module.replace(".", "/") + ".py")
    put(tmp_path, {str(path): MODULE})
    put(path.parent, {"schemas/orders.json": {"title": "found"}})

    schema = importing(tmp_path, module).Orders().get_json_schema()

    assert schema == {"title": "found"}


def test_it_is_found_in_a_zip_file(tmp_path: Path, importing: Callable[[Path, str], Any]) -> None:
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("shop/__init__.py", MODULE)
        archive.writestr("shop/schemas/orders.json", json.dumps(of({"$ref": "money.json"})["orders.json"]))
        archive.writestr("shop/schemas/shared/money.json", json.dumps(MONEY))

    found = verdicts(importing(tmp_path / "shop.zip", "shop").Orders(), "12", "x")

    assert found == [True, False]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("command", [("program.py",), ("-m", "program")])
def test_a_script_has_its_schemas_beside_it(tmp_path: Path, command: tuple[str, ...]) -> None:
    put(
        tmp_path,
        {"program.py": MODULE + "\nprint(Orders().get_json_schema())", "schemas/orders.json": {"title": "found"}},
    )

    assert run(tmp_path, *command) == "{'title': 'found'}"


def test_a_notebook_has_its_schemas_where_it_was_started(tmp_path: Path) -> None:
    put(tmp_path, {"schemas/orders.json": {"title": "found"}})

    assert run(tmp_path, "-c", MODULE + "\nprint(Orders().get_json_schema())") == "{'title': 'found'}"


def test_a_class_whose_module_is_nowhere_has_no_schema(written: Written) -> None:
    stream = written(files={"orders.json": {}})
    type(stream).__module__ = "nowhere_at_all"

    assert stream.get_json_schema() is None


SUBCLASS = "from base_shop import Orders as TheirOrders\nclass Orders(TheirOrders): pass\n"


@pytest.mark.parametrize(("own", "found"), [({}, "theirs"), ({"orders.json": {"title": "own"}}, "own")])
def test_that_of_a_base_class_holds_where_there_is_none_nearer(
    tmp_path: Path, importing: Callable[[Path, str], Any], written: Written, own: dict[str, Any], found: str
) -> None:
    put(tmp_path, {"elsewhere/base_shop/__init__.py": MODULE})
    put(tmp_path, {"elsewhere/base_shop/schemas/orders.json": {"title": "theirs"}})
    importing(tmp_path / "elsewhere", "base_shop")

    schema: Any = written(module=SUBCLASS, files=own).get_json_schema()

    assert schema["title"] == found


@pytest.mark.parametrize(
    "name",
    [
        *("orders-2024", "a.b", "100%", "a#b", "a~b", "$x"),
        *(pytest.param(name) for name in ("Größe", "two words", "注文")),
    ],
)
def test_a_name_may_have_odd_characters(written: Written, name: str) -> None:
    files = {
        f"{name}.json": {"properties": {"field": {"$ref": f"{name}.json#/definitions/x"}}, "definitions": {"x": False}}
    }
    if set(name) & set("%#"):  # These mean something in a reference.
        files[f"{name}.json"]["properties"] = {"field": False}
    stream = written(files=files)
    stream.name = name

    assert verdicts(stream, 1) == [False]


@pytest.mark.parametrize(
    "name",
    [
        "..\\outside",
        *(pytest.param(name) for name in ("../outside", "shared/../../outside", "/outside")),
    ],
)
def test_a_name_does_not_lead_out_of_the_folder(tmp_path: Path, written: Written, name: str) -> None:
    stream = written(files={"shared/money.json": MONEY})
    put(tmp_path, {"shop/outside.json": {"title": "outside"}})
    stream.name = str(tmp_path / "shop/outside") if name == "/outside" else name

    try:
        schema = stream.get_json_schema()
    except ConfigError:
        schema = None

    assert schema is None


@pytest.mark.parametrize(
    ("reference", "fitting", "unfitting"),
    [
        *((f"{before}money.json", "12", "x") for before in ("", "./", "shared/", "./shared/")),
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
def test_a_reference_leads_to_a_file_of_the_folder(
    written: Written, reference: str, fitting: Any, unfitting: Any
) -> None:
    files = of({"$ref": reference})
    files["orders.json"]["definitions"] = {"own": {"const": 0}}
    files["customers.json"] = {"type": "integer", "definitions": {"y": {"type": "string"}}}
    files |= {"both.json": {"const": "in schemas"}, "shared/both.json": {"const": "in shared"}}
    files |= {"shared/two words.json": {"const": "two"}, "shared/größe.json": {"const": "L"}}
    files["shared/money.json"] = MONEY

    assert verdicts(written(files=files), fitting, unfitting) == [True, False]


NO: dict[str, Any] = {"$ref": "#/no"}
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


@pytest.mark.parametrize(
    ("shared", "fitting", "unfitting"),
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
        ({"properties": {"$ref": NO}}, [{}], [{"$ref": 1}]),
        ({"properties": {"properties": {"properties": {"b": NO}}}}, [{"b": 1}], [{"properties": {"b": 1}}]),
        ({"items": [{"type": "null"}, {"allOf": [{"not": NO}]}, NO]}, [[None, 1]], [[1], [None, 1, 1]]),
        ({"if": NO, "then": True, "else": {"additionalProperties": NO}}, [{}], [{"b": 1}]),
        *(
            pytest.param(schema, fitting, unfitting)
            for schema, fitting, unfitting in [
                ({"properties": {"enum": {"$ref": "money.json"}}}, [{"enum": "12"}], [{"enum": "x"}]),
                ({"properties": {"default": NO}}, [{}], [{"default": 1}]),
                ({"properties": {"const": {"properties": {"examples": NO}}}}, [{}], [{"const": {"examples": 1}}]),
                ({"patternProperties": {"enum": NO}}, [{"b": 1}], [{"enum": 1}]),
                ({"dependencies": {"default": NO}}, [{"b": 1}], [{"default": 1}]),
                ({"$ref": "#/definitions/default"}, [], [1]),
            ]
        ),
    ],
)
def test_references_in_a_shared_file_are_its_own(
    written: Written, shared: Any, fitting: list[Any], unfitting: list[Any]
) -> None:
    first = {"a": shared, "no": False, "definitions": {"n": {"type": "null"}, "default": {"$ref": "#/no"}}}
    files = of({"$ref": "first.json#/a"}, **{"shared/first.json": first, "shared/money.json": MONEY})
    files["shared/list.json"] = {"type": "array", "part": {"items": {"type": "integer"}}}
    files["shared/second.json"] = {
        "b": {"anyOf": [{"type": "array"}, {"type": "object", "properties": {"b": {"$ref": "#/b"}}, "required": ["b"]}]}
    }
    files["orders.json"] |= {"definitions": {"n": False, "default": True}, "no": True, "a": False}

    assert verdicts(written(files=files), *fitting, *unfitting) == [True] * len(fitting) + [False] * len(unfitting)


@pytest.mark.parametrize("identity", [{"$id": "https://api.test/first.json"}, {"$id": "first.json"}, DRAFT_7])
def test_a_shared_file_may_name_itself_and_its_draft(written: Written, identity: dict[str, str]) -> None:
    first = {**identity, "a": {"$ref": "#/n"}, "b": {"$ref": "money.json"}, "n": {"type": "null"}}
    files = of({"anyOf": [{"$ref": "first.json#/a"}, {"$ref": "first.json#/b"}]})
    files |= {"shared/first.json": first, "shared/money.json": MONEY}

    assert verdicts(written(files=files), None, "12", 1, "x") == [True, True, False, False]


def test_a_schema_that_holds_itself_stays_finite(written: Written) -> None:
    tree = {"type": "object", "properties": {"field": {"$ref": "orders.json"}, "other": {"$ref": "branch.json"}}}
    branch = {"type": "object", "properties": {"field": {"$ref": "branch.json"}}, "required": ["name"]}
    stream = written(files={"orders.json": tree, "shared/branch.json": branch})

    found = verdicts(stream, {"field": {}}, {"field": 1}, {"other": {"field": {}}}, {"other": {"name": 1}})

    assert found == [True, False, False, True]


def test_own_definitions_and_those_of_files_do_not_meet(written: Written) -> None:
    files = of({"$ref": "#/$defs/money.json"}, **{"shared/money.json": MONEY})
    files["orders.json"]["properties"]["other"] = {"$ref": "money.json"}
    files["orders.json"]["$defs"] = {name: {"const": "own"} for name in ("money.json", "money", "shared/money.json")}

    assert verdicts(written(files=files), "own", "12") == [True, False]


def test_the_order_of_properties_is_kept(written: Written) -> None:
    names = ["zeta", "alpha", "mid", "beta"]
    shared = {"properties": {name: {} for name in names}}
    schema = {"properties": {name: {"$ref": "money.json"} for name in names}, "type": "object"}
    stream = written(files={"orders.json": schema, "shared/money.json": shared})

    found: Any = stream.get_json_schema()

    assert list(found)[:2] == ["properties", "type"]
    assert list(found["properties"]) == names
    assert [list(held["properties"]) for held in found["$defs"].values()] == [names]


ELSEWHERE = r"""
../outside.json shared/../../outside.json ./../outside.json %2e%2e/outside.json ..%2Foutside.json ..\outside.json
{folder}/shop/outside.json file://{folder}/shop/outside.json http://127.0.0.1:9/outside.json urn:outside
https://api.test/outside.json#/definitions/x //api.test/outside.json
missing.json shared money.json#/definitions/missing #/definitions/missing
"""


@pytest.mark.parametrize("reference", [*ELSEWHERE.split(), 7, None])
def test_a_reference_elsewhere_is_refused_and_named(tmp_path: Path, written: Written, reference: Any) -> None:
    put(tmp_path, {"shop/outside.json": "{ not read"})
    written_as = reference.format(folder=tmp_path) if isinstance(reference, str) else reference
    stream = written(files=of({"$ref": written_as}, **{"shared/money.json": MONEY}))

    with pytest.raises(ConfigError) as caught:
        RecordSchema(cast(Any, stream.get_json_schema()))

    assert repr(written_as).strip("'").rpartition("#")[2] in str(caught.value)
    assert "not read" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "content"),
    [
        *((name, text) for name in ("orders.json", "shared/money.json") for text in NOT_JSON),
        *(("orders.json", text) for text in ("[]", "1")),
        *(pytest.param("shared/money.json", text) for text in ("[]", "1")),
    ],
)
def test_a_file_that_holds_no_schema_is_named(written: Written, broken: str, content: Any) -> None:
    stream = written(files=of({"$ref": "money.json"}, **{"shared/money.json": MONEY}) | {broken: content})

    with pytest.raises(ConfigError, match=broken):
        stream.get_json_schema()


def test_a_file_with_a_byte_order_mark_is_read(written: Written) -> None:
    stream = written(files={"orders.json": b'\xef\xbb\xbf{"title": "found"}'})

    assert stream.get_json_schema() == {"title": "found"}


@pytest.mark.parametrize(
    "almost",
    [
        *("order.json", "Orders.json", "orderss.json"),
        *(pytest.param(name) for name in ("ordres.json", "orders.JSON")),
    ],
)
def test_a_file_that_is_almost_named_so_is_warned_of(
    written: Written, caplog: pytest.LogCaptureFixture, almost: str
) -> None:
    stream = written(files={almost: {}, "customers.json": {}, "shared/money.json": {}})

    assert stream.get_json_schema() is None

    [told] = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "asyncstreams"]
    assert told[0] == logging.WARNING
    assert almost in told[1]
    assert "customers" not in told[1]
