"""`save=`: a generation counts as done when its files are safe."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from higgsfield_async import (
    AuthenticationFailed,
    ClientClosed,
    ConfigurationError,
    DownloadError,
    Higgsfield,
    JobStatus,
    Keyframes,
    Limits,
    Media,
    Outcome,
    _client,
)
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import V1, V2, Surface

Client = Callable[..., Higgsfield]
AT_ONCE = Plan(queued=0, running=0)


class Gate:
    """A writer that is held up until it is let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, name: str, pieces: AsyncIterator[bytes]) -> str:
        self.begun.append(name)
        await self.open.wait()
        await anext(pieces)
        return name

    async def reached(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self.begun) < count:
                await anyio.sleep(0.005)


async def test_run_brings_the_files(client: Client, surface: Surface, tmp_path: Path) -> None:
    async with client(surface) as hf:
        job_set = await hf.run(surface.request, save=tmp_path)
    [path] = tmp_path.iterdir()
    assert [media.path for media in job_set.outputs if media.variant == "raw"] == [path]
    assert [media.path for media in job_set.outputs if media.variant == "min"] in ([], [None])
    assert path.stem == job_set.id
    assert pickle.loads(pickle.dumps(job_set)) == job_set
    [media] = [media for media in job_set.outputs if media.path]
    assert repr(media).endswith(f"variant='raw', path={str(path)!r})")


