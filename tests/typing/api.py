"""What a user writes, for the type checkers alone: it is never run."""

from __future__ import annotations

import datetime as dt
import io
import math
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import assert_type

import aiohttp
import PIL.Image

from higgsfield_async import (
    AgentMessage,
    AgentSession,
    AgentState,
    AgentStatus,
    Character,
    CharacterTraining,
    DopVideo,
    DownloadError,
    Estimate,
    GenerationFailed,
    GenerationTask,
    Higgsfield,
    ImageToVideo,
    Job,
    JobSet,
    JobStatus,
    Keyframes,
    Limits,
    MarketingPreset,
    Media,
    MediaSource,
    MediaStream,
    Model,
    ModelRequest,
    Motion,
    PlatformTransport,
    PollPolicy,
    ProxyTransport,
    RetryPolicy,
    Soul,
    SoulStyle,
    Speak,
    Speech,
    SubmissionUnknown,
    TalkingHead,
    TaskRef,
    Transport,
    Upload,
    UploadError,
    Usage,
    Voice,
    WaitTimeout,
    Webhook,
)


async def put(name: str, pieces: AsyncIterator[bytes]) -> int:
    return len(name) + sum([len(piece) async for piece in pieces])


async def one_generation(hf: Higgsfield, ref: TaskRef) -> None:
    task = await hf.submit(
        ImageToVideo(model="turbo", motion_id="m", prompt="p", images=["https://example.com/cat.jpg"], seed=7)
    )
    assert_type(task, GenerationTask)
    assert_type(task.ref, TaskRef)
    assert_type(task.status, JobStatus)
    assert_type(task.job_set, JobSet | None)
    async for job_set in task.updates(timeout=60):
        assert_type(job_set, JobSet)
    done = await task.wait(timeout=600)
    assert_type(done, JobSet)
    assert_type(done.jobs, tuple[Job, ...])
    assert_type(done.jobs[0].media, Media | None)
    assert_type(done.created_at, dt.datetime | None)
    assert_type(await task.refresh(), JobSet)
    assert_type(await task.save("directory"), list[Path])
    assert_type(await task.save(Path("directory"), variant="min"), list[Path])
    assert_type(await task.save(put, progress=lambda told: told.received > 0), list[int])
    assert_type(await hf.run(Keyframes(prompt="p"), save=put), JobSet)
    assert_type(await hf.gather([Keyframes(prompt="p")], save="directory"), list[JobSet])
    for media in done.outputs:
        assert_type(media.path, Path | None)
        assert_type(await hf.save(media, "directory/x.mp4"), Path)
        async with hf.stream(media) as stream:
            assert_type(stream, MediaStream)
            assert_type(stream.size, int | None)
            assert_type([piece async for piece in stream], list[bytes])
    await task.save(print)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await task.cancel()
    await task.wait(math.inf, False, on_cancel="cancel")
    assert_type(hf.task(ref), GenerationTask)
    assert_type(hf.task(ref.to_json()), GenerationTask)


