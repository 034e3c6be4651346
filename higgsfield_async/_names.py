"""Names of files: safe on every file system whatever a service says, and recognisable."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote, urlsplit

from higgsfield_async._domain import Media
from higgsfield_async._signatures import suffix_for

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
# In small letters alone, since some file systems do not tell them from capitals.
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_-]{0,79}", re.ASCII)
# What Windows keeps for its devices, whatever follows a dot: https://learn.microsoft.com/windows/win32/fileio/naming-a-file.
_RESERVED = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.ASCII)
# What the name of another file may end with, before its suffix.
_ENDING = re.compile(r".*-([0-9]+|min)", re.ASCII)
# What a signature adds to an address, in small letters: the same file signed anew keeps its name. What is not known for
# one counts, as it may be all that tells two files apart. AWS, Google, CloudFront
# (https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-signed-urls.html) and tokens.
_SIGNING = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|expires|signature|policy|key-pair-id|hash-algorithm|sig"
    r"|_*((access|auth|security)[_-]?)?token_*",
    re.DOTALL,
)


def stem_of(identifier: str) -> str:
    """The beginning of the names of what a generation made: its id, if that is safe for a name.

    Else what is safe of it, and a hash, so that two ids have two names.
    """
    safe = _PLAIN.fullmatch(identifier) and not (_RESERVED.fullmatch(identifier) or _ENDING.fullmatch(identifier))
    return identifier if safe or _UUID.fullmatch(identifier) else _marked(identifier, identifier)


def _marked(readable: str, whole: str) -> str:
    # In front of what is left of it, so that no name begins with a dash and none is a device's.
    return f"{re.sub(r'[^A-Za-z0-9_]+', '_', readable)[:70] or '_'}_{_digest(whole)}"


def _digest(whole: str) -> str:
    return hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:8]


def file_name(stem: str, number: int | None, media: Media, head: bytes) -> str:
    """The name of an output: the stem, its number where there are several, and a suffix that its content bears out.

    Args:
        stem: From `stem_of`.
        number: From 1, or None where there is one output alone.
        media: The output.
        head: Its first bytes.
    """
    place = "" if number is None else f"-{number}"
    small = "-min" if media.variant == "min" else ""
    return f"{stem}{place}{small}{suffix_for(media.url, media.kind, head)}"


def name_of(media: Media, head: bytes) -> str:
    """A name for an output whose generation is not known: from its address, other addresses having other names.

    An address that is only signed anew is no other one.
    """
    try:
        parts = urlsplit(media.url)
    except ValueError:
        folder, asked, last, whole = "", "", media.url.rpartition("/")[2], media.url
    else:
        folder, _, last = parts.path.rpartition("/")
        asked = _unsigned(parts.query)
        whole = f"{parts.netloc.rpartition('@')[2]}{parts.path}?{asked}"
    last = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", last)
    if not _UUID.fullmatch(last):
        stem = _marked(last, whole)
    else:
        # Of one id there may be several: in another folder, or another rendering.
        stem = f"{last}_{_digest(whole)}" if folder or asked or media.variant != "raw" else last
    return stem + suffix_for(media.url, media.kind, head)


def _unsigned(query: str) -> str:
    kept = (each for each in query.split("&") if not _SIGNING.fullmatch(unquote(each.partition("=")[0]).lower()))
    return "&".join(sorted(filter(None, kept)))
