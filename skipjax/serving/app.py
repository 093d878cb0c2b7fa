"""The service as an ASGI application: routes, what they answer, and what they refuse in one line.

Handlers check and translate; models work in threads of their own (batching.py).
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any

import pyarrow.compute as pc
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from skipjax import __version__
from skipjax.data.catalogue import Catalogue
from skipjax.errors import DataError
from skipjax.recommend import Recommender
from skipjax.serving import explorer, schema
from skipjax.serving.answering import Best
from skipjax.serving.batching import WAITING, Full, Worker
from skipjax.serving.guard import Guard
from skipjax.serving.metrics import Metrics
from skipjax.serving.schema import BadRequest, described

_ABOUT = """The next tracks for listening sessions, by trained models.

Every error is `{"detail": "..."}`: what is wrong, with which value, and what to do instead.
"""
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    422: {"model": schema.Problem, "description": "A value that cannot be used, and why."},
    503: {"model": schema.Problem, "description": "Too much waits; see Retry-After."},
}
_BODY_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": schema.Problem, "description": "Not JSON."},
    408: {
        "model": schema.Problem,
        "description": f"Not all there after {schema.BODY_SECONDS} s, or when the service ended.",
    },
    413: {"model": schema.Problem, "description": f"More than {schema.MOST_BYTES:,} bytes."},
    415: {"model": schema.Problem, "description": "Not said to be JSON."},
}
_JSON = "application/json"


def create_app(
    recommenders: Mapping[str, Recommender],
    *,
    most_waiting: int = WAITING,
    on_ready: Callable[[float], None] = lambda seconds: None,
    on_failure: Callable[[BaseException], None] = lambda error: None,
) -> FastAPI:
    """The service of some models, of which the first is the default.

    Args:
      recommenders: models by name.
      most_waiting: sessions for each; more are refused with 503.
      on_ready: called with the seconds of warming up when all models are warm.
      on_failure: called if one cannot be.
    """
    metrics = Metrics()
    workers = {
        name: Worker(recommender, most_waiting=most_waiting, observe=metrics.batches_of(name))
        for name, recommender in recommenders.items()
    }
    for name, worker in workers.items():
        metrics.watch_queue(name, worker)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for worker in workers.values():
            worker.start()
        warming = asyncio.create_task(_warm(workers.values(), on_ready, on_failure))
        yield
        warming.cancel()
        for worker in workers.values():
            await asyncio.to_thread(worker.close)

    app = FastAPI(
        title="skipjax",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # which would fetch scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, metrics=metrics)
    _refuse_in_words(app)
    _add_models(app, workers)
    _add_catalogue(app, workers)
    _add_recommend(app, workers)
    explorer.add_page(app)

    @app.get("/metrics", response_class=Response, summary="For Prometheus")
    async def exposed() -> Response:
        return Response(metrics.text(), media_type=metrics.media_type)

    return app


async def _warm(workers, on_ready, on_failure) -> None:
    futures = [asyncio.wrap_future(worker.ready) for worker in workers]
    try:
        # At the same time, so the longest is what it took.
        on_ready(max(await asyncio.gather(*futures)))
    except Exception as error:
        on_failure(error)


def _refuse_in_words(app: FastAPI) -> None:
    """Whatever is raised becomes {"detail": one line}."""

    def said(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"detail": message}, status, headers=dict(headers or {}))

    @app.exception_handler(BadRequest)
    async def bad(request: Request, error: BadRequest) -> JSONResponse:
        unread = error.status in (408, 413)  # what is left of the body is no request
        return said(error.status, str(error), {"Connection": "close"} if unread else {})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return said(422, str(schema.problem(error.errors())))

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> JSONResponse:
        return said(503, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(HTTPException)
    async def none(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {described(request.scope['path'])[1:-1]}"
        message = {
            404: f"there is no {what}; /openapi.json lists what there is.",
            405: f"{what} is not allowed; /openapi.json lists what is.",
        }.get(error.status_code, str(error.detail))
        return said(error.status_code, message, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return said(500, "something went wrong here, and was logged; the request may be fine.")


def _add_models(app: FastAPI, workers: Mapping[str, Worker]) -> None:
    @app.get("/models", summary="The models, the default first")
    async def models() -> schema.Models:
        return schema.Models(
            models=[
                schema.ModelFacts(
                    name=name,
                    about=worker.answerer.model.about,
                    tracks=len(worker.answerer.model.catalogue),
                    reads_skips=worker.answerer.model.reads_skips,
                    max_k=worker.answerer.max_k,
                    max_tracks=worker.answerer.model.longest,
                )
                for name, worker in workers.items()
            ]
        )

    @app.get(
        "/healthz",
        summary="Whether all models are warm",
        response_model=schema.Health,
        responses={503: {"model": schema.Health, "description": "Not yet."}},
    )
    async def healthz() -> JSONResponse:
        cold = [name for name, worker in workers.items() if not worker.warm]
        detail = f"warming up: {', '.join(cold)}; requests wait." if cold else "ready."
        return JSONResponse({"ready": not cold, "detail": detail}, 503 if cold else 200)


def _add_catalogue(app: FastAPI, workers: Mapping[str, Worker]) -> None:
    catalogues: list[Catalogue] = []
    for worker in workers.values():
        if not any(
            worker.answerer.model.catalogue.track_ids.equals(c.track_ids) for c in catalogues
        ):
            catalogues.append(worker.answerer.model.catalogue)

    # Not async, so that it runs in a thread: a million ids take a while.
    @app.get(
        "/tracks",
        summary="Tracks whose id has some text in it, most played first",
        responses={422: _PROBLEMS[422]},
    )
    def tracks(query: Annotated[schema.SearchQuery, Query()]) -> schema.Found:
        found = search(catalogues, query.q, query.limit)
        return schema.Found(
            tracks=[schema.FoundTrack(track_id=name, plays=plays) for name, plays in found]
        )

    @app.get(
        "/tracks/{track_id:path}/similar",
        summary="The tracks whose embeddings have the largest cosine with that of one",
        responses={404: {"model": schema.Problem, "description": "No such track."}, **_PROBLEMS},
    )
    async def similar(
        track_id: Annotated[
            str, Path(description="Percent-encoded; it may have slashes, spaces and any letters.")
        ],
        query: Annotated[schema.SimilarQuery, Query()],
    ) -> schema.Neighbours:
        if not 1 <= len(track_id) <= schema.MOST_CHARACTERS:
            raise BadRequest(schema.refusal("track_id", "track_id", track_id))
        name, worker = _chosen(workers, query.model)
        _check_k(
            query.k, min(worker.answerer.max_k, len(worker.answerer.model.catalogue) - 1), name
        )
        try:
            table = await asyncio.wrap_future(worker.similar(track_id, query.k))
        except DataError as error:
            raise BadRequest(str(error), 404) from None
        return schema.Neighbours(model=name, track_id=track_id, similar=table.to_pylist())


def search(catalogues: Sequence[Catalogue], text: str, limit: int) -> list[tuple[str, int]]:
    """Ids with `text` in them, in any case, and their plays in training; most played first."""
    found: dict[str, int] = {}
    for catalogue in catalogues:
        names, wanted = catalogue.track_ids, limit
        for start in range(0, len(names), _SEARCHED):
            some = names[start : start + _SEARCHED]
            places = pc.indices_nonzero(pc.match_substring(some, text, ignore_case=True))[:wanted]
            plays = catalogue.plays[start + places.to_numpy()]
            for name, count in zip(some.take(places).to_pylist(), plays.tolist(), strict=True):
                found[name] = max(count, found.get(name, 0))
            wanted -= len(places)
            if not wanted:
                break
    return sorted(found.items(), key=lambda track: -track[1])[:limit]


_SEARCHED = 1 << 14  # ids at a time: most searches find enough in the first


def _add_recommend(app: FastAPI, workers: Mapping[str, Worker]) -> None:
    @app.post(
        "/recommend",
        summary="The tracks that fit best after each session",
        response_model=schema.Answer,
        responses={**_BODY_PROBLEMS, **_PROBLEMS},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Query"}}},
            }
        },
    )
    async def recommend(request: Request) -> Response:
        # Read and parsed here, so that too much is never read, and all that is wrong said alike.
        query = schema.parse(await _body(request))
        name, worker = _chosen(workers, query.model)
        _check_k(query.k, worker.answerer.max_k, name)
        parts = worker.recommend(query.sessions, query.k, query.exclude_seen)
        found = await asyncio.gather(*map(asyncio.wrap_future, parts))
        bests = (best for part in found for best in part)
        answers = [
            _answer(session, best) for session, best in zip(query.sessions, bests, strict=True)
        ]
        reads = worker.answerer.model.reads_skips
        content = {"model": name, "reads_skips": reads, "sessions": answers}
        return Response(to_json(content), media_type=_JSON)

    def described_openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            found = get_openapi(
                title=app.title, version=app.version, description=_ABOUT, routes=app.routes
            )
            _, definitions = models_json_schema(
                [(schema.Query, "validation")], ref_template="#/components/schemas/{model}"
            )
            found["components"]["schemas"] |= definitions["$defs"]
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = described_openapi  # type: ignore[method-assign]


def _answer(session: schema.Session, best: Best) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "recommendations": [
            {"track_id": track, "score": score, "rank": rank}
            for rank, (track, score) in enumerate(
                zip(best.track_ids, best.scores, strict=True), start=1
            )
        ],
        "unknown": best.unknown,
        "fallback": best.fallback,
    }


async def _body(request: Request) -> bytes:
    """All of a JSON body.

    Raises:
      BadRequest: it is too large, too slow, or not said to be JSON.
    """
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    encoding = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters)
    if kind.strip().lower() != _JSON or (encoding and encoding[1].lower() != "utf-8"):
        given = described(request.headers.get("content-type"))
        raise BadRequest(f"Content-Type is {given}; send {_JSON} in UTF-8.", 415)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        given = described(request.headers["content-encoding"])
        raise BadRequest(f"Content-Encoding is {given}; send the body as it is.", 415)
    body = bytearray()
    size = 0
    try:
        async with asyncio.timeout(schema.BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= schema.MOST_BYTES:
                    body += chunk
                elif size > 2 * schema.MOST_BYTES:  # till then, who listens after sending hears it
                    break
    except TimeoutError:
        raise BadRequest(
            f"of the body, {size:,} B and not all are here after {schema.BODY_SECONDS} s; "
            "send it faster, or less.",
            408,
        ) from None
    except ClientDisconnect:
        raise BadRequest("the body ends early.", 400) from None
    if size > schema.MOST_BYTES:
        raise BadRequest(
            f"the body has more than {schema.MOST_BYTES:,} bytes; split it into several requests.",
            413,
        )
    return bytes(body)


def _chosen(workers: Mapping[str, Worker], name: str | None) -> tuple[str, Worker]:
    if name is None:
        name = next(iter(workers))
    if name not in workers:
        raise BadRequest(f"model is {described(name)}; give one of {', '.join(workers)}.")
    return name, workers[name]


def _check_k(k: int, most: int, name: str) -> None:
    if k > most:
        raise BadRequest(f"k is {k}; of {name}, give a whole number from 1 to {most}.")
