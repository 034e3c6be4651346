"""The doctor: what is set up, and what is wrong with it, in words."""

from __future__ import annotations

import contextlib
import importlib.metadata
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import Ran, Run, lose, submit

from higgsfield_async.cli import _doctor as doctor
from higgsfield_async.sandbox import Fault, Sandbox
from postgres import PASSWORD, Postgres
from surfaces import PROXY

Use = Callable[[str], None]


def said(ran: Ran) -> dict[str, tuple[str, str]]:
    """The state and the words of each line, by its name."""
    found: dict[str, tuple[str, str]] = {}
    for line in ran.out.splitlines():
        state, name, words = line.split(maxsplit=2)
        found[name] = (state, words)
    return found


@pytest.mark.parametrize("which", ["proxy", "platform"])
def test_all_is_well(run: Run, use: Use, service: Sandbox, environment: Path, which: str) -> None:
    use(which)
    submit(service, environment, PROXY, "one")
    before = len(service.received)
    ran = run("doctor")
    told = said(ran)
    assert [*told] == ["packages", "key", "service", "account", "clock", "media", "journal"]
    assert {state for state, _ in told.values()} == {"ok"}
    assert "aiohttp 3." in told["packages"][1]
    assert f"127.0.0.1:{service.media_url.rpartition(':')[2]}" in told["media"][1]
    assert "open in it: 1." in told["journal"][1]
    # One request, which is free.
    assert len(service.received) == before + 1
    assert len(service.generations) == 1
    for secret in (service.proxy_key, service.key_id, service.key_secret):
        assert secret not in ran.out + ran.err
    things = run("doctor", "--json").things
    assert [(thing["state"], thing["name"]) for thing in things] == [("ok", name) for name in told]


def test_packages_that_are_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "higgsfield_async-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: higgsfield-async\nVersion: 1\nProvides-Extra: cli\nProvides-Extra: other\n"
        "Requires-Dist: aiohttp<4,>=3.14\nRequires-Dist: cyclopts<6; extra == 'cli'\n"
        "Requires-Dist: no-such-package>=1; extra == 'other'\n"
    )
    said = doctor.packages(importlib.metadata.PathDistribution(folder)).said
    assert f"aiohttp {importlib.metadata.version('aiohttp')}. Extras: cli; not there: other." in said


def test_there_is_no_key(run: Run) -> None:
    told = said(run("doctor", code=78))
    assert [*told] == ["packages", "key", "journal"]
    assert told["key"][0] == "wrong"
    assert "HF_KEY" in told["key"][1]
    assert told["journal"][1].startswith("None yet; it will be ")


