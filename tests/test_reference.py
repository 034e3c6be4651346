"""The reference is what the code is: the error tree, what each service offers, and the links between pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest

import higgsfield_async
from decoders import PLATFORM, PROXY_TRANSPORT, ref
from higgsfield_async import (
    AvatarPreset,
    HiggsfieldError,
    JobSet,
    MarketingPreset,
    Model,
    Motion,
    SoulStyle,
    Sound,
    TaskRef,
    Transport,
    Unsupported,
    Voice,
    _errors,
)
from higgsfield_async._errors import ConfigurationError
from higgsfield_async._requests import SubmitOptions
from surfaces import PROXY, V1, V2, Surface

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("benchmarks/*.md")])


def table(page: Path, beginning: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(beginning))
    rows: list[list[str]] = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def classes(kind: type[HiggsfieldError] = HiggsfieldError) -> Iterator[type[HiggsfieldError]]:
    """The tree, from its root."""
    yield kind
    for each in kind.__subclasses__():
        if each.__module__.startswith("higgsfield_async"):
            yield from classes(each)


GIVEN: dict[str, Any] = {
    "body": b"",
    "cause": ConfigurationError("x"),
    "job_set": JobSet(id="x"),
    "key": None,
    "left": Decimal(1),
    "limit": Decimal(2),
    "needed": None,
    "request": None,
    "status": 500,
    "unit": "points",
}


def made(kind: type[HiggsfieldError]) -> HiggsfieldError:
    """One of these, with what it must be given and no more."""
    wanted = {
        name
        for each in kind.__mro__
        if "__init__" in vars(each) and issubclass(each, HiggsfieldError)
        for name, parameter in inspect.signature(each).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    }
    return kind("x", **{name: GIVEN[name] for name in wanted})


def test_the_drawing_is_the_tree() -> None:
    drawing = re.findall(r"^ {4}([│ ├└─]*)(\w+)(?:  .*)?$", str(_errors.__doc__), re.MULTILINE)
    depths = {name: len(lines) // 3 for lines, name in drawing}
    assert set(depths) == {kind.__name__ for kind in classes()}
    for kind in classes():
        assert depths[kind.__name__] == sum(issubclass(above, HiggsfieldError) for above in kind.__mro__) - 1


def test_the_table_has_every_error_and_its_money() -> None:
    _, *rows = table(DOCS / "reference" / "errors.md", "| Error | When |")
    found = {name.strip("`"): charged for name, _, charged, _ in rows}
    assert set(found) == {kind.__name__ for kind in classes()}
    # In the order of the tree that is drawn above it.
    drawn = [name for _, name in re.findall(r"^ {4}([│ ├└─]*)(\w+)(?:  .*)?$", str(_errors.__doc__), re.MULTILINE)]
    assert list(found) == drawn
    for kind in classes():
        if kind.abstract:
            assert found[kind.__name__] == "–"
        elif kind.__name__ not in {"DownloadError", "NotCancelable", "WaitTimeout"}:  # always about a generation
            assert found[kind.__name__].startswith(made(kind).charged)


def test_every_error_is_public() -> None:
    assert {kind.__name__ for kind in classes()} <= set(higgsfield_async.__all__)


def test_every_request_stands_under_its_alias() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    described = page.partition("py:type:: GenerationRequest")[2].partition("py:type::")[0]
    named = set(re.findall(r":class:`(\w+)`", described))
    assert named == {kind.__name__ for kind in get_args(higgsfield_async.GenerationRequest)}


Asked = Callable[[Transport, TaskRef], object]
LISTED: dict[str, type] = {
    "motions": Motion,
    "avatar_presets": AvatarPreset,
    "voices": Voice,
    "sounds": Sound,
    "soul_styles": SoulStyle,
    "models": Model,
    "marketing_presets": MarketingPreset,
}
ASKED: dict[str, Asked] = {
    "`task.cancel()`": lambda transport, ref: transport.cancel(ref),
    "`task.delete()`, the results": lambda transport, ref: transport.delete(ref),
    "`hf.upload`": lambda transport, _: transport.upload(b"\x89PNG\r\n\x1a\n", 8, None),
    "`hf.usage`": lambda transport, _: transport.usage(None, None, "day"),
    "`CharacterTraining`, `hf.characters`, `hf.agents`": lambda transport, _: (
        transport.characters(),
        transport.agents(),
    ),
}
SURFACES: dict[str, tuple[Transport, Surface, str]] = {
    "proxy": (PROXY_TRANSPORT, PROXY, "image-to-video/turbo"),
    "platform v1": (PLATFORM, V1, "v1/text2image/keyframes"),
    "platform v2": (PLATFORM, V2, "higgsfield-ai/dop/turbo"),
}


def offered(asked: Asked, transport: Transport, ref: TaskRef) -> bool:
    try:
        asked(transport, ref)
    except Unsupported:
        return False
    return True


@pytest.mark.parametrize("surface", SURFACES)
def test_what_each_service_offers(surface: str) -> None:
    head, *rows = table(DOCS / "reference" / "services.md", "| | proxy |")
    column = head.index(surface)
    cells = {row[0]: row[column] for row in rows}
    transport, example, kind = SURFACES[surface]
    for what, asked in ASKED.items():
        assert offered(asked, transport, ref(transport, kind)) == (cells[what] != "–"), what
    assert cells["transport"] == f"`{type(transport).__name__}`"
    assert type(example.request).__name__ in cells["request"]
    priced = offered(lambda transport, _: transport.estimate(example.request), transport, ref(transport, kind))
    assert priced == (cells["price beforehand, `hf.estimate`"] != "–")
    recovered = transport.submit(example.request, SubmitOptions()).key is not None
    assert recovered == cells["lost answer to a submit"].startswith("recovered")
    words = {"usd": "dollars"}
    assert all(words.get(unit, unit) in cells["a limit, `Budget`"] for unit in transport.units)


def test_every_catalogue_is_offered_where_it_is() -> None:
    head, *rows = table(DOCS / "reference" / "services.md", "| | proxy |")
    cells = dict(zip(head[1:], next(row for row in rows if row[0] == "catalogues")[1:], strict=True))
    for name, of in LISTED.items():
        for transport, columns in ((PROXY_TRANSPORT, ["proxy"]), (PLATFORM, ["platform v1", "platform v2"])):

            def asked(transport: Transport, _: TaskRef, of: type = of) -> object:
                return transport.catalogue(of, size=None, search=None, cursor=None, version=1)

            named = any(f"`{name}`" in cells[column] for column in columns)
            assert offered(asked, transport, ref(transport, "x")) == named, name


def anchors(page: Path) -> set[str]:
    """What a link may point to in a page: its headings, as MyST and forges spell them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if link.startswith(("http://", "https://", "mailto:", "#higgsfield_async.")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        # What a forge shows and what Sphinx builds are both in this tree.
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link
    if page.is_relative_to(DOCS):
        # Sphinx builds what is in docs/ alone.
        assert not [link for link in links if link.startswith(("../../", "/"))]


def test_every_page_says_what_it_is_for_and_is_in_the_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    contents = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    listed = re.findall(r"^(?:.* <)?([\w/-]+)>?$", "\n".join(contents), re.MULTILINE)
    pages = {page.relative_to(DOCS).with_suffix("").as_posix(): page for page in DOCS.rglob("*.md")}
    assert set(listed) == {*pages} - {"index"}
    assert len(listed) == len(set(listed))
    for page in pages.values():
        heading, empty, first, *_ = page.read_text(encoding="utf-8").splitlines()
        assert heading.startswith("# "), page
        assert not empty, page
        assert re.match(r"[`*“]?\w", first), page
