"""What files are by their first bytes, and what they are called."""

from __future__ import annotations

import ntpath
import re
import string
from collections.abc import Callable
from pathlib import PureWindowsPath

import puremagic
import pytest
from hypothesis import given, strategies as st

from higgsfield_async import Media
from higgsfield_async._names import file_name, name_of, stem_of
from higgsfield_async._signatures import HEAD, Kind, suffix_for, suffixes_of, unlike
from higgsfield_async.sandbox._media import render

UUID = "3f0c8a3e-6f0e-4a53-9e0b-0c1f6d2b7a11"
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}

# The first bytes of true files, as their formats lay them down.
BEGINNINGS = {
    ".png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    ".jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
    ".webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
    ".gif": b"GIF89a\x01\x00\x01\x00",
    ".avif": b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf",
    ".heic": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
    ".tiff": b"II*\x00\x08\x00\x00\x00",
    ".bmp": b"BM\x46\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00",
    ".mov": b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ",
    ".m4a": b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42",
    ".3gp": b"\x00\x00\x00\x18ftyp3gp4\x00\x00\x00\x00isom3gp4",
    ".mp4": b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42",
    ".webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webmB\x87\x81\x04",
    ".mkv": b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x88matroskaB\x87\x81\x04",
    ".avi": b"RIFF\x24\x00\x00\x00AVI LIST",
    ".flv": b"FLV\x01\x05\x00\x00\x00\x09",
    ".wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    ".ogg": b"OggS\x00\x02\x00\x00\x00\x00\x00\x00",
    ".flac": b"fLaC\x00\x00\x00\x22",
    ".mp3": b"ID3\x04\x00\x00\x00\x00\x00\x00",
    ".aac": b"\xff\xf1\x50\x80",
    ".aiff": b"FORM\x00\x00\x00\x00AIFFCOMM",
    ".glb": b"glTF\x02\x00\x00\x00",
    ".pdf": b"%PDF-1.7\n",
    ".zip": b"PK\x03\x04\x14\x00\x00\x00",
    ".gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_the_table_against_a_kept_library(suffix: str) -> None:
    head = BEGINNINGS[suffix] + bytes(64)
    found = suffixes_of(head)
    assert found[0] == suffix
    if suffix == ".glb":  # which puremagic does not know
        return
    theirs = {each.extension for each in puremagic.magic_string(head)}
    assert theirs & set(found), f"puremagic has {theirs} where we have {found}"


@pytest.mark.parametrize("suffix", [".png", ".mp4", ".wav"])
def test_what_encoders_really_write(suffix: str) -> None:
    assert suffixes_of(render(suffix, "x", (64, 64), 0.2)[:512])[0] == suffix


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"\xff\xfb\x90\x00", ".mp3"),
        (b"\x00\x00\x00\x20ftypmif1\x00\x00\x00\x00mif1avif", ".avif"),
        (b"\x00\x00\x00\x08wide\x00\x00\x00\x00mdat", ".mov"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg">', ".svg"),
        (b'\xef\xbb\xbf<svg xmlns="http://www.w3.org/2000/svg">', ".svg"),
        (b'<svg:svg xmlns:svg="http://www.w3.org/2000/svg">', ".svg"),
        (b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x" [<!ENTITY a "b">', ".svg"),
        (b'<?xml version="1.0"?><?xml-stylesheet href="a"?><!--' + b"long " * 80 + b"--><svg>", ".svg"),
    ],
)
def test_rarer_beginnings(head: bytes, suffix: str) -> None:
    assert suffixes_of(head)[0] == suffix


