"""Documentation: the description of the API in OpenAPI, and the page `/docs` that shows it."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import FileResponse, HTMLResponse, Response

from app.api.responses import json_response
from app.errors import NotFound, shown

_COMPONENTS = "#/components/schemas/"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Nerve</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // it would send the address of this server to another one
});
"""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""The page can do nothing but show the API of this server and ask it, and no other site can show it in a
frame, where it could have its buttons clicked."""

_REQUEST_ID = {
    "description": "The caller's id of the request, or one that the server made; the log has it too.",
    "required": True,
    "schema": {"type": "string"},
}

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def show_openapi(request: Request) -> Response:
    document, root = request.app.openapi(), request.scope.get("root_path")
    return json_response({**document, "servers": [{"url": root}]} if root else document)


@router.get("/docs")
def show_docs() -> Response:
    return HTMLResponse(_PAGE, headers=_HEADERS)


@router.get("/docs/{name}")
def show_asset(name: str) -> Response:
    """Send a part of the page. Swagger UI comes from a package: a page that administers models must not run
    what a CDN sends, and needs no network this way."""
    if name == "start.js":
        return Response(_START, media_type="text/javascript", headers=_HEADERS)
    if name not in ("swagger-ui.css", "swagger-ui-bundle.js"):
        raise NotFound(f"/docs has no {shown(name)}")
    return FileResponse(str(files("fastapi_offline") / "static" / name), headers=_HEADERS)


class DocumentedAPI(FastAPI):
    """An application whose description in OpenAPI is complete."""

    def openapi(self) -> dict[str, Any]:
        """Return the description, made once; that takes long, so it is for threads."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title, version=self.version, summary=self.summary, routes=self.routes
            )
            _complete(document)
            self.openapi_schema = document
        return self.openapi_schema


def component(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body that a route reads by itself: a reference, and what it refers to."""
    found, schemas = models_json_schema([(model, "validation")], ref_template=_COMPONENTS + "{model}")
    return {**found[model, "validation"], **schemas}


def _complete(document: dict[str, Any]) -> None:
    """Move what `component` referred to to where it said, and add the header that every answer has."""
    schemas = document["components"]["schemas"]
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schemas |= content["schema"].pop("$defs", {})
        for response in operation["responses"].values():
            response.setdefault("headers", {})["X-Request-Id"] = _REQUEST_ID
