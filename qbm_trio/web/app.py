"""The Quart-Trio application: routes, hooks and errors, all of them async.

A sync view or hook would cost a thread hop for each request. Quart is used to
render HTTP only: no start-up hooks, no background tasks, because those outlive
neither a crash nor a drain in a way one could rely on.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import cast

from quart import Response, g, request
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, RequestRedirect

from .backend import Backend
from .gate import Gate, header_map
from .messages import MAX_BODY_BYTES, ApiError, Call, Reply, plain_error
from .routes import ROUTES, Route, answer

View = Callable[..., Awaitable[Response]]


class App(QuartTrio):
    """QuartTrio that finds its routes by path alone."""

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Bind without the ``Host`` header: a strange one must not be a 500."""
        if request is None:
            return None
        return self.url_map.bind(
            "localhost",
            path_info=request.path,
            default_method=request.method,
            query_args=request.query_string.decode("latin-1"),
        )


def create_app(backend: Backend) -> QuartTrio:
    """The application that answers every call of `ROUTES` through ``backend``.

    How long a body may take to arrive is set by `serve`.
    """
    # No static files and no templates: both would add routes and start-up time.
    app = App("qbm_trio", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # a redirect would lose the body of a POST
    gate = Gate(backend.api_key)
    open_paths = frozenset(route.path for route in ROUTES if route.open_to_all)

    @app.before_request
    async def check_and_read() -> Response | None:
        scope = request.scope
        headers = header_map(scope["headers"])
        refusal = gate.check(headers, scope["query_string"], open_to_all=request.path in open_paths)
        if refusal is not None and not refusal.after_body:
            return _response(refusal.reply)
        # Always read, also where there is nothing at the path: an unread body would
        # be taken for the connection's next request.
        body = cast(bytes, await request.get_data(cache=False))
        if refusal is not None:
            return _response(refusal.reply)
        g.headers, g.body = headers, body
        return None

    for route in ROUTES:
        app.add_url_rule(
            re.sub(r"\{(\w+)\}", r"<\1>", route.path),
            endpoint=f"{route.method} {route.path}",
            view_func=_view(route, backend),
            methods=[route.method],
        )

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        if isinstance(error, RequestRedirect):  # not one of our paths after all
            return _response(plain_error(404).reply())
        return _response(_http_error(error).reply())

    return app


def _view(route: Route, backend: Backend) -> View:
    async def view(**path_args: str) -> Response:
        call = Call(
            headers=g.headers,
            query=request.query_string,
            body=g.body,
            path_args=path_args,
        )
        return _response(await answer(route, backend, call))

    return view


def _response(reply: Reply) -> Response:
    return Response(reply.body, status=reply.status, headers=Headers(reply.all_headers()))


def _http_error(error: HTTPException) -> ApiError:
    status = error.code or 500
    headers: list[tuple[str, str]] = []
    for name, value in error.get_headers(None):
        if name.lower() == "allow":
            headers.append(("allow", ", ".join(sorted(value.split(", ")))))
    return plain_error(status, tuple(headers))
