"""What is documented of the models: a warning for a request that is otherwise, and a refusal for who asks for it."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import pickle
import runpy
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from higgsfield_async import ArgumentWarning, FieldError, Higgsfield, InvalidRequest, ModelRequest
from higgsfield_async._hints import _look, _rule, documented, problems, read
from higgsfield_async._hints.__main__ import DATA, main, refreshed, written
from higgsfield_async._requests import json_schema, read_request
from higgsfield_async.sandbox import Sandbox
from surfaces import IMAGE, PROMPT

Client = Callable[..., Higgsfield]
SOUL = "higgsfield-ai/soul/standard"
DOP = "higgsfield-ai/dop/turbo"
STYLE = "464ea177-8d40-4940-8d9d-b438bab269c7"
OPENAPI = (
    Path(__file__)
    .parents[2]
    .joinpath("shared", "wire", "payloads", "openapi_published_2026-07.platform.higgsfield.ai.json")
)

# Each with what is said of it, in full.
WRONG: list[tuple[str, dict[str, Any], list[str]]] = [
    (
        SOUL,
        {"promt": "x", "prompt": "x"},
        ["arguments.promt: is not documented (did you mean prompt?)"],
    ),
    (SOUL, {"prompt": "x", "wholly_other": 1}, ["arguments.wholly_other: is not documented"]),
    (SOUL, {"prompt": "x", PROMPT: 1}, ["arguments.…: is not documented"]),
    (SOUL, {"prompt": "x", "a" * 41: 1}, ["arguments.…: is not documented"]),
    (SOUL, {}, ["arguments.prompt: is required"]),
    (SOUL, {"prompt": None}, ["arguments.prompt: is required"]),
    (SOUL, {"prompt": 7}, ["arguments.prompt: must be text"]),
    (SOUL, {"prompt": "x", "resolution": "2K"}, ["arguments.resolution: must be 720p or 1080p"]),
    (SOUL, {"prompt": "x", "resolution": ["720p"]}, ["arguments.resolution: must be 720p or 1080p"]),
    (SOUL, {"prompt": "x", "batch_size": 2}, ["arguments.batch_size: must be 1 or 4"]),
    (SOUL, {"prompt": "x", "batch_size": True}, ["arguments.batch_size: must be 1 or 4"]),
    (SOUL, {"prompt": "x", "seed": 0}, ["arguments.seed: must be a whole number, 1 to 1,000,000"]),
    (SOUL, {"prompt": "x", "seed": 1_000_001}, ["arguments.seed: must be a whole number, 1 to 1,000,000"]),
    (SOUL, {"prompt": "x", "seed": "5"}, ["arguments.seed: must be a whole number, 1 to 1,000,000"]),
    (SOUL, {"prompt": "x", "seed": 1.5}, ["arguments.seed: must be a whole number, 1 to 1,000,000"]),
    (SOUL, {"prompt": "x", "style_strength": 1.1}, ["arguments.style_strength: must be a number, 0 to 1"]),
    (SOUL, {"prompt": "x", "style_strength": True}, ["arguments.style_strength: must be a number, 0 to 1"]),
    (SOUL, {"prompt": "x", "style_id": "General"}, ["arguments.style_id: must be a UUID"]),
    (SOUL, {"prompt": "x", "enhance_prompt": 1}, ["arguments.enhance_prompt: must be true or false"]),
    (
        SOUL,
        {"prompt": "x", "image_reference_url": "cat.jpg"},
        ["arguments.image_reference_url: must be an http(s) address of 1 to 2,083 characters"],
    ),
    (
        SOUL,
        {"prompt": "x", "image_reference_url": f"https://a.b/{'c' * 2083}"},
        ["arguments.image_reference_url: must be an http(s) address of 1 to 2,083 characters"],
    ),
    ("z-image/turbo", {"prompt": "x" * 801}, ["arguments.prompt: must be text of at most 800 characters"]),
    ("kling-video/v2.6/pro/text-to-video", {"prompt": "x", "sound": True}, ["arguments.sound: must be on or off"]),
    ("veo3.1/fast", {"prompt": "x", "duration": 6}, ["arguments.duration: must be 4, 6 or 8"]),
    (
        "alibaba/qwen-image-3/edit",
        {"prompt": "x", "image_urls": []},
        ["arguments.image_urls: must be a list of 1 to 3 items"],
    ),
    (
        "alibaba/qwen-image-3/edit",
        {"prompt": "x", "image_urls": [Path("a"), Path("b"), Path("c"), Path("d")]},
        ["arguments.image_urls: must be a list of 1 to 3 items"],
    ),
    (
        "alibaba/qwen-image-3/edit",
        {"prompt": "x", "image_urls": [IMAGE, "cat.jpg"]},
        ["arguments.image_urls.1: must be an http(s) address of 1 to 2,083 characters"],
    ),
    (
        DOP,
        {"prompt": "x", "image_url": IMAGE, "motions": [{"id": "m", "strenght": 1}]},
        [
            "arguments.motions.0.strenght: is not documented (did you mean strength?)",
            "arguments.motions.0.strength: is required",
        ],
    ),
    (
        DOP,
        {"prompt": "x", "image_url": IMAGE, "motions": [{"id": "m", "strength": 1}] * 3},
        ["arguments.motions: must be a list of at most 2 items"],
    ),
    ("higgsfield/ai-influencer", {"selection": []}, ["arguments.selection: must be an object"]),
    (
        "veo3.1/image-to-video",
        {"prompt": "x", "image_url": "?"},
        ["arguments.image_url: must be an http(s) address of at least 3 characters"],
    ),
]
FINE: list[tuple[str, dict[str, Any]]] = [
    (SOUL, {"prompt": "x", "seed": None, "style_strength": 1, "style_id": STYLE, "batch_size": 4.0}),
    (SOUL, {"prompt": "x", "style_id": STYLE.upper(), "seed": 5.0, "image_reference_url": "HTTPS://a.b/c"}),
    (DOP, {"prompt": "x", "image_url": IMAGE, "motions": ({"id": "m", "strength": 0.5},)}),
    ("alibaba/qwen-image-3/edit", {"prompt": "x", "image_urls": [IMAGE] * 3}),
    ("recraft/v4.1/text-to-image", {"prompt": "x", "colors": [[255, 0, 0]], "background_color": {"r": 1}}),
    ("lightricks/ltx-2.5/text-to-video/fast", {"prompt": "x"}),
    # Not JSON yet: files that will be uploaded.
    (DOP, {"prompt": "x", "image_url": Path("cat.png")}),
    (DOP, {"prompt": "x", "image_url": b"\x89PNG", "end_image_url": io.BytesIO()}),
    (DOP, {"prompt": "x", "image_url": "data:image/png;base64," + "A" * 4000}),
    ("alibaba/qwen-image-3/edit", {"prompt": "x", "image_urls": [Path("a.png"), b"x", object()]}),
]


@pytest.mark.parametrize(("model_id", "arguments", "said"), WRONG)
def test_what_is_not_as_documented(model_id: str, arguments: dict[str, Any], said: list[str]) -> None:
    assert [str(error) for error in problems(model_id, arguments) or ()] == said


@pytest.mark.parametrize(("model_id", "arguments"), FINE)
def test_what_is(model_id: str, arguments: dict[str, Any]) -> None:
    assert problems(model_id, arguments) == []


def test_no_more_than_twenty_are_told() -> None:
    assert len(problems(SOUL, {f"x{number}": 1 for number in range(1000)}) or ()) == 20
    assert len(problems("alibaba/qwen-image-3/edit", {"prompt": "x", "image_urls": [1] * 3}) or ()) == 3
    # Of a list, too: nobody looks at the rest of it.
    addresses = {"prompt": "x", "image_urls": ["bad"] * 100_000}
    tracemalloc.start()
    try:
        assert len(problems("alibaba/happy-horse/reference-to-video", addresses) or ()) == 20
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1_000_000


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(st.data())
def test_whatever_the_arguments_are(data: st.DataObject) -> None:
    hint = data.draw(st.sampled_from(list(documented().values())))
    fields = st.sampled_from(list(hint.schema["properties"])) | st.text(max_size=8)
    arguments = data.draw(st.dictionaries(fields, anything, max_size=5))
    wrong = problems(hint.id, arguments)
    assert wrong is not None
    assert len(wrong) <= 20
    missing = {name for name in hint.schema.get("required", ()) if arguments.get(name) is None}
    assert missing <= {error.loc[1] for error in wrong if error.type == "missing"}
    unknown = {error.loc[1] for error in wrong if len(error.loc) == 2 and error.type == "extra_forbidden"}
    assert unknown <= (arguments.keys() - hint.schema["properties"].keys()) | {"…"}


@pytest.mark.parametrize("model_id", documented())
def test_what_is_documented_fits_itself(model_id: str) -> None:
    schema = documented()[model_id].schema
    assert set(schema.get("required", ())) <= schema["properties"].keys()
    defaults = {name: each["default"] for name, each in schema["properties"].items() if "default" in each}
    assert not [error for error in problems(model_id, defaults) or () if error.type != "missing"]


# A request


def test_the_warning_is_one_and_points_at_the_line_that_made_the_request() -> None:
    with pytest.warns(ArgumentWarning) as caught:
        ModelRequest(SOUL, {"promt": PROMPT, "resolution": "an own prompt in the wrong place", "seed": -77})
    (warning,) = caught
    assert warning.filename == __file__
    assert Path(__file__).read_text(encoding="utf-8").splitlines()[warning.lineno - 1].strip().startswith("ModelReq")
    message = str(warning.message)
    assert message == (
        f"These are not the arguments that are documented of {SOUL} (docs.higgsfield.ai, 2026-10-01): "
        "arguments.promt: is not documented (did you mean prompt?); arguments.resolution: must be 720p or 1080p; "
        "arguments.seed: must be a whole number, 1 to 1,000,000; arguments.prompt: is required. "
        "The service ignores what it does not know, and bills."
    )


def test_the_warning_can_be_filtered() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArgumentWarning)
        assert ModelRequest(SOUL, {"promt": PROMPT}).arguments == {"promt": PROMPT}
    with pytest.raises(ArgumentWarning):
        ModelRequest(SOUL, {"promt": PROMPT})


def test_a_model_that_is_not_documented_passes() -> None:
    assert ModelRequest("vendor/next-year", {"anything": 1}).strict is False
    with pytest.raises(InvalidRequest, match="is not among the 127 models") as caught:
        ModelRequest("higgsfield-ai/soul/standart", {}, strict=True)
    (error,) = caught.value.errors
    assert (error.loc, error.type) == (("model_id",), "unknown_model")
    assert f"(did you mean {SOUL}?)" in error.msg
    assert "up to 2026-10-01" in error.msg


def test_strict_refuses_and_names_each_field() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ModelRequest(DOP, {"prompt": PROMPT, "duration": 5}, strict=True)
    assert [(error.loc, error.type) for error in caught.value.errors] == [
        (("arguments", "duration"), "extra_forbidden"),
        (("arguments", "image_url"), "missing"),
    ]
    assert DOP in str(caught.value)
    assert "(the live service, 2026-09-17)" in str(caught.value)
    assert caught.value.charged == "no"
    assert PROMPT not in str(caught.value)
    with pytest.raises(InvalidRequest, match="Expected `bool`"):
        ModelRequest(DOP, {"prompt": "x", "image_url": IMAGE}, strict="yes")  # type: ignore[arg-type]  # that is what is refused


async def test_strict_is_not_sent(sandbox: Sandbox, client: Client) -> None:
    arguments = {"prompt": PROMPT, "image_url": IMAGE}
    strict = ModelRequest(DOP, arguments, strict=True)
    async with client("platform") as hf:
        first = await hf.submit(strict, idempotency_key="one")
        # Neither is it a part of what makes two submits the same.
        again = await hf.submit(ModelRequest(DOP, arguments), idempotency_key="one")
    assert first.id == again.id
    assert [received.json() for received in sandbox.received] == [arguments, arguments]
    assert len(sandbox.generations) == 1
    assert pickle.loads(pickle.dumps(strict)) == strict
    assert read_request(ModelRequest, msgspec.to_builtins(strict)) == strict


def test_a_request_of_json_is_logged_instead(caplog: pytest.LogCaptureFixture) -> None:
    body = {"model_id": SOUL, "arguments": {"promt": PROMPT, PROMPT: 1}}
    with caplog.at_level(logging.WARNING, "higgsfield_async.requests"):
        request = read_request(ModelRequest, body)
    assert request.arguments["promt"] == PROMPT
    (record,) = caplog.records
    assert "arguments.promt: is not documented (did you mean prompt?); arguments.…: is not documented" in record.message
    assert PROMPT not in record.message
    # Whoever sends the JSON may ask for certainty too, which no schema can promise.
    with pytest.raises(InvalidRequest, match="arguments.promt"):
        read_request(ModelRequest, {**body, "strict": True})
    assert set(json_schema(ModelRequest)["properties"]) == {"model_id", "arguments"}


def test_importing_reads_no_data() -> None:
    code = (
        "import sys, higgsfield_async as h; from higgsfield_async import _hints as hints;"
        "assert not hints.documented.cache_info().currsize; assert 'difflib' not in sys.modules;"
        "h.ModelRequest('a/b', {}); assert hints.documented.cache_info().currsize"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


# The data


def test_the_data_is_as_a_refresh_would_write_it() -> None:
    data = DATA.read_bytes()
    assert written(read(data)) == data
    hints = documented()
    assert len(hints) == 127
    assert {hint.source for hint in hints.values()} == {"docs", "openapi", "live"}
    assert {hint.id for hint in hints.values() if hint.hand} == {SOUL} | {
        f"higgsfield-ai/dop/{tier}" for tier in ("lite", "standard", "turbo")
    }
    # The live validator knows no 2K here, whatever the OpenAPI document says.
    assert hints[SOUL].schema["properties"]["resolution"]["enum"] == ["720p", "1080p"]


TEXT = {"type": "string"}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "components": {
        "schemas": {
            "Frame": {"type": "string", "format": "uri", "title": "A frame"},
            "Loop": {"type": "array", "items": {"$ref": "#/components/schemas/Loop"}},
        }
    },
    "paths": {
        "/vendor/new": {
            "post": {
                "summary": "New — Text to video",
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "prompt": {**TEXT, "title": "Prompt", "maxLength": 500},
                                    "seed": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
                                    "either": {"anyOf": [TEXT, {"type": "integer"}]},
                                    "frame": {"$ref": "#/components/schemas/Frame"},
                                    "gone": {"$ref": "#/definitions/Nowhere"},
                                    "loop": {"$ref": "#/components/schemas/Loop"},
                                    "duration": {"enum": [5, 10], "default": 5},
                                    "odd": {"enum": [None], "format": "color", "default": None},
                                },
                                "required": ["prompt", "duration"],
                            }
                        }
                    }
                },
            }
        },
        "/vendor/old/text-to-image": {
            "post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}
        },
        "/vendor/mystery": {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}},
        "/vendor/by-hand": {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}},
        "/vendor/page": {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}},
        "/vendor/younger": {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}},
        "/vendor/optional": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"type": "object", "properties": {"prompt": TEXT}}}}
                }
            }
        },
        "/vendor/no-body": {"post": {}},
        "/requests/{request_id}/cancel": {"post": {"requestBody": {"content": {"application/json": {"schema": TEXT}}}}},
        "/v1/text2image/soul": {"post": {"requestBody": {"content": {"application/json": {"schema": TEXT}}}}},
        "/models": {"get": {}},
    },
}
BEFORE = [
    {"id": "vendor/by-hand", "title": "By hand", "source": "live", "date": "2020-01-01", "hand": "why", "schema": {}},
    {"id": "vendor/old/text-to-image", "title": "Old", "source": "docs", "date": "2020-01-01", "schema": {}},
    {"id": "vendor/page", "title": "Page", "source": "docs", "date": "2026-12-01", "schema": {}},
    {"id": "vendor/paper", "title": "Only on a page", "source": "docs", "date": "2020-01-01", "schema": {}},
    {"id": "vendor/younger", "title": "Younger", "source": "openapi", "date": "2027-01-01", "schema": {}},
]  # fmt: skip


def test_a_refresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, data = tmp_path / "openapi.json", tmp_path / "models.json"
    document.write_text(json.dumps(DOCUMENT))
    data.write_text(json.dumps(BEFORE))
    before = read(data.read_bytes())
    main([str(document), "--date", "2026-12-01", "--data", str(data)])
    assert capsys.readouterr().out == "3 models are new, 1 changed, 4 are as they were.\n"
    after = read(data.read_bytes())
    kept = ("vendor/by-hand", "vendor/page", "vendor/paper", "vendor/younger")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    old = after["vendor/old/text-to-image"]
    assert (old.title, old.output, old.source, old.date) == ("Old", "image", "openapi", dt.date(2026, 12, 1))
    assert after["vendor/mystery"].output is None
    assert after["vendor/optional"].schema == {"type": "object", "properties": {"prompt": TEXT}}
    new = after["vendor/new"]
    assert (new.title, new.output) == ("New — Text to video", None)
    loop = new.schema["properties"].pop("loop")
    assert new.schema == {
        "type": "object",
        "properties": {
            "prompt": {"type": "string", "maxLength": 500},
            "seed": {"type": "integer", "minimum": 1},
            "either": {},
            "frame": {"type": "string", "format": "uri"},
            "gone": {},
            "duration": {"type": "integer", "enum": [5, 10], "default": 5},
            "odd": {"enum": [None]},
        },
        "required": ["prompt"],
    }
    assert loop["items"]["items"]["type"] == "array"
    # The same again changes nothing.
    first = data.read_bytes()
    main([str(document), "--date", "2026-12-01", "--data", str(data)])
    assert capsys.readouterr().out == "0 models are new, 0 changed, 8 are as they were.\n"
    assert data.read_bytes() == first


NULLABLE = {"type": ["integer", "null"], "minimum": 1, "maximum": 10}
STYLES = {"Style": {"type": "string", "enum": ["a", "b"]}}
# Each as a document has it, what is kept of it, what fits that, and what does not.
SCHEMAS: list[tuple[dict[str, Any], dict[str, Any], list[Any], list[Any]]] = [
    (NULLABLE, {"type": "integer", "minimum": 1, "maximum": 10}, [None, 1, 10], ["5", 0, 11]),
    (
        {"type": ["array", "null"], "items": TEXT, "maxItems": 2},
        {"type": "array", "items": TEXT, "maxItems": 2},
        [["a"], None],
        [5, [5], ["a"] * 3],
    ),
    ({"type": ["string", "integer"], "minLength": 2}, {}, ["a", 1], []),
    ({"type": ["null"], "minimum": 2}, {}, [1], []),
    (
        {"allOf": [{"$ref": "#/components/schemas/Style"}], "default": "a"},
        {"type": "string", "enum": ["a", "b"], "default": "a"},
        ["a"],
        ["c", 1],
    ),
    ({"allOf": [TEXT, {"maxLength": 2}]}, {}, ["abc"], []),
    ({"minimum": 1, "maximum": 4, "default": 2}, {"default": 2}, ["x", 7, [1]], []),
    (
        {"anyOf": [{"type": "integer"}, {"type": "null"}], "minimum": 2},
        {"type": "integer", "minimum": 2},
        [2],
        [1, "2"],
    ),
    ({"enum": [5, "auto"]}, {"enum": [5, "auto"]}, [5, "auto"], [6]),
    ({"enum": [None, "a"]}, {"type": "string", "enum": [None, "a"]}, [None, "a"], ["b"]),
    ({"items": {"type": "integer"}}, {"items": {"type": "integer"}}, [5, "x", [1], {"a": 1}], [["x"]]),
    (
        {"properties": {"a": {"type": "integer"}}},
        {"properties": {"a": {"type": "integer"}}},
        [5, [1], {"a": 1}],
        [{"a": "x"}, {"b": 1}],
    ),
    (
        {"type": "integer", "format": "uuid", "minimum": 1},
        {"type": "integer", "format": "uuid", "minimum": 1},
        [1],
        ["464ea177-8d40-4940-8d9d-b438bab269c7"],
    ),
]


def wrong_with(schema: dict[str, Any], value: object) -> list[FieldError]:
    wrong: list[FieldError] = []
    _look(_rule(schema), value, ("arguments", "x"), wrong)
    return wrong


def taken_over(schema: object) -> dict[str, Any]:
    """What a refresh keeps of an argument's schema."""
    body = {"type": "object", "properties": {"x": schema}}
    post = {"post": {"requestBody": {"content": {"application/json": {"schema": body}}}}}
    document = {"paths": {"/vendor/new": post}, "components": {"schemas": STYLES}}
    kept: dict[str, Any] = refreshed({}, document, dt.date(2026, 12, 1))["vendor/new"].schema["properties"]["x"]
    return kept


