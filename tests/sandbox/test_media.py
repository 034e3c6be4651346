"""Uploads and results: real files of the asked size."""

from __future__ import annotations

import io
import json
import shutil
import sys
import wave
from typing import Any

import anyio
import av
import pytest

from higgsfield_async.sandbox import Plan

DONE = Plan(queued=0, running=0)
IMAGE = "https://example.com/cat.png"
V1_SOUL = {"params": {"prompt": "x", "width_and_height": "1088x1632", "batch_size": 4}}


async def result(caller: Any, path: str, body: Any) -> Any:
    caller.sandbox.plan(DONE)
    _, answer = await caller.json("v2", "POST", path, body)
    return (await caller.json("v2", "GET", f"/requests/{answer['request_id']}/status"))[1]


@pytest.mark.parametrize(
    ("path", "body", "size"),
    [
        ("/higgsfield-ai/soul/standard", {"prompt": "x", "aspect_ratio": "16:9", "resolution": "1080p"}, (1920, 1080)),
        ("/higgsfield-ai/soul/standard", {"prompt": "x", "aspect_ratio": "9:16"}, (720, 1280)),
        (
            "/alibaba/qwen-image-3/text-to-image",
            {"prompt": "x", "resolution": "2k", "aspect_ratio": "2:3"},
            (1366, 2048),
        ),
        ("/marketing-studio/image", {"prompt": "x", "resolution": "1k"}, (1024, 1024)),
    ],
)
async def test_images_are_of_the_asked_size(frozen: Any, path: str, body: Any, size: Any) -> None:
    done = await result(frozen, path, body)
    status, headers, data = await frozen.raw("media", "GET", done["images"][0]["url"])
    assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, "image/png", str(len(data)))
    with av.open(io.BytesIO(data), "r") as picture:
        stream = picture.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("png", *size)
        assert len(list(picture.decode(stream))) == 1


def probe(data: bytes) -> tuple[str, str | None, int, int, int, float]:
    with av.open(io.BytesIO(data), "r") as video:
        stream = video.streams.video[0]
        frames = [bytes(frame.planes[0]) for frame in video.decode(stream)]
        assert len(set(frames)) > 1  # It moves.
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        return stream.codec_context.name, stream.pix_fmt, stream.width, stream.height, len(frames), seconds


async def test_videos_play_and_have_the_asked_size_and_length(frozen: Any) -> None:
    done = await result(frozen, "/pixverse/v6/text-to-video", {"prompt": "x", "resolution": "360p", "duration": 3})
    status, headers, data = await frozen.raw("media", "GET", done["video"]["url"])
    assert (status, headers["Content-Type"]) == (200, "video/mp4")
    assert probe(data) == ("h264", "yuv420p", 640, 360, 24, 3.0)
    # The index comes before the pictures: playing can begin with the download.
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
async def test_videos_satisfy_ffprobe(frozen: Any, tmp_path: Any) -> None:
    done = await result(frozen, "/higgsfield-ai/dop/lite", {"prompt": "x", "image_url": IMAGE})
    (tmp_path / "x.mp4").write_bytes((await frozen.raw("media", "GET", done["video"]["url"]))[2])
    command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(tmp_path / "x.mp4")]
    (stream,) = json.loads((await anyio.run_process(command)).stdout)["streams"]
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("h264", 1280, 720)
    assert float(stream["duration"]) == 5.0


async def test_proxy_videos_have_even_sizes_and_a_smaller_variant(frozen: Any, generate: Any) -> None:
    frozen.sandbox.plan(DONE)
    _, answer = await frozen.json("proxy", "POST", "/higgsfield/generate", {**generate, "width": 161, "height": 90})
    _, feed = await frozen.json("proxy", "GET", f"/higgsfield/feed/{answer['id']}")
    results = feed["jobs"][0]["results"]
    sizes = [probe((await frozen.raw("media", "GET", results[name]["url"]))[2])[2:4] for name in ("raw", "min")]
    assert sizes == [(162, 90), (80, 46)]


async def test_every_result_is_different_and_stays_the_same(frozen: Any) -> None:
    frozen.sandbox.plan(DONE)
    _, created = await frozen.json("v1", "POST", "/v1/text2image/soul", V1_SOUL)
    _, done = await frozen.json("v1", "GET", f"/v1/job-sets/{created['id']}")
    urls = [job["results"][name]["url"] for job in done["jobs"] for name in ("raw", "min")]
    files = [(await frozen.raw("media", "GET", url))[2] for url in urls]
    assert len(set(files)) == 8
    assert [(await frozen.raw("media", "GET", url))[2] for url in urls] == files
    assert len(files[0]) > len(files[1])


async def test_sounds_play(frozen: Any) -> None:
    done = await result(frozen, "/qwen/qwen-audio-3.0-tts-flash", {"prompt": "x"})
    _, headers, data = await frozen.raw("media", "GET", done["audio"]["url"])
    assert headers["Content-Type"] == "audio/wav"
    with wave.open(io.BytesIO(data)) as sound:
        assert sound.getnframes() / sound.getframerate() == 5.0


