"""How a transfer that was cut goes on."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st

from higgsfield_async._ranges import Answer, Entity, answered, entity_of, resuming, with_total

OLD, NEW = "Tue, 01 Sep 2026 10:00:00 GMT", "Tue, 01 Sep 2026 10:00:09 GMT"


@pytest.mark.parametrize(
    ("headers", "entity"),
    [
        ({}, Entity()),
        ({"content-length": "12", "content-type": "video/mp4", "etag": '"a"'}, Entity(12, "video/mp4", '"a"')),
        ({"content-length": "12", "etag": 'W/"a"', "last-modified": OLD, "date": NEW}, Entity(12)),
        ({"content-length": "12", "etag": '"a"', "accept-ranges": "none"}, Entity(12)),
        ({"content-length": "12", "etag": '"a"', "content-encoding": "gzip"}, Entity()),
        ({"content-length": "12", "etag": '"a"', "content-encoding": "identity"}, Entity(12, None, '"a"')),
        ({"content-length": "12", "transfer-encoding": "chunked"}, Entity()),
        ({"content-length": "-12"}, Entity()),
        ({"content-length": "1" * 19}, Entity()),
        ({"last-modified": OLD, "date": NEW}, Entity(mark=OLD)),
        # It may change again within that second.
        ({"last-modified": OLD, "date": OLD}, Entity()),
        ({"last-modified": OLD}, Entity()),
        ({"last-modified": "yesterday", "date": NEW}, Entity()),
    ],
)
def test_what_an_answer_tells_of_the_whole(headers: Mapping[str, str], entity: Entity) -> None:
    assert entity_of(headers) == entity


def test_the_rest_is_asked_for_only_of_the_same() -> None:
    assert resuming(Entity(12), 5) is None
    assert resuming(Entity(12, mark='"a"'), 5) == {"Range": "bytes=5-", "If-Range": '"a"'}


@pytest.mark.parametrize(
    ("status", "said", "tag", "answer"),
    [
        (200, "", "", "all"),
        (206, "bytes 5-11/12", "", "rest"),
        (206, "bytes 5-11/12", '"a"', "rest"),
        (206, "bytes 5-8/12", "", "rest"),
        (206, "bytes 5-11/*", "", "rest"),
        (206, "bytes 5-11/12", '"b"', "useless"),
        (206, "bytes 4-11/12", "", "useless"),
        (206, "bytes 5-4/12", "", "useless"),
        (206, "bytes 5-12/12", "", "useless"),
        (206, "bytes 5-11/13", "", "useless"),
        (206, "", "", "useless"),
        (206, "bytes 5-11", "", "useless"),
        (416, "bytes */5", "", "useless"),
        (416, "", "", "useless"),
        (404, "", "", "useless"),
        (203, "", "", "all"),
    ],
)
def test_what_is_answered_to_that(status: int, said: str, tag: str, answer: Answer) -> None:
    headers = {"content-range": said, **({"etag": tag} if tag else {})}
    assert answered(status, headers, Entity(12, mark='"a"'), 5) == answer


def test_all_of_it_was_here() -> None:
    assert answered(416, {"content-range": "bytes */5"}, Entity(mark='"a"'), 5) == "nothing"
    assert answered(416, {"content-range": "bytes */5"}, Entity(5, mark='"a"'), 5) == "nothing"
    assert answered(416, {"content-range": "bytes */9"}, Entity(mark='"a"'), 5) == "useless"


@pytest.mark.parametrize(
    ("mark", "said", "answer"),
    [
        (OLD, {}, "rest"),
        (OLD, {"last-modified": OLD}, "rest"),
        (OLD, {"last-modified": NEW}, "useless"),
        (OLD, {"etag": '"b"'}, "useless"),
        (OLD, {"etag": 'W/"b"', "last-modified": OLD}, "useless"),
        # Each server may date it in its own way.
        ('"a"', {"etag": '"a"', "last-modified": NEW}, "rest"),
        ('"a"', {"etag": 'W/"a"'}, "useless"),
    ],
)
def test_what_is_marked_otherwise_is_another(mark: str, said: Mapping[str, str], answer: Answer) -> None:
    assert answered(206, {"content-range": "bytes 5-11/12", **said}, Entity(12, mark=mark), 5) == answer


def test_the_rest_may_say_how_much_there_is() -> None:
    begun = Entity(mark='"a"')
    told, untold = ({"content-range": f"bytes 5-11/{total}"} for total in ("12", "*"))
    assert answered(206, told, begun, 5) == "rest"
    assert with_total(begun, told) == Entity(12, mark='"a"')
    # Nobody knows then whether this is all of it.
    assert answered(206, untold, begun, 5) == "useless"
    assert with_total(begun, untold) == with_total(begun, {}) == begun
    assert with_total(Entity(12), {"content-range": "bytes 5-11/13"}) == Entity(12)


words = st.sampled_from(["", "12", '"a"', 'W/"a"', OLD, NEW, "bytes 5-11/12", "bytes */5", "none"]) | st.text(
    max_size=40
)
NAMES = ["content-length", "content-encoding", "etag", "last-modified", "date", "accept-ranges", "content-range"]


@given(st.dictionaries(st.sampled_from(NAMES), words), st.integers(100, 599), st.integers(1, 100))
def test_any_headers_are_read(headers: dict[str, str], status: int, offset: int) -> None:
    entity = entity_of(headers)
    assert entity.total is None or entity.total >= 0
    assert with_total(entity, headers).total is not None or entity.total is None
    if answered(status, headers, entity, offset) == "rest":
        assert headers["content-range"].strip().startswith(f"bytes {offset}-")
    asked = resuming(entity, offset)
    assert asked is None or asked["If-Range"] in (
        headers.get("etag", "").strip(),
        headers.get("last-modified", "").strip(),
    )