def test_both_keys_are_looked_at(run: Run, use: Use) -> None:
    use("proxy")
    use("platform")
    ran = run("doctor")
    assert "warn  key       There are keys for both services" in ran.out
    assert [line.split()[1] for line in ran.out.splitlines()].count("account") == 2
    assert "keys for both" not in run("doctor", "--service", "proxy").out


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HF_KEY": "hf_topsecret"}, "must be “id:secret”"),
        ({"HF_API_KEY": "id-topsecret"}, "HF_API_SECRET is not"),
        ({"HF_KEY": "id:sec ret topsecret"}, "visible ASCII"),
        ({"HIGGSFIELD_PROXY_KEY": "topsecret"}, "must hold a “-”"),
        ({"HF_KEY": "id:topsecret", "HIGGSFIELD_BASE_URL": "https://user:pass@x.example"}, "neither a user"),
    ],
)
def test_a_key_is_malformed(
    run: Run, service: Sandbox, variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSFIELD_PROXY_BASE_URL", service.proxy_url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = run("doctor", "--debug", code=78)
    assert said(ran)["key"][0] == "wrong"
    assert words in said(ran)["key"][1]
    assert "topsecret" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("which", "name", "key"),
    [("proxy", "HIGGSFIELD_PROXY_KEY", "hk-topsecret"), ("platform", "HF_KEY", "id:topsecret")],
)
def test_a_key_is_refused(run: Run, use: Use, which: str, name: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(which)
    monkeypatch.setenv(name, key)
    ran = run("doctor", "--debug", code=77)
    assert said(ran)["account"][0] == "wrong"
    assert said(ran)["account"][1].startswith("The key is refused: ")
    # The clock is known all the same; what the answer would have named is not.
    assert said(ran)["clock"][0] == "ok"
    assert "media" not in said(ran)
    assert "topsecret" not in ran.out + ran.err


def test_the_points_are_used_up(run: Run, use: Use, service: Sandbox) -> None:
    use("proxy")
    body = '{"error":{"message":"Insufficient points, please recharge 积分不足，请充值","type":"openai_hk_error"}}'
    service.script("catalogue", Fault.answer(428, body.encode()))
    assert said(run("doctor", code=77))["account"][1].startswith("The key is right, and the service refuses it this: ")


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.html(502), 75), (Fault.ok_html(), 69), (Fault.reset(), 69)],
    ids=["a gateway's page", "a portal's page", "no answer"],
)
def test_the_service_answers_otherwise(run: Run, use: Use, service: Sandbox, fault: Fault, code: int) -> None:
    use("platform")
    service.script("upload", fault)
    told = said(run("doctor", code=code))
    assert told["account"][1].startswith("The service does not answer as it should: ")
    assert ("clock" in told) is (fault.cut == "")


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (20, "ok", "half minute"),
        (-100, "warn", "seconds ahead of the service's: set it right (NTP)."),
        (100, "warn", "seconds behind the service's: set it right (NTP)."),
        (4000, "warn", "Signed webhooks are refused"),
        (None, "warn", "says no time"),
    ],
)
def test_the_clock(run: Run, use: Use, service: Sandbox, ahead: int | None, state: str, words: str) -> None:
    use("proxy")
    date = "now" if ahead is None else format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    service.script("catalogue", Fault.answer(200, b"[]", {"Date": date, "Content-Type": "application/json"}))
    told = said(run("doctor"))
    assert told["clock"][0] == state
    assert words in told["clock"][1]
    assert "media" not in told  # an empty catalogue names no host


