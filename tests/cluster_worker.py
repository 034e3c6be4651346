"""A worker as a program of the tests' own: as `python -m higgsfield_async.cluster worker`, and in more of a hurry."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from higgsfield_async import HiggsfieldError, Limits, PlatformTransport, PollPolicy, ProxyTransport, RetryPolicy
from higgsfield_async.cluster import Cluster

if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    services = {"platform": PlatformTransport, "proxy": ProxyTransport}
    cluster = Cluster(settings["dsn"], **settings["cluster"])
    try:
        asyncio.run(
            cluster.run_worker(
                {name: services[service](*key) for name, (service, key) in settings["accounts"].items()},
                poll=PollPolicy.fixed(settings["poll"]),
                retry=RetryPolicy(first=0.01, longest=0.1),
                limits=Limits(connect=5, first_byte=20, read=5),
            )
        )
    except HiggsfieldError as error:
        logging.getLogger("worker").critical("%s", error)
        sys.exit(75)