@pytest.mark.parametrize(
    "unit",
    [
        *(b"<!---->", b"<!-- ", b"-->", b"<!-", b"\n<!----> ", b" ", b"<?xml?>", b"<?", b"?>", b"<!DOCTYPE "),
        *(b"<!DOCTYPE svg ", b"<a", b"<a:", b"a:svg", b"{ ", b"[", b"<html", b"\x1aE\xdf\xa3", b"\0\0\0\0ftypmif1avi"),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\x00", b">"])
def test_no_head_takes_long_to_be_told(unit: bytes, end: bytes) -> None:
    # What takes exponential time never ends: the limit of a test's time says so.
    for count in (20, 40, HEAD // len(unit)):
        for head in (unit * count + end, b"<" + unit * count + end, b"<?xml?>" + unit * count + end):
            suffixes_of(head[:HEAD])
            unlike("image", head[:HEAD])


@given(st.binary(max_size=600), st.sampled_from(["image", "video", "audio", "file"]), st.text(max_size=50))
def test_any_bytes_have_a_suffix_that_is_safe(head: bytes, kind: Kind, url: str) -> None:
    assert re.fullmatch(r"\.[a-z0-9]{1,5}", suffix_for(url, kind, head))
    assert unlike("file", head) is None


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\xef\xbb\xbf\r\n <HTML>\n", "an HTML page"),
        (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>', "an XML document"),
        (b"<Error><Code>NoSuchKey</Code></Error>", "an XML document"),
        (b'<?xml version="1.0"?><!-- ' + b"short " * 20 + b"--><Error>", "an XML document"),
        (b'<?xml version="1.0"?><!-- no end', "an XML document"),
        (b'<?xml version="1.0"?>', "an XML document"),
        (b"<!-- an icon follows --><html><svg>", "an HTML page"),
        (b'<?xml version="1.0"?><!DOCTYPE html>', "an HTML page"),
        (b"<Error>" + b"x" * 600, "an XML document"),
        (b'{"detail":"Not found"}', "JSON"),
        (b"[]", "JSON"),
        (b'\n {\n  "error": 1}', "JSON"),
        (b"", "empty"),
        (b" \r\n", "empty"),
    ],
)
def test_pages_of_errors_are_no_media(head: bytes, what: str) -> None:
    kinds: tuple[Kind, ...] = ("image", "video", "audio")
    assert [unlike(kind, head) for kind in kinds] == [what] * 3
    assert unlike("file", head) is None


@pytest.mark.parametrize(
    "head",
    [
        *BEGINNINGS.values(),
        b"picture",
        b"<svg></svg>",
        b'<?xml version="1.0"?><MPD>',
        (b'<?xml version="1.0"?><!--' + b"a long licence " * 40)[:HEAD],
        (b"<!--" + b"x" * (HEAD - 10) + b"--><svg>")[:HEAD],
        (b"<!--" + b"x" * (HEAD - 14) + b"--><!DOCTYPE svg>")[:HEAD],
        (b"<?xml " + b" " * 600 + b"?><svg>")[:HEAD],
        b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" [' + b'<!ENTITY a "b">' * 40,
        b'<svg:svg xmlns:svg="http://www.w3.org/2000/svg">',
        b"#EXTM3U\n",
        b"{\\rtf1",
        b"<\x00\x01\x02",
        b'{"\x00\x01',
    ],
)
def test_what_may_be_paid_for_is_not_refused(head: bytes) -> None:
    kinds: tuple[Kind, ...] = ("image", "video", "audio", "file")
    assert [unlike(kind, head) for kind in kinds] == [None] * 4


@pytest.mark.parametrize(
    ("url", "kind", "head", "suffix"),
    [
        ("https://a.b/c.MP4?x=y.exe", "video", b"?", ".mp4"),
        ("https://a.b/c", "video", b"?", ".mp4"),
        ("https://a.b/c.", "image", b"?", ".png"),
        ("https://a.b/c.../..", "audio", b"?", ".wav"),
        ("https://a.b/c.tar.gz", "file", b"?", ".gz"),
        ("https://a.b/c.toolong", "file", b"?", ".bin"),
        ("https://a.b/c.exe", "video", b"?", ".mp4"),
        ("https://a.b/c.php", "image", b"\xff\xd8\xff", ".jpg"),
        ("https://a.b/c.jpeg", "image", b"\xff\xd8\xff", ".jpeg"),
        ("https://a.b/c.mp4", "video", BEGINNINGS[".webm"], ".webm"),
        ("https://a.b/c.mp4", "video", BEGINNINGS[".png"], ".png"),
        ("https://a.b/c.mov", "video", BEGINNINGS[".mp4"], ".mov"),
        ("https://a.b/c.usdz", "file", BEGINNINGS[".zip"], ".usdz"),
        ("https://a.b/c.mp4", "file", BEGINNINGS[".zip"], ".zip"),
        ("https://a.b/c", "file", BEGINNINGS[".zip"], ".zip"),
        ("https://a.b/c.tgz", "file", BEGINNINGS[".gz"], ".tgz"),
        ("https://a.b/c.vrm", "file", BEGINNINGS[".glb"], ".vrm"),
        ("https://a.b/c.ply", "file", b"ply\n", ".ply"),
        ("https://a.b/c.exe", "file", BEGINNINGS[".png"], ".png"),
        ("https://a.b/c.html", "file", BEGINNINGS[".pdf"], ".pdf"),
        ("https://a.b/c.svg", "image", b"?", ".svg"),
        ("http://[", "file", b"", ".bin"),
    ],
)
def test_the_suffix_is_that_of_the_address_unless_the_content_says_otherwise(
    url: str, kind: Kind, head: bytes, suffix: str
) -> None:
    assert suffix_for(url, kind, head) == suffix


def test_plain_ids_are_left_as_they_are() -> None:
    for identifier in (UUID, "abc", "gen_12", "12345", "00000000-0000-0000-0000-000000000012"):
        assert stem_of(identifier) == identifier
    assert stem_of("../../etc/passwd").startswith("_etc_passwd_")
    assert stem_of("a" * 500).startswith("a" * 70 + "_")
    for identifier in ("con", "lpt1", "x-1", "x-min", "ABC", "-rf", "", ".", "..", "a.b", "é", "a" * 81, UUID.upper()):
        assert stem_of(identifier) != identifier


def is_reserved(name: str) -> bool:
    """What Windows says, by the function for that of Python 3.13, or the older one, deprecated since."""
    newer: Callable[[str], bool] | None = getattr(ntpath, "isreserved", None)
    return PureWindowsPath(name).is_reserved() if newer is None else newer(name)


def is_safe(name: str) -> bool:
    stem, _, suffix = name.partition(".")
    return (
        set(name) <= set(string.ascii_letters + string.digits + "_-.")
        and not name.startswith(("-", "."))
        and stem != ""
        and "." not in suffix
        and len(name.encode()) <= 120
        and stem.lower() not in RESERVED
        and not is_reserved(name)
    )


texts = st.text(max_size=300) | st.sampled_from([*RESERVED, "CON", "..", "a/../b", "x ", "x.", UUID, "\ud800", "COM¹"])


@given(texts, texts, st.sampled_from(["raw", "min"]))
def test_names_are_safe_whatever_the_service_says(one: str, other: str, variant: str) -> None:
    media = Media(f"https://a.b/{other}", "video", variant)  # type: ignore[arg-type]  # drawn from its two words
    names = [file_name(stem_of(one), number, media, b"") for number in (None, 1, 2, 10)]
    assert all(map(is_safe, [*names, name_of(media, b""), name_of(Media(other, "file"), b"")]))
    assert len({name.lower() for name in names}) == 4
    if one != other:
        # On a file system, too, that does not tell small letters from capitals.
        assert stem_of(one).lower() != stem_of(other).lower()


@given(texts)
def test_no_output_of_one_generation_takes_the_place_of_anothers(identifier: str) -> None:
    raw, small = Media("https://a.b/c.mp4", "video"), Media("https://a.b/c.mp4", "video", "min")
    ours = {file_name(stem_of(identifier), number, media, b"") for number in (None, 1, 2) for media in (raw, small)}
    assert len(ours) == 6
    for name in (f"{identifier}-1", f"{identifier}-2", f"{identifier}-min", f"{identifier}-1-min"):
        assert file_name(stem_of(name), None, raw, b"") not in ours


def test_names_from_addresses_differ_where_the_addresses_do() -> None:
    def name(url: str) -> str:
        return name_of(Media(url, "video"), b"")

    assert name(f"https://a.b/{UUID}.mp4") == f"{UUID}.mp4"
    assert name("https://a.b/1/raw.mp4").startswith("raw_")
    assert name("https://a.b/1/raw.mp4") != name("https://a.b/2/raw.mp4")
    assert name("http://[") != name("http://[]")
    assert name("https://a.b/1/raw.mp4?Signature=1") == name("https://a.b/1/raw.mp4?Signature=2")
    same = [
        [f"https://a.b/raw/{UUID}.mp4", f"https://a.b/raw/{UUID}.mp4?X-Amz-Date=1&x%2Damz-signature=2"],
        [f"https://a.b/min/{UUID}.mp4"],
        [f"https://a.b/{UUID}.mp4", f"https://user:password@a.b/{UUID}.mp4?Expires=1&Policy=2&Key-Pair-Id=3&"],
        [f"https://a.b/{UUID}.mp4?width=1", f"https://a.b/{UUID}.mp4?token=1&width=1"],
        ["https://a.b/get?file=1&page=2&access_token=1", "https://a.b/get?Signature=5&page=2&file=1"],
        ["https://a.b/get?file=2", "https://a.b/get?file=2&X-Goog-Signature=2&GoogleAccessId=1"],
        ["https://a.b/get?file=1"],
    ]
    names = [{name(url) for url in urls} for urls in same]
    assert [len(each) for each in names] == [1] * len(same)
    assert len(set[str]().union(*names)) == len(same)
    assert all(UUID in each for found in names[:4] for each in found)
    small = name_of(Media(f"https://a.b/{UUID}.mp4", "video", "min"), b"")
    assert small.startswith(UUID)
    assert small != f"{UUID}.mp4"
