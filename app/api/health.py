"""Health: serves `/healthz` and `/readyz` for orchestrators, and `/metrics` for Prometheus."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from app.api.statuses import documented
from app.errors import NotReady

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="The process lives", responses=documented())
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="The default model answers", responses=documented())
async def readyz(request: Request) -> dict[str, str]:
    state = request.app.state
    if state.draining.is_set():
        raise NotReady("the server is shutting down")
    name, manager = state.settings.default_model, state.manager
    if not manager.ready(name):
        problem = manager.problem(name) or "no version of it is loaded"
        raise NotReady(f"{name} does not answer: {problem}")
    return {"status": "ready"}


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented()},
)
def metrics(request: Request) -> Response:
    state = request.app.state
    state.manager.refresh_queues()
    return Response(state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
