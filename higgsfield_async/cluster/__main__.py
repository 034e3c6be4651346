"""A worker as a program: `python -m higgsfield_async.cluster worker`.

The database stands in `HIGGSFIELD_DATABASE_URL`, the account's key where `Higgsfield.from_env` looks for it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import cast

from higgsfield_async._errors import ConfigurationError, HiggsfieldError
from higgsfield_async._transports import Service, transport_from
from higgsfield_async.cluster import Cluster

# What a supervisor starts again: EX_TEMPFAIL of sysexits.h. What is set up wrongly will not be better then: EX_CONFIG.
AGAIN, WRONG = 75, 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker until it is told to end, and says how it ended: 0 in order, 75 to be started again, 78 never."""
    parser = argparse.ArgumentParser(
        prog="python -m higgsfield_async.cluster",
        description="Work for a cluster: the database's address is read from HIGGSFIELD_DATABASE_URL.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="submit what is queued, and look after it")
    worker.add_argument("--account", default="default", help="the name of the account that the key is of")
    worker.add_argument("--service", choices=("proxy", "platform"), help="where the environment has keys for both")
    worker.add_argument("--max-active", type=int, help="generations that may be open at once, over all workers")
    worker.add_argument("--submits-per-second", type=float, help="generations that may be begun in a second")
    worker.add_argument("--log-level", default="INFO", help="what is logged to the standard error output: INFO")
    given = parser.parse_args(arguments)
    logging.basicConfig(
        level=given.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        cluster = Cluster(
            _database(),
            account=given.account,
            max_active=given.max_active,
            submits_per_second=given.submits_per_second,
        )
        transport = transport_from(os.environ, cast("Service | None", given.service))
        asyncio.run(cluster.run_worker(transport))
    except ConfigurationError as error:
        logging.getLogger("higgsfield_async.cluster").critical("%s", error)
        return WRONG
    except HiggsfieldError as error:
        logging.getLogger("higgsfield_async.cluster").critical("%s", error)
        return AGAIN
    return 0


def _database() -> str:
    found = os.environ.get("HIGGSFIELD_DATABASE_URL")
    if not found:
        msg = "HIGGSFIELD_DATABASE_URL is not set: it holds the address of the cluster's Postgres, postgresql://…."
        raise ConfigurationError(msg)
    return found


if __name__ == "__main__":
    sys.exit(main())
