"""Local pictures, recordings and films in requests: what they may be, and how they reach each service."""

from __future__ import annotations

import asyncio
import base64
import copy
import enum
import gzip
import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import wave
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import aiohttp
import anyio
import msgspec
import puremagic
import pydantic
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from higgsfield_async import (
    Ad,
    AuthenticationFailed,
    CharacterTraining,
    ClientClosed,
    DopVideo,
    Higgsfield,
    ImageToVideo,
    InvalidRequest,
    Keyframes,
    Limits,
    MediaSource,
    ModelRequest,
    PlatformTransport,
    ProxyTransport,
    RetryPolicy,
    Soul,
    Speak,
    Speech,
    SubmissionUnknown,
    TalkingHead,
    Unsupported,
    Upload,
    UploadError,
)
from higgsfield_async._media import Attachment
from higgsfield_async._requests import filled, media_in, read_request
from higgsfield_async._transports._uploads import TAKEN, _type_of
from higgsfield_async.sandbox import Fault, Sandbox
from higgsfield_async.sandbox._media import can_encode_video, render
from surfaces import IMAGE, MOTION, PROMPT

Client = Callable[..., Higgsfield]
# Media may stand in arguments that nobody has documented.
ANY_ARGUMENTS = pytest.mark.filterwarnings("ignore::higgsfield_async.ArgumentWarning")


def drawn(form: str = "PNG", colour: str = "red", size: int = 8, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (size, size), colour).save(file, form)
    return file.getvalue()


def spoken() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        written.writeframes(bytes(1600))
    return file.getvalue()


PNG = drawn()
WAV = spoken()
DATA_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
WORDS = Speak(text="hello", voice_id="v")
VIDEO: dict[str, Any] = {"model": "lite", "motion_id": MOTION, "prompt": PROMPT}


