"""The command line: `higgsfield-async`, or `python -m higgsfield_async.cli`.

It needs the extra `cli`: `pip install 'higgsfield-async[cli]'`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Without arguments, those of the process."""
    try:
        from higgsfield_async.cli._app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "higgsfield_async":
            raise
        message = f"The command line needs what is missing ({error.name}): pip install 'higgsfield-async[cli]'."
        print(message, file=sys.stderr)
        return 78
    return run(sys.argv[1:] if arguments is None else arguments)
