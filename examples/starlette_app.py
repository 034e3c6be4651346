"""Submit and watch, in Starlette.

pip install higgsfield-async starlette uvicorn
uvicorn --app-dir examples --timeout-graceful-shutdown 5 starlette_app:app
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from higgsfield_async import Higgsfield, Keyframes, sse


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with Higgsfield.from_env(service="platform") as app.state.higgsfield:
        yield


async def submit(request: Request) -> Response:
    task = await request.app.state.higgsfield.submit(Keyframes(prompt=(await request.json())["prompt"]))
    return JSONResponse({"events": f"/events/{task.ref.short}"}, status_code=202)


async def events(request: Request) -> Response:
    last = request.headers.get("last-event-id", "")
    if sse.is_over(last):
        return Response(status_code=204)  # tells a browser not to come again
    task = request.app.state.higgsfield.task(request.path_params["ref"])
    return StreamingResponse(sse.events(task, last_event_id=last), headers=dict(sse.HEADERS))


app = Starlette(routes=[Route("/", submit, methods=["POST"]), Route("/events/{ref}", events)], lifespan=lifespan)
