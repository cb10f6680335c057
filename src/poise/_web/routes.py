"""The route of the live page, behind what its application has for access."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request  # noqa: TC002 - FastAPI reads annotations
from starlette.responses import Response  # noqa: TC002
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute

    from poise._web.page import Page


def page_route(app: Starlette, path: str, page: Page, access: Any) -> BaseRoute:
    """A route that shows the page to those who may see it."""
    if access is not None and _is_fastapi(app):
        return _dependent_route(app, path, page, access)

    async def show(request: Request) -> Response:
        if access is not None:
            await (access(request) if inspect.iscoroutinefunction(access) else run_in_threadpool(access, request))
        return page.answer(request)

    return Route(path, show, include_in_schema=False)


def _is_fastapi(app: Starlette) -> bool:
    if "fastapi" not in sys.modules:
        return False
    from fastapi import FastAPI

    return isinstance(app, FastAPI)


def _dependent_route(app: Any, path: str, page: Page, access: Any) -> BaseRoute:
    from fastapi import Depends, params

    async def show(request: Request) -> Response:
        return page.answer(request)

    dependency = access if isinstance(access, params.Depends) else Depends(access)
    # Made by the application, so that its `dependency_overrides` count.
    app.add_api_route(path, show, dependencies=[dependency], response_model=None, include_in_schema=False)
    route: BaseRoute = app.router.routes.pop()
    return route
