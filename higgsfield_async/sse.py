"""Generations as server-sent events: plain bytes, for any web framework.

In Starlette::

    async def watch(request):
        last = request.headers.get("last-event-id", "")
        if sse.is_over(last):
            return Response(status_code=204)
        task = hf.task(request.path_params["ref"])
        return StreamingResponse(sse.events(task, last_event_id=last), headers=sse.HEADERS)

Each event is unnamed, as `EventSource.onmessage` takes it, and its data is a `GenerationState` in JSON. For FastAPI,
`higgsfield_async.fastapi` has all of this made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

from higgsfield_async._events import Events, GenerationState, JobState, is_over, state_of
from higgsfield_async._problems import Problem, problem_of
from higgsfield_async._task import GenerationTask

__all__ = ["HEADERS", "GenerationState", "JobState", "Problem", "events", "is_over", "problem_of", "state_of"]

HEADERS: Mapping[str, str] = MappingProxyType(
    # The last is for nginx, which otherwise collects what is streamed.
    {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
)
"""The headers of a stream of events."""


def events(*tasks: GenerationTask, last_event_id: str = "", heartbeat: float = 15.0) -> AsyncIterator[bytes]:
    """Iterates over the states of some generations, as server-sent events.

    First what is known of each, then each change, and its end last; the iteration ends when all have ended, or when the
    client is closed. It has no deadline. A generation that the service will not show is told as an event named
    `problem`, whose data is a `Problem`. A slow watcher sees the newest state and holds up nobody, and any number of
    watchers cost one poller. The iteration may be left at any time.

    Args:
        tasks: What to watch, all of one client.
        last_event_id: The request's `Last-Event-ID`: what a stream of the same tasks told before is not told again.
        heartbeat: Seconds after which a comment is sent when there was nothing to tell, so that nobody on the way takes
            the connection for dead, and one that is dead is noticed.

    Raises:
        ConfigurationError: There is no task, they are of several clients, or the heartbeat is not above 0.
    """
    return Events(tasks, last_event_id, heartbeat)
