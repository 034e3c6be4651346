"""Submit and watch, in aiohttp.web.

cd examples; python -m aiohttp.web -H 127.0.0.1 -P 8000 aiohttp_app:application
"""

from aiohttp import web

from higgsfield_async import Higgsfield, Keyframes, sse

CLIENT = web.AppKey("client", Higgsfield)


async def close(app: web.Application) -> None:
    await app[CLIENT].close()  # streams that are open end, and do not hold the server up


async def submit(request: web.Request) -> web.Response:
    task = await request.app[CLIENT].submit(Keyframes(prompt=(await request.json())["prompt"]))
    return web.json_response({"events": f"/events/{task.ref.short}"}, status=202)


async def events(request: web.Request) -> web.StreamResponse:
    last = request.headers.get("Last-Event-ID", "")
    if sse.is_over(last):
        return web.Response(status=204)  # tells a browser not to come again
    response = web.StreamResponse(headers=sse.HEADERS)
    await response.prepare(request)
    async for chunk in sse.events(request.app[CLIENT].task(request.match_info["ref"]), last_event_id=last):
        await response.write(chunk)
    return response


def application(_arguments: list[str]) -> web.Application:
    app = web.Application()
    app[CLIENT] = Higgsfield.from_env(service="platform")
    app.add_routes([web.post("/", submit), web.get("/events/{ref}", events)])
    app.on_shutdown.append(close)
    return app