async def test_the_files_of_the_catalogue_are_there(frozen: Any) -> None:
    _, voices = await frozen.json("proxy", "GET", "/higgsfield/tpl/voices")
    _, avatars = await frozen.json("proxy", "GET", "/higgsfield/tpl/avatar-presets")
    voice, avatar = voices["items"][0], avatars["items"][0]
    for url in voice["voice_url"], voice["waveform_url"], voice["image_url"], avatar["media"]["url"]:
        assert (await frozen.raw("media", "GET", url))[0] == 200
    assert len(json.loads((await frozen.raw("media", "GET", voice["waveform_url"]))[2])) == 32


async def test_parts_and_heads(frozen: Any) -> None:
    url = (await result(frozen, "/higgsfield-ai/soul/standard", {"prompt": "x"}))["images"][0]["url"]
    _, _, data = await frozen.raw("media", "GET", url)
    status, headers, body = await frozen.raw("media", "HEAD", url)
    assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")
    for asked, part in [("bytes=0-99", data[:100]), ("bytes=100-", data[100:]), ("bytes=-7", data[-7:])]:
        status, headers, body = await frozen.raw("media", "GET", url, headers={"Range": asked})
        assert (status, body) == (206, part)
        assert headers["Content-Range"].endswith(f"/{len(data)}")
    assert (await frozen.raw("media", "GET", url, headers={"Range": f"bytes={len(data)}-"}))[0] == 416
    assert (await frozen.raw("media", "GET", url, headers={"Range": "lines=1"}))[0] == 200


@pytest.mark.parametrize("path", ["/", "/results/x/y.png", "/templates/x.exe", "/input/x.png"])
async def test_files_nobody_knows_are_not_found(frozen: Any, path: str) -> None:
    status, headers, body = await frozen.raw("media", "GET", path)
    assert (status, headers["Content-Type"]) == (404, "application/xml")
    assert b"<Code>NoSuchKey</Code>" in body


async def test_results_are_not_there_before_the_end(frozen: Any) -> None:
    _, answer = await frozen.json("v2", "POST", "/higgsfield-ai/soul/standard", {"prompt": "x"})
    generation = frozen.sandbox.generations[answer["request_id"]]
    path = f"/results/{generation.id}/{generation.jobs[0]}.png"
    assert (await frozen.raw("media", "GET", path))[0] == 404


async def test_without_pyav_a_video_says_what_to_install(frozen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = await result(frozen, "/higgsfield-ai/dop/lite", {"prompt": "x", "image_url": IMAGE})
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, body = await frozen.raw("media", "GET", done["video"]["url"])
    assert (status, b"pip install 'higgsfield-async[sandbox]'" in body) == (501, True)


# Uploads


async def grant(caller: Any) -> Any:
    status, answer = await caller.json("v2", "POST", "/files/generate-upload-url", {"content_type": "image/png"})
    assert status == 200
    assert set(answer) == {"public_url", "upload_url", "content_type", "upload_headers"}
    assert answer["upload_headers"] == {"Content-Type": "image/png", "x-amz-tagging": "retention=temporary"}
    return answer


async def test_an_upload_can_be_read_back(frozen: Any) -> None:
    answer = await grant(frozen)
    assert (await frozen.raw("media", "GET", answer["public_url"]))[0] == 404
    status, headers, _ = await frozen.raw(
        "media", "PUT", answer["upload_url"], data=b"png", headers=answer["upload_headers"]
    )
    assert status == 200
    assert "x-amz-expiration" in headers
    status, headers, body = await frozen.raw("media", "GET", answer["public_url"])
    assert (status, headers["Content-Type"], body) == (200, "image/png", b"png")


async def test_every_signed_header_is_needed(frozen: Any) -> None:
    answer = await grant(frozen)
    signed = answer["upload_headers"]
    for url, headers in [
        (answer["upload_url"], {"Content-Type": "image/png"}),
        (answer["upload_url"], {**signed, "Content-Type": "image/jpeg"}),
        (answer["upload_url"] + "0", signed),
        (f"{frozen.sandbox.media_url}/upload/x.png", signed),
    ]:
        status, _, body = await frozen.raw("media", "PUT", url, data=b"png", headers=headers)
        assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True)


async def test_uploads_need_a_length(frozen: Any) -> None:
    answer = await grant(frozen)

    async def pieces() -> Any:
        yield b"png"

    status, _, body = await frozen.raw(
        "media", "PUT", answer["upload_url"], data=pieces(), headers=answer["upload_headers"]
    )
    assert (status, b"<Code>NotImplemented</Code>" in body) == (501, True)


@pytest.mark.parametrize("body", [{}, {"content_type": "application/pdf"}])
async def test_only_some_types_can_be_uploaded(frozen: Any, body: Any) -> None:
    status, answer = await frozen.json("v2", "POST", "/files/generate-upload-url", body)
    assert (status, answer["detail"][0]["loc"]) == (422, ["body", "content_type"])
