"""Routes that take a request strictly: its body is JSON and says so, its parameters are known.

A body is taken apart off the event loop, if it is large, and one at a time: Python would let all
of them share one processor, and the loop would have to wait for each.

Each route has a few threads of its own. While the store does not answer, those who wait for it take
none from the page's files, or from other routes.

What the fields mean is in models.py.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.datastructures import QueryParams

from final.service.problems import Problem, cut, invalid
from final.service.strict import parse

REPEATABLE = {"meta"}  # parameters that may be given several times
THREADS = 8  # of a route; the requests behind them wait for a thread
SMALL_BODY = 8 * 1024  # bytes that are taken apart in less time than a thread takes to hear of it

_parser = ThreadPoolExecutor(1, "final-parser")


class AnyText(PathConvertor):
    """``:text`` in a path. An id may have line ends: ``:path`` takes "a\\n" for "a"."""

    regex = r"[\s\S]*"


register_url_convertor("text", AnyText())


class StrictRequest(Request):
    """A request whose body is strict JSON."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            if len(body) <= SMALL_BODY:
                return parse(body)
            return await asyncio.get_running_loop().run_in_executor(_parser, parse, body)
        except ValueError as error:
            raise Problem("json", str(error)) from None


class StrictRoute(APIRoute):
    """A route that reads its requests so. A plain function runs in a thread."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            endpoint = _in_threads(endpoint)
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        parameters = {field.alias for field in self.dependant.query_params}

        async def strict(request: Request) -> Response:
            if wrong := _wrong_parameters(request.query_params, parameters):
                raise invalid(*wrong)
            if self.body_field is not None:
                _require_json(request)
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def _in_threads(call: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    limiter = CapacityLimiter(THREADS)

    @functools.wraps(call)
    async def in_a_thread(**arguments: Any) -> Any:
        return await to_thread.run_sync(functools.partial(call, **arguments), limiter=limiter)

    return in_a_thread


def _wrong_parameters(given: QueryParams, known: Collection[str]) -> list[tuple[str, str]]:
    """Each with what is wrong: nobody knows it, or it is there twice, and which one counts?"""
    no_such = f"No such parameter; there are: {', '.join(sorted(known)) or 'none'}."
    unknown = [(name, no_such) for name in given if name not in known]
    once = [name for name in given if name in known and name not in REPEATABLE]
    twice = [(name, "Give it once.") for name in once if len(given.getlist(name)) > 1]
    return unknown + twice


def _require_json(request: Request) -> None:
    """Also because a page of another site may send all other types without being asked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        what = f"not {cut(kind)!r}" if kind else "which is missing"
        raise Problem("media-type", f"Content-Type must be application/json, {what}.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem("media-type", "Send the body as it is, without a Content-Encoding.")