async def other_requests(hf: Higgsfield) -> None:
    speech = Speech(
        avatar_preset_id="a", prompt="p", images=["https://example.com/me.jpg"], speak=Speak(text="hi", voice_id="v")
    )
    assert_type(await hf.run(speech, timeout=300), JobSet)
    assert_type(await hf.run(Keyframes(prompt="p", aspect_ratio="16:9"), check=False), JobSet)
    request = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": "p"})
    await hf.submit(request, webhook=Webhook("https://example.com/hook"), expires_after=3600, idempotency_key="k")
    ImageToVideo(model="fast", motion_id="m", prompt="p", images=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def prices_and_files(hf: Higgsfield, path: Path) -> None:
    price = await hf.estimate(Keyframes(prompt="p"))
    assert_type(price, Estimate)
    assert_type(price.points, Decimal | None)
    assert_type(price.text, str | None)
    upload = await hf.upload(path)
    assert_type(upload, Upload)
    assert_type(upload.expires_at, dt.datetime | None)
    assert_type(await hf.upload(b"GIF89a", content_type="image/gif"), Upload)
    await hf.upload(io.BytesIO(b"GIF89a"))
    await hf.upload(["cat.png"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def local_media(hf: Higgsfield, path: Path, image: PIL.Image.Image, upload: Upload) -> None:
    sources: list[MediaSource] = [path, image, upload, b"GIF89a", "https://example.com/cat.jpg"]
    with path.open("rb") as file:
        sources.append(file)
        await hf.run(ImageToVideo(model="turbo", motion_id="m", prompt="p", images=[path, image]))
        await hf.run(Keyframes(prompt="p", image_references=sources))
        await hf.run(Soul(prompt="p", width_and_height="1536x1536", image_reference=file))
    await hf.run(DopVideo(model="dop-lite", prompt="p", images=[path]))
    await hf.run(DopVideo(model="dop-lite", prompt="p", images=[Path("a.png")]))
    await hf.run(TalkingHead(prompt="p", image=image, audio=path))
    await hf.run(ModelRequest("a/b", {"image_url": path}))
    await hf.upload(image)
    DopVideo(model="dop-lite", prompt="p", images=[7])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def catalogues(hf: Higgsfield) -> None:
    async for motion in hf.motions(search="zoom", size=10):
        assert_type(motion, Motion)
    async for voice in hf.voices():
        assert_type(voice, Voice)
    assert_type([style async for style in hf.soul_styles(version=2)], list[SoulStyle])
    assert_type([model async for model in hf.models()], list[Model])
    assert_type([look async for look in hf.marketing_presets(search="s", size=5)], list[MarketingPreset])
    assert_type(await hf.usage(start=dt.date(2026, 1, 1), end=dt.datetime.now(dt.UTC)), list[Usage])
    ModelRequest("higgsfield-ai/dop/turbo", {"prompt": "p"}, strict=True)


async def characters_and_agents(hf: Higgsfield, path: Path) -> None:
    assert_type(await hf.characters.create("Ann", ["https://example.com/ann.jpg"], model_version="v2"), GenerationTask)
    assert_type(await hf.run(CharacterTraining(name="Ann", images=["https://example.com/ann.jpg"])), JobSet)
    character = await hf.characters.get("id")
    assert_type(character, Character)
    assert_type(character.media, tuple[str, ...])
    assert_type([each async for each in hf.characters.list(size=5)], list[Character])
    await hf.characters.delete(character.id)

    async def later(messages: tuple[AgentMessage, ...]) -> str:
        return messages[-1].text

    session = await hf.agents.create()
    assert_type(session, AgentSession)
    assert_type(await session.send("hello"), str)
    assert_type(await session.wait(timeout=60), AgentState)
    state = await session.run("hello", on_question=lambda messages: messages[-1].text)
    assert_type((await session.run("hello", on_question=later)).status, AgentStatus)
    assert_type(state.messages[0].llm_cost_usd, Decimal | None)
    await hf.agents.session(session.id).interrupt()
    assert_type((await hf.agents.upload(path)).url, str)


async def settings(session: aiohttp.ClientSession, transport: Transport) -> None:
    async with Higgsfield(
        transport,
        poll=PollPolicy.backoff(first=1, longest=5),
        retry=RetryPolicy(attempts=3),
        limits=Limits(max_connections=8),
        session=session,
    ) as hf:
        assert_type(hf, Higgsfield)
    Higgsfield(ProxyTransport(api_key="hk-…"), poll=PollPolicy.fixed(5))
    Higgsfield(PlatformTransport(key_id="i", key_secret="s"), trust_env=True)
    assert_type(Higgsfield.from_env(service="proxy"), Higgsfield)


def errors(error: Exception) -> None:
    match error:
        case SubmissionUnknown():
            assert_type(error.key, str | None)
        case GenerationFailed():
            assert_type(error.job_set, JobSet)
            assert_type(error.reason, str | None)
        case UploadError():
            assert_type(error.status, int | None)
        case WaitTimeout() | DownloadError():
            assert_type(error.ref, TaskRef | None)
        case _:
            pass
