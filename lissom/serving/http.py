"""An exported model behind HTTP: `POST /predict`, `GET /health`, `GET /model`.

Needs fastapi and uvicorn beside what `classifier` needs: no torch, no transformers.
"""

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool

import lissom
from lissom.serving.admission import BusyError, Slots, WholeBody, busy
from lissom.serving.answers import NonFiniteOutputError
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.connections import bounded_protocol
from lissom.serving.cores import usable_cores
from lissom.serving.folder import DamagedFolderError

_SECONDS_TO_FINISH = 30
_LONGEST_PLACE = 100
_CLIENT_IS_GONE = 499

log = logging.getLogger("uvicorn.error")
"""The server's own log, on standard error. Texts of users are never written to it."""


@dataclass(frozen=True)
class Limits:
    """Limits of the server: larger requests are refused with 413 or 422, further ones with 503."""

    body_bytes: int = 1_000_000
    texts: int = 64
    characters: int = 20_000
    """Longest text. The model reads only `max_length` tokens; this limit bounds the work of the tokeniser."""
    running: int = field(default_factory=usable_cores)
    """Predictions at the same time; each takes the memory of one small batch."""
    waiting: int = 64
    """Requests that wait for a prediction."""
    total_bytes: int = 64_000_000
    """Bodies of all requests in progress together."""
    connections: int = 512
    """Open connections; a further one takes the place of the one that has waited longest without a whole request."""
    seconds: float = 20.0
    """Time for a whole request to arrive; then the connection is closed."""


class Span(BaseModel):
    """A part of a text with a label."""

    start: int
    """First character."""
    end: int
    """The character behind the last."""
    label: str
    text: str
    score: float
    """Mean probability of the labels of its words."""


class Prediction(BaseModel):
    """The answer to one text."""

    label: str | None = None
    """The most probable label."""
    probabilities: dict[str, float] | None = None
    """Of all labels."""
    value: float | None = None
    """Where a number is predicted."""
    spans: list[Span] | None = None
    """Where words are labelled."""
    truncated: bool | None = None
    """There, whether the text was too long to be read to its end."""
    continuation: str | None = None
    """Of a language model."""
    translation: str | None = None
    """Of a translator."""


class Answer(BaseModel):
    """One prediction for every text, in their order."""

    predictions: list[Prediction]


def create_app(classifier: OnnxClassifier, name: str, limits: Limits | None = None) -> FastAPI:
    """Return the ASGI app that serves a model.

    Args:
        classifier: the model.
        name: name of the model in `GET /model`.
        limits: bounds on requests.
    """
    limits = limits or Limits()
    app = FastAPI(title="lissom", version=lissom.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(WholeBody, limit=limits.body_bytes, total=limits.total_bytes)
    app.add_exception_handler(RequestValidationError, _refuse)
    question, slots = _question(limits), Slots(limits.running, limits.waiting)

    # All are async: predictions must not take the threads that a synchronous `/health` would wait for.
    @app.get("/health")
    async def health() -> Mapping[str, str]:
        """Report that the model is loaded."""
        return {"status": "ok"}

    @app.get("/model")
    async def model() -> Mapping[str, Any]:
        """Describe the model and its inputs."""
        keys = ("labels", "pair", "max_length", "scale", "speed")
        return {"model": name, **{key: classifier.serving.get(key) for key in keys}}

    @app.post("/predict", response_model=Answer, response_model_exclude_none=True)
    async def predict(request: Request, body: question) -> Answer | JSONResponse:  # type: ignore[valid-type]
        """Classify texts, predict their numbers, or find spans in them."""
        try:
            async with slots.slot():
                if await request.is_disconnected():
                    return JSONResponse(None, status_code=_CLIENT_IS_GONE)
                return await run_in_threadpool(_answer, classifier, body)
        except BusyError:
            return busy("the queue is full")

    return app


def _answer(classifier: OnnxClassifier, body: Any) -> Answer | JSONResponse:
    """Answer a question; onnxruntime and tokenizers leave Python's lock while they work."""
    try:
        answers = classifier.predict(body.texts, body.pairs, body.speed)
    except (NonFiniteOutputError, DamagedFolderError) as error:
        log.error("predict: %s", error)
        return JSONResponse({"detail": str(error)}, status_code=500)
    except ValueError as error:
        return JSONResponse({"detail": str(error)}, status_code=422)
    except Exception as error:
        log.error("predict: the model failed with %s", type(error).__name__)  # its message may hold the text
        return JSONResponse({"detail": "the model failed on these texts"}, status_code=500)
    return Answer(predictions=[Prediction(**answer) for answer in answers])


def serve(classifier: OnnxClassifier, name: str, host: str, port: int, limits: Limits | None = None) -> None:
    """Serve until SIGTERM or SIGINT, and finish the requests in progress."""
    limits = limits or Limits()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it once more when all is answered
    uvicorn.run(
        create_app(classifier, name, limits), host=host, port=port, access_log=False, ws="none",
        http=bounded_protocol(limits.connections, limits.seconds), timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )  # fmt: skip


def _question(limits: Limits) -> type[BaseModel]:
    """Return the schema of a request, including the limits, for OpenAPI."""
    text = Annotated[str, Field(max_length=limits.characters)]
    texts = Annotated[list[text], Field(min_length=1, max_length=limits.texts)]
    pairs = Annotated[list[text], Field(max_length=limits.texts)]
    speed = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
    return create_model(
        "Question",
        __config__=ConfigDict(extra="forbid", strict=True),
        texts=(texts, Field(description="Texts.")),
        pairs=(pairs | None, Field(None, description="Second texts, for tasks on pairs.")),
        speed=(speed | None, Field(None, description="Models with exits: leave at an uncertainty up to this.")),
    )


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    """Report validation errors without the input, which may be long, private or invalid Unicode."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{_place(item['loc'])}: {item['msg']}" for item in error.errors()[:10]]
    return JSONResponse({"detail": "; ".join(problems)}, status_code=422)


def _place(location: Sequence[str | int]) -> str:
    """Return where a body is wrong; a key may be long, or hold half a surrogate pair, which JSON cannot carry."""
    place = ".".join(str(part) for part in location[1:]) or "body"
    return place[:_LONGEST_PLACE].encode("utf-8", "backslashreplace").decode("utf-8")
