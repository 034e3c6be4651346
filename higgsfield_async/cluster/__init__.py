"""Many machines, with a Postgres between them: `Cluster`, and the journal that it stands on."""

from __future__ import annotations

from higgsfield_async.cluster._cluster import Cluster
from higgsfield_async.cluster._journal import PostgresJournal

__all__ = ["Cluster", "PostgresJournal"]
