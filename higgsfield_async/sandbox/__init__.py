"""A Higgsfield of your own on 127.0.0.1: for trying things out, for tests, and for finding out what can go wrong.

    from higgsfield_async.sandbox import Sandbox

    async with Sandbox() as sandbox:
        ...  # sandbox.proxy_url, sandbox.platform_url

It is a real HTTP server that charges, refuses and forgets to answer as the services do, and whose results are files
that play. ``python -m higgsfield_async.sandbox`` runs it as a process.
"""

from ._exchange import Received
from ._faults import Fault
from ._server import Sandbox
from ._state import Generation, Hook, Plan
from ._webhooks import Delivery

__all__ = ["Delivery", "Fault", "Generation", "Hook", "Plan", "Received", "Sandbox"]

for _class in (Generation, Sandbox):
    # Documentation shows where the names are imported from. Not so the structs: msgspec reads their annotations in the
    # module that they name.
    _class.__module__ = __name__
