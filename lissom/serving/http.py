"""An exported model behind HTTP: `POST /predict`, `GET /health`, `GET /model`.

Needs fastapi and uvicorn beside what `classifier` needs: no torch, no transformers.
"""

import codecs
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import lissom
from lissom.serving.classifier import OnnxClassifier

_DRAINED = 32  # times the limit that is read and thrown away, so that a client that is still sending hears the answer
_SECONDS_TO_FINISH = 30


@dataclass(frozen=True)
class Limits:
    """Limits of one request; larger ones are refused with 413 or 422."""

    body_bytes: int = 1_000_000
    texts: int = 64
    characters: int = 20_000
    """Longest text. The model reads only `max_length` tokens; this limit bounds the work of the tokeniser."""
    requests: int = 512
    """Requests in progress at the same time; further ones get 503."""


class Prediction(BaseModel):
    """The answer to one text."""

    label: str | None = None
    """The most probable label."""
    probabilities: dict[str, float] | None = None
    """Of all labels."""
    value: float | None = None
    """Where a number is predicted."""


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
    app.add_middleware(_BodyCheck, limit=limits.body_bytes)
    app.add_exception_handler(RequestValidationError, _refuse)
    question = _question(limits)

    @app.get("/health")
    def health() -> Mapping[str, str]:
        """Report that the model is loaded."""
        return {"status": "ok"}

    @app.get("/model")
    def model() -> Mapping[str, Any]:
        """Describe the model and its inputs."""
        keys = ("labels", "pair", "max_length", "scale", "speed")
        return {"model": name, **{key: classifier.serving.get(key) for key in keys}}

    # Not async: starlette runs it in a thread, and onnxruntime and tokenizers leave Python's lock while they work.
    @app.post("/predict", response_model_exclude_none=True)
    def predict(body: question) -> Answer:  # type: ignore[valid-type]
        """Classify texts, or predict their numbers."""
        try:
            answers = classifier.predict(body.texts, body.pairs, body.speed)  # type: ignore[attr-defined]
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        return Answer(predictions=[Prediction(**answer) for answer in answers])

    return app


def serve(classifier: OnnxClassifier, name: str, host: str, port: int, limits: Limits | None = None) -> None:
    """Serve until SIGTERM or SIGINT, and finish the requests in progress."""
    limits = limits or Limits()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it once more when all is answered
    uvicorn.run(
        create_app(classifier, name, limits), host=host, port=port, access_log=False,
        limit_concurrency=limits.requests, timeout_graceful_shutdown=_SECONDS_TO_FINISH,
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
    problems = [f"{'.'.join(map(str, item['loc'][1:])) or 'body'}: {item['msg']}" for item in error.errors()[:10]]
    return JSONResponse({"detail": "; ".join(problems)}, status_code=422)


class _BodyCheck:
    """Middleware that returns 413 for a body over the limit (even with a wrong header) and 400 if it is not UTF-8."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit:
            await _drain(receive, _DRAINED * self._limit)
            await JSONResponse({"detail": self._message()}, status_code=413)(scope, receive, send)
            return
        await self._app(scope, self._checked(receive), send)

    def _checked(self, receive: Receive) -> Callable[[], Any]:
        size, decoder = 0, codecs.getincrementaldecoder("utf-8")()

        async def checked() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            try:  # Python's JSON parser would guess other encodings
                decoder.decode(message.get("body", b""), final=not message.get("more_body", False))
            except UnicodeDecodeError as error:
                raise HTTPException(400, f"the body is not UTF-8: {error.reason}") from None
            if size > self._limit:
                await _drain(receive, _DRAINED * self._limit, message)
                raise HTTPException(413, self._message())
            return message

        return checked

    def _message(self) -> str:
        return f"the body is longer than {self._limit} bytes; send fewer or shorter texts per request"


async def _drain(receive: Receive, most: int, message: Message | None = None) -> None:
    size = 0
    while (message is None or message.get("more_body", False)) and size < most:
        message = await receive()
        size += len(message.get("body", b""))
