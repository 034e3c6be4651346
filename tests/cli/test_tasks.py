"""The journal, listed, picked up and put right."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from commands import PROGRAM, Run, lose, submit

from higgsfield_async import SubmissionUnknown
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import PROXY, V2

Use = Callable[[str], None]


def test_there_may_be_no_journal_yet(run: Run, environment: Path) -> None:
    ran = run("tasks")
    assert ran.out == ""
    assert str(environment) in ran.err.replace("\n", "")
    assert not environment.exists()


def test_tasks_are_the_newest_first_and_need_no_key(run: Run, service: Sandbox, environment: Path) -> None:
    service.plan(Plan(end="failed", reason="bad \x1b[31mlight"))
    (ended,) = submit(service, environment, V2, "first", wait=True)
    (still,) = submit(service, environment, PROXY, "second")
    lose(service, environment, "third")
    rows = run("tasks").rows
    assert [(row[0], row[1], row[5]) for row in rows] == [
        ("-", "unknown", "third"),
        (still.id, "submitted", "second"),
        (ended.id, "ended", "first"),
    ]
    things = run("tasks", "--json").things
    assert [thing["state"] for thing in things] == ["unknown", "submitted", "ended"]
    assert (things[2]["status"], things[2]["charged"]) == ("failed", "no")
    assert things[2]["reason"] == "bad \x1b[31mlight"
    assert (things[1]["ref"], things[0]["ref"]) == (still.short, None)


@pytest.mark.parametrize(
    ("flags", "keys"),
    [
        (["--open"], ["second"]),
        (["--unknown"], ["third"]),
        (["--ended"], ["first"]),
        (["--limit", "2"], ["third", "second"]),
        (["--limit", "1", "--ended"], ["first"]),
    ],
)
def test_tasks_are_chosen(run: Run, service: Sandbox, environment: Path, flags: list[str], keys: list[str]) -> None:
    submit(service, environment, V2, "first", wait=True)
    submit(service, environment, PROXY, "second")
    lose(service, environment, "third")
    assert [thing["key"] for thing in run("tasks", "--json", *flags).things] == keys


def test_two_choices_are_a_mistake(run: Run) -> None:
    assert "Error: " in run("tasks", "--open", "--ended", code=2).err
    assert "Error: " in run("tasks", "--limit", "0", code=2).err


def test_another_journal_is_named(run: Run, service: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(service, tmp_path / "other.db", PROXY, "elsewhere")
    assert [thing["key"] for thing in run("tasks", "--journal", str(tmp_path / "other.db"), "--json").things] == [
        "elsewhere"
    ]
    monkeypatch.setenv("HIGGSFIELD_JOURNAL", "")
    ran = run("tasks")
    assert "higgsfield-async/journal.db" in ran.err.replace("\n", "")
    folder = tmp_path / ".local" / "state" / "higgsfield-async"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_no_folder_for_the_journal_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIGGSFIELD_JOURNAL")
    (tmp_path / ".local").write_text("a file")
    assert "name another file with --journal" in run("tasks", code=78).err


def test_what_is_no_journal_is_left_alone(run: Run, environment: Path) -> None:
    environment.write_text("something else")
    assert "Error: " in run("tasks", code=74).err
    assert environment.read_text() == "something else"


def test_recover_waits_and_saves(run: Run, use: Use, service: Sandbox, environment: Path, tmp_path: Path) -> None:
    use("proxy")
    refs = submit(service, environment, PROXY, "one", "two")
    ran = run("recover", "--output", str(tmp_path / "results"), "--json")
    assert {thing["key"] for thing in ran.things} == {"one", "two"}
    assert {thing["ref"] for thing in ran.things} == {ref.short for ref in refs}
    for thing in ran.things:
        assert (thing["state"], thing["status"]) == ("ended", "completed")
        (file,) = thing["files"]
        assert Path(file).parent == tmp_path / "results"
        assert Path(file).stat().st_size
    assert len(service.generations) == 2
    again = run("recover")
    assert again.out == ""
    assert "Nothing is open" in again.err
    assert [thing["files"] for thing in run("tasks", "--json", "--ended").things] == [
        thing["files"] for thing in sorted(ran.things, key=lambda each: each["begun"], reverse=True)
    ]


def test_what_tasks_shows_is_waited_for(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("proxy")
    (ref,) = submit(service, environment, PROXY, "one")
    (row,) = run("tasks").rows
    assert row[0] == ref.id
    (thing,) = run("wait", ref.id, "--json").things
    assert (thing["ref"], thing["status"]) == (ref.short, "completed")
    assert "no" in run("wait", "no-such-id", code=78).err


def test_recover_says_what_failed(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    service.plan(Plan(end="failed", reason="no light"), Plan())
    submit(service, environment, V2, "one", "two")
    ran = run("recover", "--json", code=1)
    assert sorted(thing["status"] for thing in ran.things) == ["completed", "failed"]
    assert "failed: no light. It was not charged." in ran.err


def test_recover_waits_no_longer_than_it_is_told(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("proxy")
    service.plan(Plan(queued=1_000_000))
    (ref,) = submit(service, environment, PROXY, "one")
    ran = run("recover", "--timeout", "0.05", "--json", code=4)
    (thing,) = ran.things
    assert (thing["state"], thing["charged"]) == ("submitted", "unknown")
    assert f"higgsfield-async wait {ref.short}" in ran.err


def test_recover_says_what_cannot_be_saved(
    run: Run, use: Use, service: Sandbox, environment: Path, tmp_path: Path
) -> None:
    use("proxy")
    submit(service, environment, PROXY, "one")
    (tmp_path / "file").write_text("no folder")
    ran = run("recover", "-o", str(tmp_path / "file"), "--json", code=74)
    assert ran.things[0]["status"] == "completed"
    assert ran.err.count("Error: ") == 1


def test_recover_sends_again_what_cannot_be_paid_twice(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("platform")
    service.script("submit", Fault.reset(accept=True))
    with contextlib.suppress(SubmissionUnknown):
        submit(service, environment, V2, "one")
    assert len(service.generations) == 1
    (row,) = run("recover").rows  # without a folder, nothing is saved
    assert row == [*service.generations, "completed"]


def test_recover_says_what_to_do_about_the_unknown(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("proxy")
    lose(service, environment, "order 17")
    ran = run("recover", code=3)
    assert ran.rows == [["-", "unknown", "order 17"]]
    assert "higgsfield-async resolve 'order 17' ID" in ran.err
    assert "higgsfield-async forget 'order 17'" in ran.err
    assert run("recover", "--json", code=3).things[0]["state"] == "unknown"


def test_an_unknown_submit_is_resolved(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("proxy")
    lose(service, environment, "order 17")
    (identifier,) = service.generations
    assert "Error: " in run("resolve", "order 17", "no-such-id", code=2).err
    assert "order 18" in run("resolve", "order 18", identifier, code=74).err
    (thing,) = run("resolve", "order 17", identifier, "--json").things
    assert (thing["id"], thing["key"]) == (identifier, "order 17")
    assert thing["state"] in ("submitted", "ended")
    assert run("recover").out in ("", f"{identifier}\tcompleted\n")
    assert run("tasks", "--ended").rows[0][0] == identifier


def test_forgetting_wants_a_yes(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("proxy")
    lose(service, environment, "order 17", accept=False)
    ran = run("forget", "order 17", code=2)
    assert "--yes" in ran.err
    assert len(run("tasks").rows) == 1
    assert run("forget", "order 17", "--yes", "--json").things[0]["state"] == "unknown"
    assert run("tasks").out == ""
    assert "Error: " in run("forget", "order 17", "-y", code=74).err


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
@pytest.mark.parametrize(("answer", "code", "left"), [("yes", 0, 0), ("n", 1, 1), ("", 1, 1)])
def test_forgetting_asks(
    use: Use, service: Sandbox, environment: Path, answer: str, code: int, left: int, run: Run
) -> None:
    use("proxy")
    lose(service, environment, "order 17")
    child = pexpect.spawn(PROGRAM[0], [*PROGRAM[1:], "forget", "order 17"], timeout=20, encoding="utf-8")
    child.expect_exact("Forget order 17? If it was accepted, the same key is paid for once more. [y/N] ")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    assert len(run("tasks").rows) == left


def heed_interrupts() -> None:
    """What was started in the background ignores them, and hands that on to what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_the_question_is_left_with_ctrl_c(use: Use, service: Sandbox, environment: Path, run: Run) -> None:
    use("proxy")
    lose(service, environment, "order 17")
    child = pexpect.spawn(
        PROGRAM[0],
        [*PROGRAM[1:], "forget", "order 17"],
        timeout=20,
        encoding="utf-8",
        preexec_fn=heed_interrupts,
    )
    child.expect_exact("[y/N] ")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert len(run("tasks").rows) == 1


def test_a_journal_of_a_newer_version_is_refused(run: Run, service: Sandbox, environment: Path) -> None:
    submit(service, environment, PROXY, "one")
    with contextlib.closing(sqlite3.connect(environment)) as connection:
        connection.execute("pragma user_version = 999")
    assert "newer" in run("tasks", code=74).err
