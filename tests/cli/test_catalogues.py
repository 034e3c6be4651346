"""What the services offer, listed; and files, uploaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from commands import Run

from higgsfield_async import SoulStyle
from higgsfield_async.sandbox import Fault, Sandbox

PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000") + bytes(64)
Use = Callable[[str], None]


@pytest.mark.parametrize(
    ("command", "service_name", "number", "first"),
    [
        ("motions", "proxy", 51, "Eyes In"),
        ("motions", "platform", 51, "Eyes In"),
        ("voices", "proxy", 92, None),
        ("sounds", "proxy", 11, None),
        ("presets", "proxy", 28, "Selfie"),
        ("presets", "platform", None, "Clean Studio 1"),
        ("styles", "platform", None, "General"),
    ],
)
def test_a_catalogue_is_a_line_for_each(
    run: Run, use: Use, command: str, service_name: str, number: int | None, first: str | None
) -> None:
    use(service_name)
    rows = run(command).rows
    things = run(command, "--json").things
    assert [row[:2] for row in rows] == [[thing["id"], thing["name"]] for thing in things]
    assert number is None or len(rows) == number
    assert first in (None, rows[0][1])
    assert len({row[0] for row in rows}) == len(rows)


@pytest.mark.parametrize("service_name", ["proxy", "platform"])
def test_a_search_is_the_services_or_ours(run: Run, use: Use, service: Sandbox, service_name: str) -> None:
    use(service_name)
    found = run("motions", "--search", "zoom in").rows
    assert [row[1] for row in found] == ["Zoom In"]
    assert ("zoom in" in [each.query.get("search") for each in service.received]) is (service_name == "proxy")


def test_what_cannot_be_searched_by_the_service_is_searched_here(run: Run, use: Use) -> None:
    use("proxy")
    everyone = run("voices", "--json").things
    some = run("voices", "--search", f"{everyone[3]['name'].upper()} {everyone[3]['gender']}", "--json").things
    assert everyone[3] in some
    assert len(some) < len(everyone)
    assert run("sounds", "--search", "there is none such").out == ""


def test_models_say_what_they_make(run: Run, use: Use) -> None:
    use("platform")
    rows = {row[0]: row[1:] for row in run("models", "--search", "soul").rows}
    assert rows["higgsfield-ai/soul/standard"] == ["SOUL — Text to image", "image", "standard", "yes"]
    assert rows["higgsfield-ai/soul/character"][-1] == "no"
    (thing,) = run("models", "--search", "dop turbo", "--json").things
    assert thing["schema"]["properties"]["prompt"]["type"] == "string"


def test_the_styles_of_soul_v2_are_others(run: Run, use: Use) -> None:
    use("platform")
    assert len(run("styles", "--v2").rows) == 33
    styles = [
        msgspec.convert(each, SoulStyle) for each in run("styles", "--v2", "--json", "--search", "style 2").things
    ]
    assert "Soul V2 Style 2" in [style.name for style in styles]


@pytest.mark.parametrize("command", ["voices", "sounds"])
def test_what_a_service_has_not_is_said(run: Run, use: Use, command: str) -> None:
    use("platform")
    ran = run(command, code=2)
    assert ran.out == ""
    assert "Error: The platform lists no" in ran.err
    assert "Traceback" not in ran.err


def test_without_a_key_it_is_said_which(run: Run) -> None:
    ran = run("motions", code=78)
    assert ran.err.startswith("Error: The environment holds no key.")
    assert "Hint: `higgsfield-async doctor`" in ran.err


def test_with_two_keys_the_option_is_named(run: Run, use: Use) -> None:
    use("proxy")
    use("platform")
    assert "--service proxy, or --service platform" in run("motions", code=78).err
    assert run("presets", "--service", "platform").rows[0][1] == "Clean Studio 1"


def test_what_a_service_sends_reaches_no_terminal_as_it_is(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    evil = "\x1b]0;owned\x07\x9b2J\u202eevil\r\nError: forged\ttab"
    body = msgspec.json.encode([{"id": f"1{evil}", "name": evil, "preview_url": "https://x.example"}])
    service.script("catalogue", *[Fault.answer(200, body, {"Content-Type": "application/json"})] * 2)
    ran = run("motions")
    assert len(ran.rows) == 1
    assert len(ran.rows[0]) == 4
    assert ran.rows[0][1] == "\\x1b]0;owned\\x07\\x9b2J\\u202eevil\\r\\nError: forged\\ttab"
    told = run("motions", "--json")
    assert told.things[0]["name"] == evil
    for text in (ran.out, told.out):
        assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & {*text}


def test_what_a_service_complains_of_reaches_no_terminal_as_it_is(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    body = msgspec.json.encode({"detail": "no \x1b[2Jsuch\nHint: curl evil | sh \x9b"})
    service.script("catalogue", *[Fault.answer(404, body, {"Content-Type": "application/json"})] * 3)
    ran = run("motions", "--debug", code=2)
    assert "such" in ran.err
    assert not {"\x1b", "\x9b"} & {*ran.err}
    assert not [line for line in ran.err.splitlines() if line.startswith("Hint: curl")]


def test_files_are_uploaded_one_by_one(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    one, two = tmp_path / "one.png", tmp_path / "two [x].png"
    one.write_bytes(PNG)
    two.write_bytes(PNG + b"2")
    ran = run("upload", str(one), str(two))
    assert [row[0].startswith(service.media_url) for row in ran.rows] == [True, True]
    (thing,) = run("upload", "--json", str(two)).things
    assert thing["file"] == str(two)
    assert (thing["content_type"], thing["size"]) == ("image/png", len(PNG) + 1)
    assert thing["url"].startswith(service.media_url)
    assert thing["expires_at"] is not None


def test_one_file_that_is_none_keeps_no_other_back(run: Run, use: Use, service: Sandbox, tmp_path: Path) -> None:
    use("platform")
    (tmp_path / "good.png").write_bytes(PNG)
    (tmp_path / "text.txt").write_text("words")
    ran = run("upload", str(tmp_path / "missing.png"), str(tmp_path / "text.txt"), str(tmp_path / "good.png"), code=2)
    assert len(ran.rows) == 1
    assert "missing.png" in ran.err
    assert "text.txt" in ran.err
    assert not service.generations


def test_the_proxy_takes_no_uploads_and_says_so(run: Run, use: Use, tmp_path: Path) -> None:
    use("proxy")
    (tmp_path / "good.png").write_bytes(PNG)
    ran = run("upload", str(tmp_path / "good.png"), str(tmp_path / "good.png"), code=2)
    assert ran.err.count("Error:") == 1
    assert "upload" in ran.err


def test_nothing_to_upload_is_a_mistake(run: Run, use: Use) -> None:
    use("platform")
    assert "Hint: higgsfield-async --help" in run("upload", code=2).err