@pytest.mark.parametrize(("schema", "kept", "fine", "wrong"), SCHEMAS)
def test_what_is_taken_over(schema: dict[str, Any], kept: dict[str, Any], fine: list[Any], wrong: list[Any]) -> None:
    assert taken_over(schema) == kept
    assert [value for value in fine if wrong_with(kept, value)] == []
    assert [value for value in wrong if not wrong_with(kept, value)] == []


kinds = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null", "file"])
words: dict[str, st.SearchStrategy[Any]] = {
    "type": kinds | st.lists(kinds, max_size=3),
    "format": st.sampled_from(["uri", "uuid", "date"]),
    "enum": st.lists(st.none() | st.booleans() | st.integers() | st.text(min_size=1, max_size=3), max_size=3),
    "default": st.none() | st.integers(),
    **dict.fromkeys(("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"), st.integers(0, 5)),
}
schemas = st.recursive(
    st.fixed_dictionaries({}, optional=words),
    lambda inner: st.fixed_dictionaries(
        {},
        optional=words
        | {"items": inner, "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2)}
        | dict.fromkeys(("anyOf", "oneOf", "allOf"), st.lists(inner | st.just({"type": "null"}), max_size=2)),
    ),
    max_leaves=6,
)


@given(schemas, anything | st.dictionaries(st.sampled_from("abc"), st.integers() | st.text(), max_size=2))
def test_whatever_a_document_says(schema: dict[str, Any], value: object) -> None:
    kept = taken_over(schema)
    assert taken_over(kept) == kept
    for error in wrong_with(kept, value):
        assert error.loc[:2] == ("arguments", "x")
        assert error.msg != "must be "


@pytest.mark.parametrize("content", [b"{}", b"[]", b"not JSON", b'{"paths": []}', None])
def test_what_is_no_openapi_document(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, data = tmp_path / "openapi.json", tmp_path / "models.json"
    data.write_text(json.dumps(BEFORE))
    if content is not None:
        document.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main([str(document), "--date", "2026-12-01", "--data", str(data)])
    assert caught.value.code == 1
    assert capsys.readouterr().err
    assert json.loads(data.read_bytes()) == BEFORE


def test_a_document_without_a_date_is_not_taken_for_todays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, data = tmp_path / "openapi.json", tmp_path / "models.json"
    document.write_text(json.dumps(DOCUMENT))
    data.write_text(json.dumps(BEFORE))
    with pytest.raises(SystemExit) as caught:
        main([str(document), "--data", str(data)])
    assert caught.value.code == 2
    assert "required: --date" in capsys.readouterr().err
    assert json.loads(data.read_bytes()) == BEFORE


def test_it_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    document, data = tmp_path / "openapi.json", tmp_path / "models.json"
    document.write_text(json.dumps(DOCUMENT))
    data.write_text("[]")
    monkeypatch.setattr(sys, "argv", ["hints", str(document), "--date", "2026-12-01", "--data", str(data)])
    monkeypatch.delitem(sys.modules, "higgsfield_async._hints.__main__")
    runpy.run_module("higgsfield_async._hints", run_name="__main__")
    assert capsys.readouterr().out.startswith("7 models are new")


@pytest.mark.skipif(not OPENAPI.exists(), reason="the published document does not lie beside this checkout")
def test_the_published_document_brings_nothing_new() -> None:
    document = json.loads(OPENAPI.read_bytes())
    published = dt.date(2026, 7, 19)
    assert refreshed(documented(), document, published) == documented()
    alone = refreshed({}, document, published)
    assert len(alone) == 48
    assert alone[SOUL].schema["properties"]["resolution"]["enum"] == ["2K", "4K"]
    assert refreshed(documented(), document, dt.date(2027, 1, 1))[SOUL] == documented()[SOUL]