def test_a_host_that_is_not_found(run: Run, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("platform")
    monkeypatch.setenv("HIGGSFIELD_BASE_URL", "https://nowhere.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy.example")
    told = said(run("doctor", code=69))
    assert told["service"][1].startswith("The name nowhere.invalid is not found (")
    assert "HTTPS_PROXY is not used" in told["service"][1]
    assert "account" not in told


def test_a_host_that_takes_no_connection(run: Run, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("platform")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HIGGSFIELD_BASE_URL", f"http://127.0.0.1:{port}")
    words = said(run("doctor", code=69))["service"][1]
    assert words.startswith(f"127.0.0.1:{port} takes no connection (")
    assert "is HIGGSFIELD_BASE_URL" in words


def test_the_storage_is_away(run: Run, use: Use, service: Sandbox) -> None:
    use("platform")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    grant = {"public_url": "https://x.example/1", "upload_url": f"http://127.0.0.1:{port}/1?signature=topsecret"}
    service.script("upload", Fault.answer(200, msgspec.json.encode(grant), {"Content-Type": "application/json"}))
    ran = run("doctor", code=69)
    assert said(ran)["media"] == (
        "wrong",
        f"127.0.0.1:{port} takes no connection (Connection refused): is there a network, and a firewall?",
    )
    assert "topsecret" not in ran.out + ran.err


def test_without_tls_the_key_is_seen(run: Run, use: Use, service: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    use("platform")
    # Not inside, by its name; and by the test's own table of names, on loopback.
    port = service.platform_url.rpartition(":")[2]
    look_up = socket.getaddrinfo

    def table(host: str, *rest: Any, **more: Any) -> Any:
        return look_up("127.0.0.1" if host == "api.example.com" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", table)
    monkeypatch.setenv("HIGGSFIELD_BASE_URL", f"http://api.example.com:{port}")
    state, words = said(run("doctor"))["service"]
    assert state == "warn"
    assert "without TLS: whoever is between sees the key" in words


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server that does one thing with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_a_certificate_is_looked_at(
    run: Run, use: Use, certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    use("platform")
    path, context = certificate
    with listening(lambda connection: context.wrap_socket(connection, server_side=True).close()) as port:
        monkeypatch.setenv("HIGGSFIELD_BASE_URL", f"https://localhost:{port}")
        words = said(run("doctor", code=69))["service"][1]
        assert words.startswith(f"The certificate of localhost:{port} is not to be trusted: self-signed")
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        state, words = said(run("doctor", code=69))["service"]
    assert state == "ok"
    assert "with TLSv1.3 and a certificate to be trusted." in words


def test_what_speaks_no_tls(run: Run, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("platform")
    with listening(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        monkeypatch.setenv("HIGGSFIELD_BASE_URL", f"https://127.0.0.1:{port}")
        assert "speaks no TLS that is understood here" in said(run("doctor", code=69))["service"][1]


def test_what_is_silent(run: Run, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("platform")
    monkeypatch.setattr(doctor, "PATIENCE", 0.1)
    with listening(lambda connection: connection.recv(1 << 16) and connection.recv(1)) as port:
        monkeypatch.setenv("HIGGSFIELD_BASE_URL", f"https://127.0.0.1:{port}")
        assert f"127.0.0.1:{port} is silent for 0.1 seconds" in said(run("doctor", code=69))["service"][1]


def test_the_journal_has_what_nobody_can_tell_of(run: Run, use: Use, service: Sandbox, environment: Path) -> None:
    use("proxy")
    lose(service, environment, "one")
    state, words = said(run("doctor"))["journal"]
    assert state == "warn"
    assert "of 1 nobody can tell" in words
    Path(f"{environment}.spill-0123").write_text("{}")
    assert "1 ids lie beside" in said(run("doctor"))["journal"][1]


def test_the_journal_is_none(run: Run, use: Use, environment: Path) -> None:
    use("proxy")
    environment.write_text("something else")
    state, words = said(run("doctor", code=74))["journal"]
    assert state == "wrong"
    assert str(environment) in words


def test_there_is_no_folder_for_the_journal(run: Run, use: Use, tmp_path: Path) -> None:
    use("proxy")
    told = said(run("doctor", "--journal", str(tmp_path / "no" / "such" / "j.db"), code=78))
    assert told["journal"][1].startswith(f"None can be made in {tmp_path / 'no' / 'such'}")


def test_the_disk_is_nearly_full(run: Run, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("proxy")
    monkeypatch.setattr(doctor, "FEW", 1 << 60)
    state, words = said(run("doctor"))["journal"]
    assert state == "warn"
    assert "That is little" in words


def test_a_cluster_needs_no_key(
    run: Run, cluster_dsn: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", cluster_dsn)
    ran = run("doctor")
    told = said(ran)
    assert [*told] == ["packages", "database", "key"]
    assert told["database"][0] == "warn"
    assert "no worker is alive" in told["database"][1]
    assert told["key"][1].startswith("None here, and none is needed")
    assert PASSWORD not in ran.out + ran.err


def test_a_cluster_has_a_key_as_well(run: Run, use: Use, cluster_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use("platform")
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", cluster_dsn)
    assert [*said(run("doctor"))] == ["packages", "database", "key", "service", "account", "clock", "media"]
    assert "database" not in said(run("doctor", "--service", "platform"))


def test_a_database_without_tables_is_left_as_it_is(
    run: Run, dsn: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", dsn)
    assert "has no tables yet" in said(run("doctor"))["database"][1]
    query = "select count(*) from pg_namespace where nspname = 'higgsfield'"
    assert postgres.execute(dsn.rpartition("/")[2], query) == [(0,)]


@pytest.mark.parametrize(
    ("dsn", "code", "words"),
    [
        ("postgresql://tester:topsecret@127.0.0.1:1/none", 69, "cannot be reached"),
        ("mysql://tester:topsecret@127.0.0.1/none", 78, "postgresql://user:password@host:port/database"),
    ],
)
def test_a_database_is_away_or_none(run: Run, dsn: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", dsn)
    ran = run("doctor", "--debug", code=code)
    assert words in said(ran)["database"][1]
    assert "topsecret" not in ran.out + ran.err
