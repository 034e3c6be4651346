"""What every command takes, and the client that it describes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from platformdirs import user_state_path

from higgsfield_async._addresses import is_inside
from higgsfield_async._budget import Budget
from higgsfield_async._client import Higgsfield
from higgsfield_async._errors import ConfigurationError
from higgsfield_async._transports import Service


@Parameter(name="*", group=Group("Common options", sort_key=100))
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    json: Annotated[bool, Parameter(show_default=False)] = False
    """Print JSON to the standard output, a line for each thing, and nothing else there."""

    service: Service | None = None
    """The service, where the environment holds keys for both; with a database in it, past the cluster."""

    account: str = "default"
    """The account of the cluster, where HIGGSFIELD_DATABASE_URL names its database."""

    journal: Path | None = None
    """The journal's file; without it, HIGGSFIELD_JOURNAL names one, or it is in your own folder for such things."""

    debug: Annotated[bool, Parameter(show_default=False)] = False
    """Log what goes on to the standard error output, and show where an error came from."""


def journal_path(options: Options) -> Path:
    """Where the journal of the command line lies. Its folder is made, for this user alone, where it is ours."""
    if options.journal is not None:
        return options.journal
    if named := os.environ.get("HIGGSFIELD_JOURNAL"):
        return Path(named)
    folder = user_state_path("higgsfield-async")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"No journal can be kept in {folder} ({error.strerror}): name another file with --journal."
        raise ConfigurationError(msg) from None
    return folder / "journal.db"


def database_url(options: Options) -> str | None:
    """The database of the cluster that a command works on; None where it works on a service itself."""
    return os.environ.get("HIGGSFIELD_DATABASE_URL") or None if options.service is None else None


def client(options: Options, *, budget: Budget | None = None, journal: bool = True) -> Higgsfield:
    """The client that the options and the environment describe: of a cluster, or of a service itself.

    Args:
        options: What the command was given.
        budget: What everything that it submits may cost.
        journal: Whether it writes down what it pays for; a command that submits nothing need not.

    Raises:
        ConfigurationError: There is no key, half a key, or there are two; or a cluster cannot do what is asked.
    """
    if (database := database_url(options)) is not None:
        # Its packages come with the extra `cluster`.
        from higgsfield_async.cluster import Cluster

        if budget is not None:
            msg = "A cluster keeps no budget: leave --budget out, or name the service with --service."
            raise ConfigurationError(msg)
        return Cluster(database, account=options.account, allow_private=_is_sandbox())
    return Higgsfield.from_env(
        service=options.service, budget=budget, journal=journal_path(options) if journal else None
    )


def _is_sandbox() -> bool:
    """Whether the service that the environment names is on this machine: a cluster does not say where its own is."""
    named = (os.environ.get(name) for name in ("HIGGSFIELD_BASE_URL", "HIGGSFIELD_PROXY_BASE_URL"))
    return any(url is not None and is_inside(url) for url in named)
