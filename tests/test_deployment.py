"""What examples/cluster/ and docs/how-to/machines.md say of running a cluster is so."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
import psycopg
import pytest

from higgsfield_async import JobStatus
from higgsfield_async.cluster import Cluster
from higgsfield_async.sandbox import Sandbox
from surfaces import V2

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "cluster"
UNIT = FOLDER / "higgsfield-worker.service"
PAGE = ROOT / "docs" / "how-to" / "machines.md"
POSIX = pytest.mark.skipif(os.name != "posix", reason="a Unix's ways")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """What a file may have; anything else in it is a mistake."""


class Health(Strict, kw_only=True):
    test: tuple[Literal["CMD-SHELL"], str]
    interval: str
    timeout: str
    retries: int


class Condition(Strict, kw_only=True):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]


class Service(Strict, kw_only=True):
    """What is used of https://github.com/compose-spec/compose-spec/blob/main/05-services.md."""

    image: str | None = None
    build: str | None = None
    restart: Literal["no", "always", "on-failure", "unless-stopped"]
    env_file: str
    command: list[str] = []
    volumes: list[str] = []
    healthcheck: Health | None = None
    depends_on: dict[str, Condition] = {}
    stop_grace_period: str


class Compose(Strict, kw_only=True):
    services: dict[str, Service]
    volumes: dict[str, None]


def compose() -> Compose:
    return msgspec.yaml.decode((FOLDER / "compose.yaml").read_bytes(), type=Compose)


def variables(name: str) -> dict[str, str]:
    """Of a file of settings: NAME=value."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def unit() -> configparser.ConfigParser:
    # systemd's format is that of an .ini, but for the names, whose case counts; one that stands twice is an error here.
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation has it
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def started_by_systemd() -> list[str]:
    python, *words = shlex.split(unit()["Service"]["ExecStart"])
    assert python.endswith("/bin/python")
    return words


def started_by_compose() -> list[str]:
    [entrypoint] = re.findall(r"^ENTRYPOINT (.*)$", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    python, *words = msgspec.json.decode(entrypoint, type=list[str])
    assert python == "python"
    return [*words, *compose().services["worker"].command]


def test_what_compose_is_told() -> None:
    told = compose()
    postgres, worker = told.services["postgres"], told.services["worker"]
    assert worker.depends_on.keys() <= told.services.keys()
    assert postgres.healthcheck is not None
    assert worker.build is not None
    assert (FOLDER / worker.build / "Dockerfile").is_file()
    assert {volume.partition(":")[0] for volume in postgres.volumes + worker.volumes} == told.volumes.keys()
    # What is spilled outlives the container.
    [state] = re.findall(
        r"^ENV XDG_STATE_HOME=(.*)$", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert f"state:{state}" in worker.volumes
    database, its_worker = (variables(f"{service.env_file}.example") for service in (postgres, worker))
    # The database sees no key of the account's, and the worker's address leads to it.
    assert database.keys() == {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
    assert its_worker.keys() == {"HF_KEY", "HIGGSFIELD_DATABASE_URL"}
    address = psycopg.conninfo.conninfo_to_dict(its_worker["HIGGSFIELD_DATABASE_URL"])
    assert (address["host"], address["user"], address["dbname"], address["password"]) == (
        "postgres",
        database["POSTGRES_USER"],
        database["POSTGRES_DB"],
        database["POSTGRES_PASSWORD"],
    )


def test_what_systemd_is_told() -> None:
    assert unit().sections() == ["Unit", "Service", "Install"]
    service = unit()["Service"]
    assert service["Environment"] == f"XDG_STATE_HOME=/var/lib/{service['StateDirectory']}"
    assert started_by_systemd() == started_by_compose()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_what_systemd_says_of_it(tmp_path: Path) -> None:
    # It wants the program to be there.
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/higgsfield/bin/python", sys.executable))
    said = subprocess.run(
        [str(shutil.which("systemd-analyze")), "verify", copy], capture_output=True, text=True, timeout=25, check=False
    )
    assert (said.returncode, said.stderr) == (0, "")


@POSIX
@pytest.mark.once
async def test_a_worker_as_it_is_deployed(sandbox: Sandbox, dsn: str, tmp_path: Path) -> None:
    words = started_by_systemd()
    account = words[words.index("--account") + 1]
    settings = {"HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}", "HIGGSFIELD_DATABASE_URL": dsn}
    assert settings.keys() == variables("worker.env.example").keys()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HIGGSFIELD_"))}
    with (tmp_path / "log").open("wb") as log:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            cwd=tmp_path,
            env=env | settings | {"HIGGSFIELD_BASE_URL": sandbox.platform_url},
            stderr=log,
        )
    try:
        async with Cluster(dsn, account=account) as hf:
            task = await hf.submit(V2.request, key="order-17")
            waiting = asyncio.create_task(task.wait())
            ending = asyncio.create_task(worker.wait())
            await asyncio.wait([waiting, ending], return_when=asyncio.FIRST_COMPLETED)
            assert waiting.done(), (tmp_path / "log").read_text()
            assert waiting.result().status is JobStatus.COMPLETED
            assert len(sandbox.generations) == 1
            queries = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                counts = [len(await (await connection.execute(query)).fetchall()) for query in queries]
            # Nothing is unknown, under way or waiting; there is one worker.
            assert counts == [0, 0, 1, 0]
        worker.send_signal(signal.SIGTERM)
        assert await ending == 0, (tmp_path / "log").read_text()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