class Reader:
    """A file of nobody's kind, that cannot go back."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def seekable(self) -> bool:
        return False

    def read(self) -> bytes:
        content, self.content = self.content, b""
        return content


def at_a_place(content: bytes) -> IO[bytes]:
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    return file


# Each way to give a picture: what makes it, given an empty folder.
WAYS: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: written(folder / "cat.png", PNG),
    "anyio's path": lambda folder: anyio.Path(written(folder / "cat.png", PNG)),
    "bytes": lambda _: PNG,
    "memory file": lambda _: io.BytesIO(PNG),
    "in the middle": lambda _: at_a_place(PNG),
    "open file": lambda folder: written(folder / "cat.png", PNG).open("rb"),
    "raw file": lambda folder: written(folder / "cat.png", PNG).open("rb", buffering=0),
    "spooled file": lambda _: spooled(PNG),
    "no way back": lambda _: Reader(PNG),
    "data URI": lambda _: DATA_URI,
    "Pillow": lambda _: Image.open(io.BytesIO(PNG)),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def spooled(content: bytes) -> IO[bytes]:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115  # the test that asked closes it
    file.write(content)
    file.seek(0)
    return file


@pytest.fixture(params=WAYS)
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    source = WAYS[request.param](tmp_path)
    yield source
    if isinstance(source, (io.IOBase, tempfile.SpooledTemporaryFile)):
        assert not source.closed
        source.close()


async def fetched(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.read()


def puts(sandbox: Sandbox) -> list[bytes]:
    return [received.body for received in sandbox.received if received.method == "PUT"]


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB").tobytes()


@ANY_ARGUMENTS
async def test_the_platform_is_given_an_address(sandbox: Sandbox, client: Client, picture: Any) -> None:
    deep = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": IMAGE, "a": [{"b": (1, picture)}]})
    async with client("platform") as hf:
        await hf.run(Keyframes(prompt=PROMPT, image_references=[IMAGE, picture]))
        await hf.run(DopVideo(model="dop-lite", prompt=PROMPT, images=(picture,)))
        await hf.run(Soul(prompt=PROMPT, width_and_height="1536x1536", image_reference=picture))
        await hf.run(TalkingHead(prompt=PROMPT, image=picture, audio=io.BytesIO(WAV)))
        await hf.run(deep)
        frames, video, soul, head, model = (generation.request for generation in sandbox.generations.values())
        remote, address = frames["params"]["image_references"]
        assert remote == {"type": "image_url", "image_url": IMAGE}
        assert video["params"]["input_images"] == [address]
        assert soul["params"]["image_reference"] == head["params"]["input_image"] == address
        assert model["a"] == [{"b": [1, address["image_url"]]}]
        recording = head["params"]["input_audio"]
        assert recording["type"] == "audio_url"
        assert await fetched(recording["audio_url"]) == WAV
        assert pixels(await fetched(address["image_url"])) == pixels(PNG)
    # The picture once, though it is in five requests.
    assert len(puts(sandbox)) == 2


async def test_the_proxy_is_given_the_picture_itself(sandbox: Sandbox, client: Client, picture: Any) -> None:
    async with client("proxy") as hf:
        for _ in range(2):
            await hf.run(ImageToVideo(**VIDEO, images=[IMAGE, picture]))
        await hf.run(Speech(avatar_preset_id="a", prompt=PROMPT, images=[picture], speak=WORDS))
        await hf.run(Ad(product_placement_sample_id="x" * 22, images=[picture]))
    first, again, *others = (generation.request["image"] for generation in sandbox.generations.values())
    assert first == again
    assert first[0] == IMAGE
    assert first[1].startswith("data:image/png;base64,")
    assert pixels(base64.b64decode(first[1].partition(",")[2], validate=True)) == pixels(PNG)
    assert others == [[first[1]]] * 2
    assert {received.path for received in sandbox.received if received.method == "POST"} == {
        "/higgsfield/generate",
        "/higgsfield/speak",
        "/higgsfield/ads",
    }


async def test_what_was_uploaded_is_used(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        upload = await hf.upload(PNG)
        await hf.run(DopVideo(model="dop-lite", prompt=PROMPT, images=[upload]))
        await hf.run(ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": upload}))
        video, model = (generation.request for generation in sandbox.generations.values())
        assert video["params"]["input_images"][0]["image_url"] == model["image_url"] == upload.url
        assert len(puts(sandbox)) == 1

        old = msgspec.structs.replace(upload, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        with pytest.raises(InvalidRequest, match=r"DopVideo\.images\.0: was uploaded, and kept until 20.* UTC"):
            await hf.submit(DopVideo(model="dop-lite", prompt=PROMPT, images=[old]))
        unknown = msgspec.structs.replace(upload, expires_at=None)
        await hf.submit(DopVideo(model="dop-lite", prompt=PROMPT, images=[unknown]))
    async with client("proxy") as hf:
        await hf.run(ImageToVideo(**VIDEO, images=[upload]))
    assert [*sandbox.generations.values()][-1].request["image"] == [upload.url]


async def test_a_character_is_trained_from_local_pictures(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    path = written(tmp_path / "ann.png", PNG)
    pictures: list[MediaSource] = [path, drawn(colour="blue"), IMAGE, Image.new("L", (9, 9))]
    async with client("platform") as hf:
        assert (await hf.estimate(CharacterTraining(name="Ann", images=pictures))).credits == 40
        assert not sandbox.received
        task = await hf.characters.create("Ann", pictures)
        await task.wait()
        (sent,) = (received.json() for received in sandbox.received if received.operation == "submit")
        red, blue, remote, black = (each["image_url"] for each in sent["input_images"])
        assert remote == IMAGE
        assert [pixels(await fetched(url))[:3] for url in (red, blue, black)] == [b"\xff\0\0", b"\0\0\xff", bytes(3)]
    assert len(puts(sandbox)) == 3


async def test_a_map_reads_one_open_file_again_and_again(sandbox: Sandbox, client: Client) -> None:
    request = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": at_a_place(PNG)})
    same = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": request.arguments["image_url"]})
    async with client("platform") as hf:
        await hf.gather([request, same] * 10)
    assert puts(sandbox) == [PNG]
    assert len({generation.request["image_url"] for generation in sandbox.generations.values()}) == 1
    assert request.arguments["image_url"].tell() == 6


# What a request is made of


def test_text_is_never_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "cat.png", PNG)
    for text in ("cat.png", str(tmp_path / "cat.png"), (tmp_path / "cat.png").as_uri()):
        with pytest.raises(InvalidRequest):
            DopVideo(model="dop-lite", prompt=PROMPT, images=[text])
        with pytest.raises(InvalidRequest):
            ImageToVideo(**VIDEO, images=[text])
        # Here it is any string.
        request = ModelRequest("a/b", {"image_url": text})
        assert media_in(request) == ((), ())


def test_what_is_no_source_is_refused() -> None:
    for wrong in (7, None, bytearray(PNG), memoryview(PNG), io.BytesIO, {"url": IMAGE}, [PNG]):
        given: Any = wrong
        with pytest.raises(InvalidRequest, match=r"^DopVideo\.images: Expected `str`, got .* - at `\$\[1\]`"):
            DopVideo(model="dop-lite", prompt=PROMPT, images=[PNG, given])
        if given is not None:
            with pytest.raises(InvalidRequest):
                Soul(prompt=PROMPT, width_and_height="1536x1536", image_reference=given)
    with pytest.raises(InvalidRequest, match="length <= 2"):
        ImageToVideo(**VIDEO, images=[PNG] * 3)
    with pytest.raises(InvalidRequest):
        ImageToVideo(**VIDEO, images=PNG)  # type: ignore[arg-type]  # that is what is refused
    with pytest.raises(InvalidRequest, match="Object of type object is not JSON"):
        ModelRequest("a/b", {"image_url": PNG, "x": object()})
    around: list[Any] = []
    around.append(around)
    with pytest.raises(InvalidRequest, match="cannot be written as JSON"):
        ModelRequest("a/b", {"x": around})


def test_the_proxy_takes_no_recording() -> None:
    for audio in (Path("a.wav"), WAV, io.BytesIO(WAV)):
        wrong: Any = audio
        with pytest.raises(InvalidRequest, match=r"^Speech\.audio: the proxy takes a recording by its address alone"):
            Speech(avatar_preset_id="a", prompt=PROMPT, images=[IMAGE], audio=wrong)


def test_a_request_with_sources_is_a_value() -> None:
    path = Path("a.png")
    images: list[MediaSource] = [path, PNG]
    request = DopVideo(model="dop-lite", prompt=PROMPT, images=images)
    images.clear()
    assert request == DopVideo(model="dop-lite", prompt=PROMPT, images=(path, PNG))
    assert request.images == [path, PNG]
    assert request != DopVideo(model="dop-lite", prompt=PROMPT, images=(path, WAV))
    nested = {"x": [{"y": path}], "z": ({"image_url": IMAGE}, PNG)}
    model = ModelRequest("a/b", nested)
    nested["x"].clear()  # type: ignore[attr-defined]  # it is a list, as the lines above make it
    assert model.arguments == {"x": [{"y": path}], "z": [{"image_url": IMAGE}, PNG]}
    for each in (request, model, TalkingHead(prompt=PROMPT, image=PNG, audio=path)):
        for twin in (pickle.loads(pickle.dumps(each)), copy.deepcopy(each), copy.copy(each)):
            assert twin == each
            assert media_in(twin) == media_in(each)
        assert "PNG" not in repr(each)
        assert "a.png" not in repr(each)
    assert type(pickle.loads(pickle.dumps(model.arguments))) is dict


class Size(enum.IntEnum):
    SMALL = 1


def test_numbers_of_another_kind() -> None:
    assert ModelRequest("a/b", {"image_url": Size.SMALL}).arguments == {"image_url": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.once
@given(st.dictionaries(st.text(), JSON))
def test_arguments_are_kept_as_they_are(arguments: dict[str, Any]) -> None:
    assert ModelRequest("a/b", arguments).arguments == json.loads(json.dumps(arguments))


@pytest.mark.once
@given(st.dictionaries(st.text(), JSON), st.text())
def test_every_source_is_found_and_filled(arguments: dict[str, Any], name: str) -> None:
    request = ModelRequest("a/b", {"first": PNG, "rest": [arguments, [{name: PNG}]]})
    places, _ = media_in(request)
    assert sorted(place.loc for place in places) == [("arguments", "first"), ("arguments", "rest", 1, 0, name)]
    found = filled(request, places, ["https://a.b/1", "https://a.b/1"])
    assert found.arguments == {"first": "https://a.b/1", "rest": [arguments, [{name: "https://a.b/1"}]]}
    assert request.arguments["first"] == PNG


def test_which_text_is_a_data_uri() -> None:
    sources, _ = media_in(
        ModelRequest(
            "a/b",
            {
                "image_url": DATA_URI,
                "images": [DATA_URI, {"clip": "data:video/mp4;base64,AAAA"}, "data:audio/wav;base64,AAAA"],
                "prompt": DATA_URI,
                "negative_prompt": [DATA_URI],
                "text": DATA_URI,
                "Prompt": DATA_URI,
                "caption": f"{DATA_URI} is a picture",
                "lines": f"{DATA_URI}\n{DATA_URI}",
                "other": "data:text/html;base64,AAAA",
                "bare": base64.b64encode(PNG).decode(),
                "not base64": "data:image/png,AAAA",
            },
        )
    )
    assert sorted(map(str, (place.loc[1:] for place in sources))) == [
        "('image_url',)",
        "('images', 0)",
        "('images', 1, 'clip')",
        "('images', 2)",
    ]


class Order(pydantic.BaseModel):
    video: DopVideo
    model: ModelRequest
    advert: Ad


def test_pydantic_keeps_what_is_local_to_itself() -> None:
    upload = Upload(url="https://a.b/c.png", content_type="image/png", size=1)
    order = Order(
        video=DopVideo(model="dop-lite", prompt="x", images=[PNG, Path("/home/me/a.png"), upload, IMAGE]),
        model=ModelRequest("a/b", {"image_url": io.BytesIO(PNG), "x": [DATA_URI]}),
        advert=Ad(product_placement_sample_id="x", images=[PNG]),
    )
    told = json.loads(order.model_dump_json())
    assert told["video"]["images"] == ["…", "…", upload.url, IMAGE]
    assert told["model"]["arguments"] == {"image_url": "…", "x": [DATA_URI]}
    assert told["advert"]["images"] == ["…"]
    with pytest.raises(ValueError, match="images"):
        Order.model_validate(told)
    assert order.model_copy(deep=False).video is order.video


def test_json_holds_text_alone() -> None:
    body = {"model": "dop-lite", "prompt": "x", "images": [DATA_URI, IMAGE]}
    assert read_request(DopVideo, body).images == [DATA_URI, IMAGE]
    head = read_request(TalkingHead, {"prompt": "x", "image": IMAGE, "audio": "data:audio/wav;base64,AAAA"})
    assert head.audio == "data:audio/wav;base64,AAAA"
    long = "https://a.b/" + "c" * 2071
    soul = read_request(Soul, {"prompt": "x", "width_and_height": "1536x1536", "image_reference": long})
    assert soul.image_reference == long
    for image in (
        long + "c",
        "data:audio/wav;base64,AAAA",
        "data:image/png;base64,",
        "data:image/png,x",
        base64.b64encode(PNG).decode(),
        "",
    ):
        with pytest.raises(InvalidRequest, match="at most 2083 characters, or an image as a data URI"):
            read_request(DopVideo, {**body, "images": [image]})
    with pytest.raises(InvalidRequest, match="or a recording as a data URI"):
        read_request(TalkingHead, {"prompt": "x", "image": IMAGE, "audio": DATA_URI})


# What is refused, and that it is refused before anything is sent


class Grumpy:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return 0

    def seek(self, _: int) -> None:
        raise AssertionError

    def read(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Slotted(Reader):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]  # as a Pillow image has it


def broken_picture() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    return Image.open(io.BytesIO(file.getvalue()[:-1000]))


UNREADABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda folder: folder / "a.png", r"cannot be read from .*a\.png: No such file"),
    "a folder": (lambda folder: folder, "it is not a file"),
    "empty": (lambda _: b"", "is empty"),
    "empty file": (lambda folder: written(folder / "a.png", b""), r"a\.png is empty"),
    "text file": (lambda folder: written(folder / "a.txt", b"x").open(), 'it gives no bytes: open it with "rb"'),
    "closed": (lambda _: closed(), "closed file"),
    "write only": (lambda folder: (folder / "a").open("wb"), "cannot be read: "),
    "nothing yet": (lambda _: Grumpy(None), "it gives no bytes"),
    "any error": (lambda _: Grumpy(ZeroDivisionError("whatever")), "cannot be read: whatever"),
    "not hashable": (lambda _: Slotted(PNG), "cannot be read: unhashable"),
    "broken": (lambda _: broken_picture(), "cannot be read: "),
    "padding inside": (lambda _: "data:image/png;base64,AAAA====AAAA", "its base64 is none"),
    "cut": (lambda _: "data:image/png;base64,AAAAA", "its base64 is none"),
    "other letters": (lambda _: "data:image/png;base64,AAAA-_*=", "its base64 is none"),
    "heic": (lambda _: b"\0\0\0\x1cftypheic" + bytes(40), "is HEIC, which the platform does not take here: only JPEG"),
    "avif": (lambda _: b"\0\0\0\x1cftypavif" + bytes(40), "is AVIF"),
    "pdf": (lambda folder: written(folder / "cat.png", b"%PDF-1.7"), r"cat\.png is PDF"),
    "nothing known": (lambda _: b"abc", "does not begin like a file that the platform takes here: JPEG, PNG"),
    "a recording": (lambda _: WAV, "is audio/wav, which the platform does not take here: only JPEG, PNG, WebP and GIF"),
}


def closed() -> IO[bytes]:
    file = io.BytesIO(PNG)
    file.close()
    return file


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_cannot_be_used(sandbox: Sandbox, client: Client, tmp_path: Path, name: str) -> None:
    make, words = UNREADABLE[name]
    source = make(tmp_path)
    async with client("platform") as hf, client("proxy") as proxy:
        with pytest.raises(InvalidRequest, match=words) as caught:
            await hf.submit(DopVideo(model="dop-lite", prompt=PROMPT, images=[PNG, source]))
        assert caught.value.errors[0].loc == ("images", 1)
        assert str(caught.value).startswith("DopVideo.images.1: ")
        assert caught.value.charged == "no"
        if not isinstance(source, str):
            with pytest.raises(InvalidRequest, match=words.replace("the platform", "the proxy")):
                await proxy.submit(ImageToVideo(**VIDEO, images=[IMAGE, source]))
    if isinstance(source, (io.IOBase, Image.Image)):
        source.close()
    assert not sandbox.received


async def test_all_that_is_wrong_is_said_at_once(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    pictures: list[MediaSource] = [tmp_path / "a.png", PNG, b"GIF87", tmp_path / "b.png"]
    async with client("platform") as hf:
        with pytest.raises(InvalidRequest) as caught:
            await hf.submit(Keyframes(prompt=PROMPT, image_references=pictures))
        assert [error.loc[1] for error in caught.value.errors] == [0, 3]
        with pytest.raises(InvalidRequest) as caught:
            await hf.submit(TalkingHead(prompt=PROMPT, image=WAV, audio=PNG))
        assert [error.loc for error in caught.value.errors] == [("image",), ("audio",)]
        with pytest.raises(InvalidRequest, match=r"^ModelRequest\.arguments\.x\.0: does not begin .* WAV and MP4$"):
            await hf.submit(ModelRequest("a/b", {"x": [b"?"]}))
    assert not sandbox.received


async def test_what_the_service_refuses_besides_is_refused_before_an_upload(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        with pytest.raises(Unsupported, match="use a ProxyTransport"):
            await hf.submit(ImageToVideo(**VIDEO, images=[PNG]))
        with pytest.raises(Unsupported, match="takes no expires_after"):
            await hf.submit(DopVideo(model="dop-lite", prompt=PROMPT, images=[PNG]), expires_after=3600)
        with pytest.raises(Unsupported, match="its v1"):
            await hf.estimate(DopVideo(model="dop-lite", prompt=PROMPT, images=[PNG]))
    async with client("proxy") as hf:
        with pytest.raises(Unsupported, match="use a PlatformTransport"):
            await hf.submit(DopVideo(model="dop-lite", prompt=PROMPT, images=[Path("nowhere")]))
    assert not sandbox.received


async def test_the_proxys_limit_is_known_before_anything_is_in_memory(
    sandbox: Sandbox, client: Client, tmp_path: Path
) -> None:
    large = written(tmp_path / "cat.png", PNG)
    os.truncate(large, 2**40)  # with nothing in it, it takes no room on the disk
    inline = "data:image/png;base64," + "A" * 10_000_000
    async with client("proxy") as hf:
        tracemalloc.start()
        try:
            for call in (hf.submit, hf.estimate):
                with pytest.raises(InvalidRequest) as caught:
                    await call(ImageToVideo(**VIDEO, images=[large, IMAGE]))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10_000_000
        assert caught.value.errors[0].type == "too_long"
        assert str(caught.value) == (
            "ImageToVideo.images: the request would have 1466015.50 MB, and the proxy takes 10 MiB (10.49 MB) as a "
            "whole: images[0] (cat.png) has 1099511.63 MB, 1466015.50 MB as base64"
        )
        with pytest.raises(InvalidRequest, match=r"images\[0\] has 0\.60 MB, 0\.80 MB as .*images\[1\] has 10"):
            await hf.submit(ImageToVideo(**VIDEO, images=[PNG + bytes(600_000), inline]))
        with pytest.raises(InvalidRequest, match=r"11\.00 MB, .*: images\[0\] has 1\.00 MB as .*images\[1\] has 10"):
            await hf.submit(ImageToVideo(**VIDEO, images=["A" * 1_000_000, inline]))
        assert not sandbox.received
        # To the byte: what just fits does.
        least = len(msgspec.json.encode({**VIDEO, "image": ["data:image/png;base64,"]}))
        fits = PNG + bytes((10 * 2**20 - least) // 4 * 3 - len(PNG))
        await hf.submit(ImageToVideo(**VIDEO, images=[fits]))
        with pytest.raises(InvalidRequest, match="10 MiB"):
            await hf.submit(ImageToVideo(**VIDEO, images=[fits + b"12"]))
    assert 10 * 2**20 - 4 < len(sandbox.received[0].body) <= 10 * 2**20


async def test_an_estimate(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    path = written(tmp_path / "cat.png", PNG)
    async with client("proxy") as hf:
        assert (await hf.estimate(ImageToVideo(**VIDEO, images=[path]))).points == 5
        with pytest.raises(InvalidRequest, match="No such file"):
            await hf.estimate(ImageToVideo(**VIDEO, images=[tmp_path / "dog.png"]))
    assert not sandbox.received
    async with client("platform") as hf:
        request = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": path})
        assert (await hf.estimate(request)).credits
        assert not sandbox.generations
        await hf.submit(request)
    assert puts(sandbox) == [PNG]


# Money


@pytest.mark.parametrize("surface", ["v1", "v2"])
async def test_no_leave_to_upload_submits_nothing(sandbox: Sandbox, client: Client, surface: str) -> None:
    pictures: dict[str, Any] = {"image_url": io.BytesIO(PNG), "end_image_url": drawn(colour="blue")}
    request = (
        dop(**pictures) if surface == "v2" else DopVideo(model="dop-lite", prompt=PROMPT, images=[*pictures.values()])
    )
    async with client("platform") as hf:
        sandbox.script("upload", *[Fault.answer(401, b'{"detail":"Invalid credentials"}')] * 2)
        with pytest.raises(AuthenticationFailed) as caught:
            await hf.submit(request)
    assert caught.value.charged == "no"
    assert {received.path for received in sandbox.received} == {"/files/generate-upload-url"}
    assert not sandbox.generations


async def test_storage_that_refuses_ends_the_other_uploads_and_submits_nothing(
    sandbox: Sandbox, client: Client
) -> None:
    pictures = [drawn(colour=colour) for colour in ("red", "green", "blue")]
    async with client("platform", limits=Limits(max_connections=4)) as hf:  # one file at once
        sandbox.script("upload", Fault(), Fault.answer(403))
        with pytest.raises(UploadError, match="HTTP 403") as caught:
            await hf.run(DopVideo(model="dop-lite", prompt=PROMPT, images=pictures))
        assert caught.value.charged == "no"
    # The next one may just have begun.
    assert len(puts(sandbox)) == 1
    assert {received.operation for received in sandbox.received} == {"upload"}
    assert not sandbox.generations


async def test_what_was_submitted_in_doubt_can_be_brought_back(sandbox: Sandbox, client: Client) -> None:
    request = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": io.BytesIO(PNG)})
    async with client("platform", retry=RetryPolicy(attempts=1)) as hf:
        sandbox.script("submit", Fault.reset(accept=True))
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(request)
        doubtful = pickle.loads(pickle.dumps(caught.value))
        assert doubtful.request.arguments["image_url"].startswith("http")
        task = await hf.submit(doubtful.request, idempotency_key=doubtful.key)
    (generation,) = sandbox.generations
    assert task.id == generation
    first, second = (received.body for received in sandbox.received if received.operation == "submit")
    assert first == second


async def test_patience_that_ends_while_a_file_is_sent(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("upload", Fault.delay(30))
    async with client("platform") as hf:
        with pytest.raises(UploadError, match="files of this DopVideo were not sent in time") as caught:
            await hf.run(DopVideo(model="dop-lite", prompt=PROMPT, images=[PNG]), timeout=0.1)
    assert caught.value.charged == "no"
    assert [received.operation for received in sandbox.received] == ["upload"]


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_who_goes_away_while_a_file_is_sent_pays_nothing(sandbox: Sandbox, client: Client, how: str) -> None:
    sandbox.script("upload", Fault.delay(30))
    async with client("platform") as hf:
        submitting = asyncio.ensure_future(hf.submit(DopVideo(model="dop-lite", prompt=PROMPT, images=[PNG])))
        with anyio.fail_after(10):
            while not sandbox.received:
                await asyncio.sleep(0.01)
        if how == "cancelled":
            submitting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting
            left = [task for task in asyncio.all_tasks() if task.get_name() == "higgsfield_async.upload"]
            assert not left
    if how == "closed":
        with pytest.raises(ClientClosed) as caught:
            await submitting
        assert caught.value.charged == "no"
    assert [received.operation for received in sandbox.received] == ["upload"]


# Addresses that lead inside


PRIVATE = ["http://127.0.0.1/a.png", "http://localhost:8000/a.png", "https://10.0.0.7/a.png", "http://[::1]/a.png"]


@ANY_ARGUMENTS
@pytest.mark.parametrize("service", ["platform", "proxy"])
@pytest.mark.parametrize("url", PRIVATE)
async def test_addresses_that_the_service_cannot_reach(
    sandbox: Sandbox, client: Client, service: str, url: str
) -> None:
    requests: dict[tuple[str | int, ...], Any] = (
        {("images", 1): ImageToVideo(**VIDEO, images=[IMAGE, url])}
        if service == "proxy"
        else {
            ("images", 1): DopVideo(model="dop-lite", prompt=PROMPT, images=[IMAGE, url]),
            ("image_reference",): Soul(prompt=PROMPT, width_and_height="1536x1536", image_reference=url),
            ("arguments", "image_url"): dop(image_url=url),
            ("arguments", "reference_urls", 0): dop(image_url=IMAGE, reference_urls=[url]),
            ("arguments", "input_images", 0, "imageUrl"): dop(image_url=IMAGE, input_images=[{"imageUrl": url}]),
        }
    )
    async with client(service, allow_private=False) as hf:
        for loc, request in requests.items():
            with pytest.raises(InvalidRequest, match="leads inside this network") as caught:
                await hf.submit(request)
            assert [error.loc for error in caught.value.errors] == [loc]
            assert url not in str(caught.value)
    assert not sandbox.received
    async with client(service, allow_private=True) as hf:
        for request in requests.values():
            await hf.submit(request)
    assert len(sandbox.generations) == len(requests)


def dop(**arguments: Any) -> ModelRequest:
    return ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, **arguments})


@ANY_ARGUMENTS
async def test_addresses_that_pass(sandbox: Sandbox, client: Client) -> None:
    async with client("platform", allow_private=False) as hf:
        await hf.submit(dop(image_url="http://example.com/a.png"))
        # A prompt may say anything, and so may a field that is no address.
        await hf.submit(dop(image_url=IMAGE, prompt=PRIVATE[0], note=PRIVATE[0], count=1))
        await hf.submit(DopVideo(model="dop-lite", prompt=PRIVATE[0], images=["http://example.com?a=b"]))
    async with client("platform") as hf:  # which is inside itself
        await hf.submit(dop(image_url=PRIVATE[0]))
        for url in ("https://me:secret@example.com/a.png", "HTTPS://me@example.com/a.png"):
            with pytest.raises(InvalidRequest, match="must not hold a user or a password") as caught:
                await hf.submit(dop(image_url=url))
            assert "secret" not in str(caught.value)
    async with client("platform", allow_private=False) as hf:
        for url in ("https://[::1", "http:/a.png", "https:a"):
            with pytest.raises(InvalidRequest, match="leads inside"):
                await hf.submit(dop(image_url=url))
    async with client("proxy", allow_private=False) as hf:
        bare = ("httpabcd" * 20)[:120]
        await hf.submit(ImageToVideo(**VIDEO, images=[bare]))


# Types


def samples() -> dict[str, bytes]:
    forms = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PDF", "PPM", "TGA", "EPS", "PCX")
    found = {form: drawn(form, size=16) for form in forms if form != "AVIF" or "AVIF" in Image.SAVE}
    found |= {"WAV": WAV, "WAV of the sandbox": render(".wav", "x", (1, 1), 1.0)}
    found["JPEG in grey"] = drawn("JPEG", "white", mode="L")
    found["CMYK"] = drawn("JPEG", "white", mode="CMYK")
    found["RGBA"] = drawn("WEBP", "white", mode="RGBA")
    found["a page"] = b"<!DOCTYPE html><html></html>"
    found["a program"] = Path(sys.executable).resolve().read_bytes()[:4096]
    found["source"] = Path(__file__).read_bytes()
    for ending in ("zip", "gz"):
        file = io.BytesIO()
        if ending == "zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("a", PNG)
        else:
            file.write(gzip.compress(PNG))
        found[ending] = file.getvalue()
    if can_encode_video():
        found["MP4"] = render(".mp4", "x", (16, 16), 1.0)
    return found


ALIKE = {"audio/x-wav": "audio/wav", "audio/wave": "audio/wav", "image/jpg": "image/jpeg", "": None}


@pytest.mark.parametrize("name", samples())
def test_types_are_told_as_a_kept_library_tells_them(name: str) -> None:
    content = samples()[name]
    judged = puremagic.from_string(content, mime=True) if name != "source" else "text/x-python"
    ours = _type_of(content[:64])
    if ours is None:
        # Of JPEG 2000 that library's table says the same as of JPEG.
        assert name == "JPEG2000" or ALIKE.get(judged, judged) not in TAKEN
        assert name not in {"PNG", "JPEG", "WEBP", "GIF", "WAV", "MP4"}
    else:
        assert ALIKE.get(judged, judged) == ours


def test_every_beginning_that_a_kept_library_knows_is_told_the_same_or_refused() -> None:
    """Where its tables say it is something else, nothing of it is uploaded as a picture."""
    taken = 0
    for magic in puremagic.magic_header_array:
        ours = _type_of((bytes(magic.offset) + magic.byte_match).ljust(64, b"\0"))
        if ours is not None:
            taken += 1
            # JPEG-LS begins as JPEG does, but for the third marker: its own reads it as one.
            assert ALIKE.get(magic.mime_type, magic.mime_type) in {ours, "image/jls"}
    assert taken >= 10


NAMED = {
    b"\0\0\0\x1cftypheic": "HEIC",
    b"\0\0\0\x1cftypmif1": "HEIC",
    b"\0\0\0\x1cftypavif": "AVIF",
    b"\0\0\0\x14ftypqt  ": "QuickTime",
    b"\0\0\0\x08wide\0\0\0\0": "QuickTime",
    b"\0\0\0\x1cftypM4A ": "M4A",
    b"\0\0\0\x1cftyp3gp5": "3GP",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"ID3\4": "MP3",
    b"\xff\xfb\x90\x64": "MP3",
    b"\xff\xf1\x50\x80": "AAC",
    b"OggS": "Ogg",
    b"fLaC": "FLAC",
    b"FORM\0\0\0\0AIFF": "AIFF",
    b"RIFF\x24\x08\x00\x00AVI LIST": "AVI",
    b"\x1a\x45\xdf\xa3": "WebM",
    b"8BPS\0\1": "a Photoshop file",
    b"<?xml version='1.0'?>\n<svg ": "SVG",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": "SVG",
    b"\n<!DOCTYPE html>": "HTML",
    b"%PDF-1.7": "PDF",
}


@pytest.mark.parametrize("head", [*NAMED, *(drawn(form) for form in ("BMP", "TIFF", "JPEG2000", "ICO"))], ids=repr)
def test_a_refusal_says_what_it_is(head: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"is {NAMED.get(head, '')}.*, which the platform does not take here"):
        PlatformTransport("id", "secret").upload(head[:64], len(head), None)


FILES = [PlatformTransport("id", "secret"), ProxyTransport("hk-1")]


@given(st.binary(max_size=64), st.integers(0, 2**50), st.sampled_from(["image", "audio", None]), st.sampled_from(FILES))
def test_any_file_is_taken_as_what_it_is_or_refused(head: bytes, size: int, sort: Any, transport: Any) -> None:
    request = ImageToVideo(**VIDEO, images=[IMAGE])
    file = Attachment(loc=("images", 0), head=head, size=size, name="", sort=sort)
    try:
        found = transport.inlined(request, [file])
    except InvalidRequest as error:
        assert error.errors[0].loc[0] == "images"
    else:
        assert _type_of(head) is not None
        assert found is None or re.fullmatch(r"data:(image|audio|video)/[a-z0-9]+;base64,", found[0])


# Nothing is in the way


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I", "I;16", "LAB"])
async def test_every_kind_of_pixels(sandbox: Sandbox, client: Client, mode: str) -> None:
    image = Image.new(mode, (3, 2))
    async with client("platform") as hf:
        upload = await hf.upload(image)
    assert upload.content_type == "image/png"
    with Image.open(io.BytesIO(puts(sandbox)[0])) as sent:
        assert (sent.format, sent.size) == ("PNG", (3, 2))


def test_pillow_is_not_imported_for_this() -> None:
    program = (
        "import sys, higgsfield_async as h\n"
        "r = h.ImageToVideo(model='lite', motion_id='m', prompt='x', images=[b'x', 'https://a.b/c'])\n"
        "h.ModelRequest('a/b', {'image_url': b'x'})\n"
        "try: h.ModelRequest('a/b', {'x': object()})\n"
        "except h.InvalidRequest: pass\n"
        "assert 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


async def test_large_ones_leave_the_loop_free(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    """Under the watch of `no_blocking`, and seen from the loop: the work is done in another thread."""
    noise = Image.effect_noise((1200, 1200), 90)
    large = PNG + os.urandom(5_000_000)
    uri = "data:image/png;base64," + base64.b64encode(large).decode()
    threads: set[int] = set()

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            threads.add(threading.get_ident())
            return super().read(size)

    async with client("platform") as hf:
        await hf.submit(Keyframes(prompt=PROMPT, image_references=[noise, large, uri, Watched(large + b"x")]))
        await hf.submit(Keyframes(prompt=PROMPT, image_references=[written(tmp_path / "a.png", large + b"y")]))
    async with client("proxy") as hf:
        await hf.submit(ImageToVideo(**VIDEO, images=[written(tmp_path / "b.png", large), Watched(PNG)]))
    assert threads
    assert threading.get_ident() not in threads
    sent = sandbox.received[-1].json()["image"][0]
    assert base64.b64decode(sent.partition(",")[2], validate=True) == large
    assert sorted(map(len, puts(sandbox)))[-3:] == [len(large), len(large) + 1, len(large) + 1]


async def test_a_pipe_without_an_end_can_be_left(sandbox: Sandbox, client: Client) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb") as end:
        async with client("platform") as hf:
            with pytest.raises(UploadError, match="not sent in time"):
                await hf.run(DopVideo(model="dop-lite", prompt=PROMPT, images=[pipe]), timeout=0.05)
            # What comes later is not lost: the same request may be made again.
            end.write(PNG)
            end.close()
            await hf.run(DopVideo(model="dop-lite", prompt=PROMPT, images=[pipe]), timeout=math.inf)
    assert puts(sandbox) == [PNG]
