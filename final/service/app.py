"""The application: which address leads where. Read this first.

One request: its connection is one of a bounded number (connections.py); the guard (guard.py) lets
it in or not; its body is read strictly (routes.py, strict.py) and checked against a model
(models.py); an endpoint asks the queue (jobs.py) and answers with a model or a problem
(problems.py).

Opening the queue, listening and shutting down are in server.py.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Collection
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from final import Metrics, QueueClosed
from final.service import problems
from final.service.context import Service
from final.service.control import control_routes
from final.service.demo import demo_routes
from final.service.events import Broadcast, event_routes
from final.service.exposition import metrics_routes
from final.service.figures import Figures
from final.service.groups import group_routes
from final.service.guard import Guard
from final.service.jobs import job_routes
from final.service.many import many_routes
from final.service.models import SERVICE, Health, State
from final.service.periodic import periodic_routes
from final.service.problems import LARGEST_BODY, PROBLEMS, Problem
from final.service.stats import stats_routes

VERSION = "1.0.0"  # of the API
PAGE = Path(__file__).parent / "page"

API_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Job queue: the API</title>
<link rel="stylesheet" href="docs/files/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/files/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
API_SCRIPT = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui"});\n'


def create_app(
    service: Service,
    broadcast: Broadcast,
    *,
    token: str | None = None,
    names: Collection[str] = (),
) -> ASGIApp:
    """The service as an ASGI application; the caller closes its queue and its events.

    token: what every client must send, None for nothing. names: host names by which the
    service may be called, besides localhost.
    """
    app = FastAPI(
        title="Job queue",
        description="Create jobs, watch them run, retry those that failed.",
        version=VERSION,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=LARGEST_BODY,
    )
    problems.install(app, service.refused)
    figures = Figures(lambda: service.queue.metrics())
    of_all = Figures(lambda: service.queue.shared_figures())
    app.include_router(job_routes(service))
    app.include_router(control_routes(service))
    app.include_router(periodic_routes(service))
    app.include_router(group_routes(service))
    app.include_router(many_routes(service))
    app.include_router(stats_routes(service, figures, of_all))
    app.include_router(event_routes(broadcast))
    app.include_router(metrics_routes(service, figures, of_all))
    if service.demo:
        app.include_router(demo_routes(service))
    _add_probes(app, service, figures)
    _add_pages(app)
    return Guard(app, token, names, service)


def _add_probes(app: FastAPI, service: Service, figures: Figures[Metrics]) -> None:
    @app.get("/health", tags=["probes"])
    async def health() -> Health:
        """The process answers."""
        return Health(status="ok", service=SERVICE, version=VERSION)

    @app.get("/ready", tags=["probes"])
    async def ready() -> State:
        """It takes jobs: it is not stopping, its queue works, and the disk can be written."""
        service.refuse_jobs_while_stopping()
        try:
            metrics = await figures.lately()
        except QueueClosed:
            raise Problem(
                "failed", "The queue stopped on an internal error: see the log."
            ) from None
        if metrics.storage_error is not None:
            raise Problem("storage", "No job can be stored at the moment: see the log.")
        return State(status="ready")


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def dashboard() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def api_page() -> HTMLResponse:
        return HTMLResponse(API_PAGE)

    @app.get("/docs/start.js", include_in_schema=False)
    async def api_script() -> PlainTextResponse:
        return PlainTextResponse(API_SCRIPT, media_type="text/javascript")

    @app.get("/problems", include_in_schema=False)
    async def problem_types() -> PlainTextResponse:
        lines = [f"{name:12}  {status}  {title}" for name, (status, title) in PROBLEMS.items()]
        return PlainTextResponse("\n".join(lines) + "\n")

    app.mount("/static", StaticFiles(directory=PAGE))
    # fastapi-offline: the files of Swagger UI as a package, so that nothing is fetched.
    files = Path(str(importlib.resources.files("fastapi_offline"))) / "static"
    app.mount("/docs/files", StaticFiles(directory=files))