async def test_run_saves_only_what_there_is(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    sandbox.plan(Plan(end="failed"), Plan(ends=("failed", "completed")))
    async with client(V1) as hf:
        job_set = await hf.run(V1.request, check=False, save=tmp_path)
        assert job_set.status is JobStatus.FAILED
        assert not list(tmp_path.iterdir())
        job_set = await hf.run(Keyframes(prompt="x", count=2), save=str(tmp_path))
        assert [media.path for media in job_set.outputs if media.path] == list(tmp_path.iterdir())
        before = len(sandbox.received)
        with pytest.raises(ConfigurationError, match="to a directory or to an async writer"):
            await hf.run(V1.request, save=5)  # type: ignore[arg-type]  # that is what is refused
        with pytest.raises(ConfigurationError, match="to a directory or to an async writer"):
            hf.map([], save=b"x")  # type: ignore[arg-type]  # that is what is refused
        assert len(sandbox.received) == before


async def test_run_that_is_cancelled_while_it_saves(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    async with client(V1) as hf:
        running = asyncio.create_task(hf.run(V1.request, save=gate))
        await gate.reached(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert gate.begun[0].partition(".")[0] in caplog.text


async def test_run_that_meets_what_is_not_ours(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    async def writer(_: str, pieces: AsyncIterator[bytes]) -> None:
        await anext(pieces)
        raise KeyboardInterrupt

    async with client(V1) as hf:
        with pytest.raises(KeyboardInterrupt):
            await hf.run(V1.request, save=writer)
    assert "A run broke off after its submit: " in caplog.text
    assert '"transport":"platform"' in caplog.text


async def test_run_that_cannot_save(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    sandbox.script("download", Fault.answer(410))
    async with client(V1) as hf:
        with pytest.raises(DownloadError, match="HTTP 410") as caught:
            await hf.run(V1.request, save=tmp_path)
        assert caught.value.ref is not None
        assert await hf.task(caught.value.ref).save(tmp_path)


async def test_an_outcome_comes_when_its_files_are_safe(
    sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path
) -> None:
    updates: list[Outcome] = []
    async with client(surface) as hf:
        async for outcome in hf.map([surface.request] * 9, max_active=4, save=tmp_path, on_update=updates.append):
            assert outcome.error is None
            assert outcome.job_set is not None
            assert [media.path.exists() for media in outcome.job_set.outputs if media.path] == [True]
            assert updates[-1].job_set is not None
            assert outcome in updates
    assert len(list(tmp_path.iterdir())) == 9
    ends = [each for each in updates if each.job_set is not None and each.job_set.status is JobStatus.COMPLETED]
    assert len(ends) == 9


async def test_gather_and_a_writer(client: Client, tmp_path: Path) -> None:
    gate = Gate()
    gate.open.set()
    async with client(V1) as hf:
        found = await hf.gather([Keyframes(prompt="x", count=2)] * 3, save=gate)
        assert {media.path for job_set in found for media in job_set.outputs} == {None}
        assert len(gate.begun) == 6
        saved = await hf.gather([V1.request] * 2, save=tmp_path)
    assert {media.path for job_set in saved for media in job_set.outputs if media.path} == set(tmp_path.iterdir())


async def test_what_cannot_be_saved_is_an_outcome(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    sandbox.script("download", Fault.answer(404))
    async with client(V2) as hf:
        outcomes = [outcome async for outcome in hf.map([V2.request] * 3, save=tmp_path)]
    [failed] = [outcome for outcome in outcomes if outcome.error]
    assert isinstance(failed.error, DownloadError)
    assert failed.error.ref == failed.ref is not None
    assert failed.job_set is not None
    assert failed.job_set.status is JobStatus.COMPLETED
    assert len(list(tmp_path.iterdir())) == 2


async def test_what_is_saved_is_held(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(*[AT_ONCE] * 9)
    gate = Gate()
    async with client(V2) as hf:
        outcomes = hf.map([V2.request] * 9, max_active=3, save=gate)
        first = asyncio.create_task(anext(outcomes))
        await gate.reached(3)
        await anyio.sleep(0.1)
        assert len(sandbox.generations) == 3
        gate.open.set()
        await first
        assert len([outcome async for outcome in outcomes]) == 8


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_leaving_stops_what_is_saved(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    sandbox.plan(*[AT_ONCE] * 4)
    gate = Gate()
    async with client(V2, limits=Limits(max_connections=64)) as hf:
        outcomes = hf.map([V2.request] * 4, save=gate)
        first = asyncio.create_task(anext(outcomes))
        await gate.reached(4)
        if how == "closed":
            await outcomes.aclose()
            with pytest.raises(StopAsyncIteration):
                await first
        else:
            first.cancel()
            await asyncio.wait({first})
            del outcomes, first
            gc.collect()
        with anyio.fail_after(5):
            while hf._savings:
                await anyio.sleep(0.005)
        with anyio.fail_after(5):
            while sandbox.connections > 2 * len(sandbox.generations):
                await anyio.sleep(0.005)
    for identifier in sandbox.generations:
        assert f'"id":"{identifier}"' in caplog.text


async def test_closing_the_client_ends_what_is_saved(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(*[AT_ONCE] * 3)
    gate = Gate()
    hf = client(V2)
    outcomes = hf.map([V2.request] * 3, save=gate)
    first = asyncio.create_task(anext(outcomes))
    await gate.reached(3)
    await hf.close()
    found = [await first, *[outcome async for outcome in outcomes]]
    assert [type(outcome.error) for outcome in found] == [ClientClosed] * 3
    for outcome in found:
        assert outcome.error is not None
        assert outcome.error.ref == outcome.ref is not None
        assert outcome.error.charged == "yes"
        assert outcome.job_set is not None


async def test_what_completes_while_the_client_closes_has_its_ref(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=30), Plan(queued=0, running=30))
    sandbox.script("submit", Fault(), Fault.delay(3))
    gate = Gate()
    hf = client(V2)
    outcomes = hf.map([V2.request] * 2, save=gate)
    first = asyncio.create_task(anext(outcomes))
    with anyio.fail_after(5):
        while len(sandbox.generations) < 1 or not hf.open_tasks():
            await anyio.sleep(0.005)
    # The second submit is answered late, and closing waits for it; the first one completes meanwhile.
    await hf.close()
    found = [await first, *[outcome async for outcome in outcomes]]
    assert found[0].job_set is not None
    assert found[0].job_set.status is JobStatus.COMPLETED
    for outcome in found:
        assert isinstance(outcome.error, ClientClosed)
        assert outcome.error.ref == outcome.ref is not None
        assert outcome.job_set is not None
        assert outcome.error.charged == outcome.job_set.charged
        assert outcome.ref.id in str(outcome.error)
    assert not gate.begun


async def test_a_writer_that_waits_for_what_was_cancelled(client: Client) -> None:
    async def writer(_: str, pieces: AsyncIterator[bytes]) -> None:
        await anext(pieces)
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    async with client(V1) as hf:
        [outcome] = [outcome async for outcome in hf.map([V1.request], save=writer)]
        assert type(outcome.error) is DownloadError
        assert outcome.error.ref == outcome.ref is not None
        assert outcome.job_set is not None
        assert outcome.error.charged == outcome.job_set.charged
        assert outcome.ref.id in str(outcome.error)
        assert isinstance(outcome.error.__cause__, asyncio.CancelledError)


async def test_doom_lets_what_is_saved_finish(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(AT_ONCE)
    sandbox.script("submit", Fault(), Fault.answer(401, b'{"detail":"Invalid credentials"}'))
    gate = Gate()
    found: list[Outcome] = []

    async def take() -> None:
        async for outcome in hf.map([V2.request] * 9, max_active=2, save=gate):
            found.append(outcome)  # noqa: PERF401  # those before an error count too

    async with client(V2, limits=Limits(max_connections=4)) as hf:
        taking = asyncio.create_task(take())
        await gate.reached(1)
        with anyio.fail_after(5):
            while not found:
                await anyio.sleep(0.005)
        gate.open.set()
        with pytest.raises(AuthenticationFailed):
            await taking
    assert sorted(type(outcome.error).__name__ for outcome in found) == ["AuthenticationFailed", "NoneType"]


async def test_a_fault_of_our_own_while_saving_ends_the_map(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(_client, "save_all", broken)
    async with client(V2) as hf:
        outcomes = hf.map([V2.request], save="x")
        outcome = await anext(outcomes)
        assert isinstance(outcome.error, DownloadError)
        assert outcome.error.ref == outcome.ref
        with pytest.raises(ZeroDivisionError):
            await anext(outcomes)


def test_a_place_on_this_machine_is_no_part_of_what_is_told() -> None:
    from higgsfield_async._events import Output

    assert set(Output.__struct_fields__) == set(Media.__struct_fields__) - {"path"}
