"""What a file is by its first bytes.

Sources: https://mimesniff.spec.whatwg.org, and for the brands of the container that MP4, QuickTime, HEIC and AVIF
share, https://mp4ra.org/registered-types/brands. What is told here names files and refuses pages of errors; nothing is
refused for being unknown.
"""

from __future__ import annotations

import re
from typing import Literal

from higgsfield_async._domain import suffix_of

Kind = Literal["image", "video", "audio", "file"]

# So many first bytes tell what can be told.
HEAD = 512

# What a file begins with, and what its name ends with: the usual one first. The first row that matches counts.
SIGNATURES: tuple[tuple[tuple[str, ...], re.Pattern[bytes]], ...] = tuple(
    (suffixes, re.compile(begins, re.DOTALL))
    for suffixes, begins in (
        ((".png", ".apng"), rb"\x89PNG\r\n\x1a\n"),
        ((".jpg", ".jpeg", ".jfif"), rb"\xff\xd8\xff"),
        ((".webp",), rb"RIFF....WEBP"),
        ((".gif",), rb"GIF8[79]a"),
        ((".avif",), rb"....ftyp(avi[fs]|(mif1|msf1).{4,60}avi[fs])"),
        ((".heic", ".heif"), rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)"),
        ((".jxl",), rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
        ((".tiff", ".tif", ".dng"), rb"II\*\x00|MM\x00\*"),
        ((".bmp",), rb"BM....\x00\x00\x00\x00"),
        ((".mov", ".qt"), rb"....(ftypqt  |moov|mdat|wide|free|skip)"),
        ((".m4a", ".m4b", ".mp4"), rb"....ftypM4[ABP] "),
        ((".3gp", ".3g2", ".3ga", ".mp4"), rb"....ftyp3g"),
        ((".mp4", ".m4v", ".mov", ".m4s"), rb"....(ftyp|styp)"),
        ((".webm",), rb"\x1aE\xdf\xa3.{0,60}webm"),
        ((".mkv", ".mka", ".webm"), rb"\x1aE\xdf\xa3"),
        ((".avi",), rb"RIFF....AVI "),
        ((".flv",), rb"FLV\x01"),
        ((".mpg", ".mpeg"), rb"\x00\x00\x01[\xba\xb3]"),
        ((".wav",), rb"R(IFF|F64)....WAVE"),
        ((".ogg", ".oga", ".ogv", ".opus"), rb"OggS"),
        ((".flac",), rb"fLaC"),
        ((".mp3",), rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"),
        ((".aac",), rb"\xff[\xf0\xf1\xf8\xf9]"),
        ((".aiff", ".aif"), rb"FORM....AIF[FC]"),
        ((".glb", ".vrm"), rb"glTF"),
        ((".pdf",), rb"%PDF-"),
        ((".zip",), rb"PK(\x03\x04|\x05\x06)"),
        ((".gz",), rb"\x1f\x8b\x08"),
    )
)
_KNOWN = frozenset(suffix for suffixes, _ in SIGNATURES for suffix in suffixes) | {".svg"}
# Much is one of these inside: a suffix of its own says more of it.
_INSIDE_OTHERS = frozenset({".zip", ".gz"})
_USUAL = {"image": ".png", "video": ".mp4", "audio": ".wav", "file": ".bin"}

# Bytes that no text has.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body|title)\b", re.IGNORECASE)
_XML = re.compile(rb"<[?!A-Za-z]")
_SVG = re.compile(rb"<(!DOCTYPE\s+svg|([A-Za-z]+:)?svg)\b")
# A picture or a video may be written in these, all the same.
_GOOD_XML = re.compile(rb"<(!DOCTYPE\s+svg|([A-Za-z]+:)?svg|MPD|SmoothStreamingMedia)\b")
# What may stand before the first tag of a text. One at a time, as a repeated choice of them can take exponential time.
_ASIDE = re.compile(rb"\s+|<\?.*?\?>|<!--.*?-->", re.DOTALL)
# No tag that tells what a document is needs more.
_TAG = 24
_JSON = re.compile(rb"[{\[]\s*[\"{}\[\]0-9tfn-]")


def suffixes_of(head: bytes) -> tuple[str, ...]:
    """What the name of a file that begins so may end with, the usual one first; none where it is not known."""
    found = next((suffixes for suffixes, begins in SIGNATURES if begins.match(head)), ())
    return found or ((".svg",) if _SVG.match(_first_tag(head)) else ())


def _first_tag(head: bytes) -> bytes:
    text, at = head.removeprefix(b"\xef\xbb\xbf"), 0
    while aside := _ASIDE.match(text, at):
        at = aside.end()
    return text[at:]


def suffix_for(url: str, kind: Kind, head: bytes) -> str:
    """What the name of a file is to end with: as in its address, unless its first bytes say otherwise."""
    named, found = suffix_of(url), suffixes_of(head)
    if found:
        own = kind == "file" and named not in ("", *_KNOWN) and found[0] in _INSIDE_OTHERS
        return named if own or named in found else found[0]
    if kind == "file":
        return named or _USUAL[kind]
    return named if named in _KNOWN else _USUAL[kind]


def unlike(kind: Kind, head: bytes) -> str | None:
    """What a file is that cannot be of this kind, in words; None where it may be.

    Only text is refused, as errors are written in: what is paid for is not lost for being unusual.
    """
    if kind == "file":
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return "empty"
    if _BINARY.search(head):
        return None
    tag = _first_tag(head)
    if _HTML.match(tag):
        return "an HTML page"
    # What is only announced in these bytes, if it is, comes after them.
    cut = len(head) >= HEAD and (tag.startswith((b"<?", b"<!--")) or len(tag) < _TAG)
    if _XML.match(text) and not cut and not _GOOD_XML.search(head):
        return "an XML document"
    return "JSON" if _JSON.match(text) else None
