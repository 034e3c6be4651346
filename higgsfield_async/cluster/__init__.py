"""Many machines, with a Postgres between them: `Cluster`, and the journal that it stands on.

It needs the extra `cluster`: `pip install 'higgsfield-async[cluster]'`.
"""

from __future__ import annotations

try:
    from higgsfield_async.cluster._cluster import Cluster
    from higgsfield_async.cluster._journal import PostgresJournal
except ImportError as error:
    from higgsfield_async._errors import ConfigurationError

    message = f"Many machines need what is missing ({error.name}): pip install 'higgsfield-async[cluster]'."
    raise ConfigurationError(message) from error

__all__ = ["Cluster", "PostgresJournal"]
