"""Journals: where paid work is written down before it is paid for.

`Higgsfield(..., journal="generations.db")` is a `SQLiteJournal` with that path. Any other `Journal` does as well.
"""

from __future__ import annotations

from higgsfield_async._journal import Entry, Intent, Journal, State
from higgsfield_async._sqlite import SQLiteJournal

__all__ = ["Entry", "Intent", "Journal", "SQLiteJournal", "State"]
