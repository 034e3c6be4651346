"""Pictures, films and sounds: small, playable, of the asked size, and made of nothing but a seed and that size."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import math
import struct
import tempfile
import wave
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FRAMES_PER_SECOND = 8
MISSING_ENCODER = b"Videos need PyAV: pip install 'higgsfield-async[sandbox]'\n"

#: Endings of an address, and what a service sends with them.
CONTENT_TYPES: Mapping[str, str] = {
    ".png": "image/png",
    ".mp4": "video/mp4",
    ".wav": "audio/wav",
    ".json": "application/json",
}


def can_encode_video() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


@functools.lru_cache(maxsize=16)
def render(suffix: str, seed: str, size: tuple[int, int], seconds: float) -> bytes:
    """The file for an address with this ending; the same arguments give the same bytes."""
    digest = hashlib.sha256(seed.encode()).digest()
    if suffix == ".png":
        return _png(digest, *size)
    if suffix == ".mp4":
        return _mp4(digest, *size, seconds)
    if suffix == ".wav":
        return _wav(digest, seconds)
    return b"[" + b",".join(b"%.2f" % (byte / 255) for byte in digest) + b"]"


def _ramp(length: int) -> bytes:
    """Brightness up and down again, endlessly: a window sliding over it is a moving gradient."""
    period = bytes(255 - abs(255 - 2 * step) for step in range(256))
    return period * (length // 256 + 2)


def _png(digest: bytes, width: int, height: int) -> bytes:
    slope, tint = 1 + digest[0] % 5, digest[1:4]
    shades = _ramp(width)
    pixels = bytes(shade * part // 255 for shade in shades for part in (tint[0] | 64, tint[1] | 64, tint[2] | 64))
    rows = (pixels[start : start + 3 * width] for start in (3 * (slope * row % 256) for row in range(height)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"tEXt", b"Comment\0" + digest.hex().encode()),
            (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 1)),
            (b"IEND", b""),
        )
    )


def _mp4(digest: bytes, width: int, height: int, seconds: float) -> bytes:
    import av

    # H.264 with 4:2:0 colour has only even sizes.
    width, height = width + width % 2, height + height % 2
    slope, shades = 1 + digest[0] % 5, _ramp(width)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "video.mp4")
        container: Any
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["comment"] = digest.hex()
            stream = container.add_stream(
                "libx264", rate=FRAMES_PER_SECOND, options={"preset": "ultrafast", "crf": "30"}
            )
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # More threads would encode the same seed to other bytes on another machine.
            stream.codec_context.thread_count = 1
            for tick in range(math.ceil(seconds * FRAMES_PER_SECOND)):
                frame = av.VideoFrame(width, height, "yuv420p")
                frame.pts = tick
                luma, *chroma = frame.planes
                padding = bytes(luma.line_size - width)
                starts = ((slope * row + 8 * tick) % 256 for row in range(height))
                luma.update(b"".join(shades[start : start + width] + padding for start in starts))
                for plane, tint in zip(chroma, digest[1:3], strict=True):
                    plane.update(bytes([tint]) * plane.buffer_size)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def _wav(digest: bytes, seconds: float) -> bytes:
    rate, period = 16_000, 40 + digest[0] % 100
    tone = array("h", (round(12_000 * math.sin(2 * math.pi * step / period)) for step in range(period)))
    samples = array("h", [byte - 128 for byte in digest]) + tone * math.ceil(seconds * rate / period)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples[: round(seconds * rate)].tobytes())
    return file.getvalue()


_LONG_SIDES = {"1k": 1024, "2k": 2048, "4k": 4096}


# No service documents a limit; a picture of this size still fits into the memory of any machine.
_LONGEST = 8192


def size_of(request: Mapping[str, Any], aspect_ratio: str = "16:9") -> tuple[int, int]:
    """The pixels that a request asks for: as two numbers, as "1024x768", or as a ratio and a resolution."""
    width, height = _asked(request, aspect_ratio)
    return max(2, min(width, _LONGEST)), max(2, min(height, _LONGEST))


def _asked(request: Mapping[str, Any], aspect_ratio: str) -> tuple[int, int]:
    if request.get("width") and request.get("height"):
        return int(float(request["width"])), int(float(request["height"]))
    for field in ("width_and_height", "size"):
        if field in request:
            width, height = str(request[field]).split("x")
            return int(width), int(height)
    across, _, down = str(request.get("aspect_ratio", "")).partition(":")
    if not (across.strip("0").isdecimal() and down.strip("0").isdecimal()):
        across, _, down = aspect_ratio.partition(":")
    ratio = int(across) / int(down)
    resolution = str(request.get("resolution") or request.get("quality") or "").lower()
    if long_side := _LONG_SIDES.get(resolution):
        short_side = _even(long_side * min(ratio, 1 / ratio))
    else:
        digits = resolution.removesuffix("p")
        short_side = int(digits) if digits.isdecimal() else 720
        long_side = _even(short_side * max(ratio, 1 / ratio))
    return (long_side, short_side) if ratio >= 1 else (short_side, long_side)


def _even(length: float) -> int:
    return 2 * round(length / 2)
