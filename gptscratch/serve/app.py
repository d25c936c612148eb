"""The routes of the server: the page, the models, completions, and what was copied from the training text."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gptscratch.errors import UserError
from gptscratch.generation.generator import Generator
from gptscratch.serve.errors import ApiError
from gptscratch.serve.handlers import Handlers
from gptscratch.serve.models import Limits, Models

_PAGE = ("index.html", "style.css", "app.js", "api.js", "element.js", "sample.js", "token.js", "icon.svg")
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # names of this machine in URLs


def make_app(
    generators: Mapping[str, Generator],
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    hosts: Sequence[str] = LOOPBACK,
    cors: Sequence[str] = (),
) -> Starlette:
    """The server as an ASGI application.

    Args:
        generators: by the name of the model; the first is the default.
        api_key: what a request needs as ``Authorization: Bearer KEY``, except for the page itself.
        hosts: names of this server in URLs: a page of another name, which a browser was led to believe is
            here (DNS rebinding), is refused. "*": any name.
        cors: origins whose pages may use the server from a browser.
    """
    server = Handlers(limits or Limits(), api_key)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        server.models = Models(generators, server.limits)
        app.state.abort = server.models.abort
        yield
        await run_in_threadpool(server.models.close)

    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
    if cors:
        methods, headers = ["GET", "POST"], ["authorization", "content-type"]
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=methods, allow_headers=headers)
        )
    return Starlette(
        routes=[
            Route("/", _page("index.html"), methods=["GET"]),
            *(Route(f"/{file}", _page(file), methods=["GET"]) for file in _PAGE),
            Route("/health", server.health, methods=["GET"]),
            Route("/v1/models", server.list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", server.show_model, methods=["GET"]),
            Route("/v1/completions", server.complete, methods=["POST"]),
            Route("/v1/copied", server.copied, methods=["POST"]),
        ],
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            UserError: _user_error,
            HTTPException: _http_error,
            ClientDisconnect: _nothing,
            Exception: _unexpected,
        },
    )


def _page(file: str) -> Any:
    content = (resources.files("gptscratch.serve") / "page" / file).read_bytes()
    media_type = _TYPES[file.rpartition(".")[2]]

    async def page(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return page


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _nothing(_: Request, __: Exception) -> Response:
    """The client has left, so this is only for logs; 499 is the status of nginx."""
    return Response(status_code=499)


async def _unexpected(request: Request, _: Exception) -> Response:
    """A defect: Starlette passes the exception to the server's log."""
    error = ApiError("The server failed; its messages say why.", status=500, kind="server_error")
    return await _api_error(request, error)


async def _user_error(request: Request, error: Exception) -> Response:
    return await _api_error(request, ApiError(str(error)))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: "There is nothing at this address.",
        405: f"This address does not take {request.method}.",
    }
    message = messages.get(error.status_code, error.detail)
    answer = await _api_error(request, ApiError(message, status=error.status_code))
    answer.headers.update(error.headers or {})
    return answer
