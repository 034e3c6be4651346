"""How a cluster's database is, as far as it can be seen without changing anything in it."""

from __future__ import annotations

import psycopg
from msgspec import Struct

from higgsfield_async.cluster._database import LOCKS, checked_dsn, origin_of, trouble


class Health(Struct, frozen=True, kw_only=True):
    """What was seen.

    Attributes:
        origin: The address, as it may be shown.
        server: The version of the server.
        begun: Whether it has a cluster's tables.
        workers: How many workers are alive, of any account.
        unknown: Of how many submits of the account nobody can tell whether they were accepted.
    """

    origin: str
    server: str
    begun: bool
    workers: int = 0
    unknown: int = 0


_BEGUN = "select to_regclass('higgsfield.workers') is not null and to_regclass('higgsfield.journal') is not null"
# Who holds the lock of its number is alive.
_ALIVE = """
    select (
        select count(*) from higgsfield.workers w
        where w.ended_at is null and exists (
            select from pg_locks l
            where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.classid = %s::bigint::oid
                and l.objid = w.number::bigint::oid
                and l.database = (select d.oid from pg_database d where d.datname = current_database())
        )
    ), (
        select count(*) from higgsfield.journal where space = %s and state = 'unknown'
    )
"""


async def health(dsn: str, account: str) -> Health:
    """Looks at the database of a cluster.

    Raises:
        ConfigurationError: The address is none.
        JournalError: It cannot be reached, or refuses to be looked at.
    """
    address = checked_dsn(dsn)
    try:
        connecting = psycopg.AsyncConnection.connect(address, connect_timeout=5, application_name="higgsfield_async")
        async with await connecting as connection:
            found = await connection.execute(_BEGUN)
            begun = await found.fetchone() == (True,)
            row = await (await connection.execute(_ALIVE, (LOCKS, account))).fetchone() if begun else None
            version = connection.info.server_version
    except psycopg.Error as error:
        told = trouble(error)
        assert told is not None  # noqa: S101  # it is one of the database's
        raise told from None
    workers, unknown = (0, 0) if row is None else row
    return Health(
        origin=origin_of(address), server=f"{version // 10000}", begun=begun, workers=workers, unknown=unknown
    )
