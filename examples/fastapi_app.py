"""A whole application: what it costs, submit, look, watch, cancel, and webhooks, as JSON and server-sent events.

pip install 'higgsfield-async[fastapi]' uvicorn
uvicorn --app-dir examples fastapi_app:app          its documentation is at /docs

curl -i localhost:8000/generations/keyframes -H 'Content-Type: application/json' -d '{"prompt": "A paper boat"}'
curl -N localhost:8000/generations/REF/events
"""

from fastapi import FastAPI

from higgsfield_async import Higgsfield
from higgsfield_async.fastapi import generations_router, lifespan

app = FastAPI(lifespan=lifespan(lambda: Higgsfield.from_env(service="platform")))
app.include_router(generations_router(), prefix="/generations")
