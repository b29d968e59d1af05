"""The HTTP service before a reward model: its routes, and the page at `/`.

    gate = create_app(RewardModel(urls=["http://gpu-1:8000/v1"]), ServeSettings(), RankSettings())

is an ASGI application; `server.run` serves it. docs/how-to/serve.md describes the routes for clients.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from r1reward_verl import __version__
from r1reward_verl.engines.online_vllm import OnlineVLLM
from r1reward_verl.rewards.openrlhf import question_of, response_of
from r1reward_verl.use.comparison import Comparison, EncodedGroup, Question, encode_group
from r1reward_verl.use.comparison import Response as ModelResponse
from r1reward_verl.use.model import RankResult, RewardModel
from r1reward_verl.use.serve import schemas
from r1reward_verl.use.serve.cohorts import Cohorts, Member, Standing
from r1reward_verl.use.serve.errors import ServeError, invalid, unavailable
from r1reward_verl.use.serve.limits import BODY, Gate
from r1reward_verl.use.serve.metrics import Metrics
from r1reward_verl.use.serve.settings import ServeSettings
from r1reward_verl.use.settings import RankSettings

T = TypeVar("T")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
_PROBE = ("Which number is larger?", None, "1", "2")
_BODIES: dict[str, type[msgspec.Struct]] = {
    "/v1/judge": schemas.JudgeRequest,
    "/v1/rank": schemas.RankRequest,
    "/v1/score": schemas.RankRequest,
    "/v1/cohort": schemas.CohortRequest,
    "/get_reward": schemas.RemoteRequest,
}


class Service:
    """Answers requests with a reward model."""

    def __init__(
        self, model: RewardModel, settings: ServeSettings, rank: RankSettings, metrics: Metrics, *, with_key: bool
    ) -> None:
        self.model, self.settings, self.rank, self.metrics = model, settings, rank, metrics
        self.with_key = with_key
        self.cohorts = Cohorts(
            self._rank_group,
            settings.cohort_timeout,
            settings.max_held << 20,
            lambda end: metrics.cohorts.labels(end).inc(),
        )
        self.gate: Gate
        self._probe: asyncio.Future[Any] | None = None

    async def judge(self, request: Request) -> Response:
        """Decide which of two responses is better."""
        body = _read(request, schemas.JudgeRequest)
        question, (one, other) = await _prepare(
            body, [("response_1", body.response_1), ("response_2", body.response_2)]
        )
        work = self.model.ajudge(question, None, one[1], other[1], both_orders=body.both_orders)
        result = await _with_fields(work, question, [one, other])
        self._check(result.comparisons, result.error, int(result.orders_disagree), 0)
        return _answer(schemas.judge_answer(result))

    async def rank_responses(self, request: Request) -> Response:
        """Rank responses by comparing them with each other, or with a reference."""
        return _answer(schemas.rank_answer(await self._ranked(request)))

    async def score(self, request: Request) -> Response:
        """Score responses as `/v1/rank` does, without the comparisons."""
        result = await self._ranked(request)
        return _answer(
            schemas.ScoreAnswer(
                scores=list(result.scores),
                standard_errors=list(result.standard_errors),
                compared=len(result.comparisons),
                failed=result.failed,
                error=result.error,
            )
        )

    async def _ranked(self, request: Request) -> RankResult:
        body = _read(request, schemas.RankRequest)
        self._check_size(len(body.responses), "responses")
        named = [(f"responses[{number}]", one) for number, one in enumerate(body.responses)]
        if body.reference is not None:
            named.append(("reference", body.reference))
        settings = schemas.rank_settings(self.rank, body.settings)
        question, responses = await _prepare(body, named)
        texts = [response for _, response in responses]
        reference = texts.pop() if body.reference is not None else None
        work = self.model.arank(question, None, texts, settings, reference=reference)
        result = await _with_fields(work, question, responses)
        return self._counted(result)

    async def cohort(self, request: Request) -> Response:
        """Wait for the other responses of a group, and return the score of this one."""
        size_of_body = len(request.scope[BODY])
        body = _read(request, schemas.CohortRequest)
        self._check_size(body.size, "size")
        settings = schemas.rank_settings(self.rank, body.settings)
        asked = _digest(body.question, [one if isinstance(one, str) else one.video for one in body.media])
        content = body.response if isinstance(body.response, str) else msgspec.to_builtins(body.response)
        question, responses = await _prepare(body, [("response", body.response)])
        key = body.cohort or f"sha256:{_digest(asked.hex(), body.size).hex()[:24]}"
        standing = await self._join(
            key,
            {"size": body.size, "question": asked, "settings": settings},
            question,
            responses[0],
            name=body.member,
            digest=_digest(content),
            size_of_body=size_of_body,
            reopens=body.cohort is None,
        )
        partial = standing.present < body.size
        return _answer(
            schemas.CohortAnswer(cohort=key, partial=partial, **{**msgspec.to_builtins(standing), "size": body.size})
        )

    async def _join(
        self,
        key: str,
        spec: dict[str, object],
        question: Question,
        response: tuple[str, ModelResponse],
        *,
        digest: bytes,
        size_of_body: int,
        reopens: bool,
        name: str | None = None,
    ) -> Standing:
        engine = self.model.engine
        alone = Question(question.text)
        encoded = await _with_fields(encode_group(engine, alone, [response[1]]), alone, [response])
        member = Member(name, digest, encoded, size_of_body)
        settings = spec["settings"]
        assert isinstance(settings, RankSettings)
        work = self.cohorts.join(
            key, spec, settings, member, lambda: encode_group(engine, question, []), reopens=reopens
        )
        return await _with_fields(work, question, [])

    async def _rank_group(self, group: EncodedGroup, settings: RankSettings) -> RankResult:
        return self._counted(await self.model.rank_group(group, settings))

    async def get_reward(self, request: Request, cohort: int | None = Query(None, ge=1)) -> Response:
        """Score responses for OpenRLHF: against reference answers, or within a cohort of siblings."""
        body = _read(request, schemas.RemoteRequest)
        rows = len(body.query)
        labels = body.labels if body.labels is not None else [None] * rows
        if not rows == len(body.prompts) == len(labels):
            raise invalid(f"{rows} of query, {len(body.prompts)} of prompts and {len(labels)} of labels are not equal")
        if cohort is not None:
            self._check_size(cohort, "cohort")
        tasks = [
            asyncio.ensure_future(self._reward(row, *fields, cohort))
            for row, fields in enumerate(zip(body.query, body.prompts, labels, strict=True))
        ]
        try:
            rewards = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # if one has failed, the others are not waited for
                task.cancel()
        names = ("comparisons", "failed", "cycles", "partial")
        scores = [score for score, _ in rewards]
        logs = {f"r1reward/{name}": [log[name] for _, log in rewards] for name in names}
        return _answer(schemas.RemoteAnswer(rewards=scores, scores=scores, extra_logs=logs))

    async def _reward(
        self, row: int, query: str, prompt: str, label: Any, cohort: int | None
    ) -> tuple[float, dict[str, float]]:
        try:
            question, text = Question(question_of(prompt)), response_of(query, prompt)
        except ValueError as error:
            raise invalid(f"row {row}: {error}", f"query[{row}]", row) from None
        if not text:  # the policy wrote nothing but the end of its turn
            text = "(empty response)"
        response = ModelResponse(text)
        if cohort is None:
            if not isinstance(label, str) or not label.strip():
                raise invalid(
                    f"row {row}: there is no label to compare the response with; give reference answers as labels, or "
                    "let sibling responses be compared with ?cohort=N in the address, N responses for each prompt",
                    f"labels[{row}]",
                    row,
                )
            settings = msgspec.structs.replace(self.rank, both_orders=True)
            result = self._counted(await self.model.arank(question, None, [response], settings, reference=label))
            counts = (len(result.comparisons), result.failed, result.cycles, 0)
            return result.scores[0], dict(zip(("comparisons", "failed", "cycles", "partial"), counts, strict=True))
        asked = _digest(prompt)
        standing = await self._join(
            f"sha256:{_digest(asked.hex(), cohort).hex()[:24]}",
            {"size": cohort, "question": asked, "settings": self.rank},
            question,
            ("query", response),
            digest=_digest(text),
            size_of_body=len(query) + len(prompt),
            reopens=True,
        )
        share = 1 / standing.present  # so that sums over the rows count each comparison once
        log = {"comparisons": standing.compared * share, "failed": standing.failed * share}
        return standing.score, log | {"cycles": standing.cycles * share, "partial": standing.present < cohort}

    def _check_size(self, size: int, field: str) -> None:
        if size > self.settings.max_responses:
            limit = f"at most {self.settings.max_responses} are taken (--max-responses)"
            raise invalid(f"{field}: a group of {size} responses; {limit}", field)

    def _counted(self, result: RankResult) -> RankResult:
        self._check(result.comparisons, result.error, result.order_disagreements, result.cycles)
        return result

    def _check(self, comparisons: Sequence[Comparison], error: str, disagreements: int, cycles: int) -> None:
        """Count comparisons, and raise ServeError if none of them has brought a judgement."""
        self.metrics.compared(comparisons, disagreements, cycles)
        if not comparisons or any(one.texts for one in comparisons):
            return
        if any(one.unavailable for one in comparisons):
            raise unavailable(f"the reward model cannot be reached: {error}")
        raise ServeError(502, "model_error", f"the reward model gave no judgement: {error}")

    async def ready(self) -> Response:
        """Tell whether work is taken, and whether the reward model answers."""
        lost = self.model.engine.given_up
        if lost and (self._probe is None or self._probe.done()):
            # Without requests nothing else would find out that it is back.
            self._probe = asyncio.ensure_future(self.model.ajudge(*_PROBE, both_orders=False))
        reason = "the service is about to end" if self.gate.draining else "the reward model cannot be reached"
        ready = not (lost or self.gate.draining)
        content = {"ready": ready, "reason": "" if ready else reason, "key": self.with_key, "version": __version__}
        return Response(json.dumps(content), 200 if ready else 503, media_type="application/json")

    async def health(self) -> Response:
        """Tell that the process answers, and that vLLM in it has not failed for good."""
        engine = self.model.engine
        failed = isinstance(engine, OnlineVLLM) and engine.given_up
        content = {"status": "vLLM has failed: restart the service" if failed else "ok"}
        return Response(json.dumps(content), 503 if failed else 200, media_type="application/json")

    async def prometheus(self) -> Response:
        """Return the metrics in Prometheus' form."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def close(self) -> None:
        """Give back what the model holds."""
        if self._probe is not None:
            self._probe.cancel()
        await self.model.aclose()


def create_app(model: RewardModel, settings: ServeSettings, rank: RankSettings, key: str | None = None) -> Gate:
    """Return the service as an ASGI application.

    Args:
        model: the reward model; closed when the application ends.
        settings: limits and waiting times.
        rank: how groups are ranked where a request does not say.
        key: that clients have to send; None for none.
    """
    metrics = Metrics()
    service = Service(model, settings, rank, metrics, with_key=key is not None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="r1reward", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_routes(app, service)
    app.add_exception_handler(ServeError, _as_answer)
    app.add_exception_handler(HTTPException, _as_answer)
    app.add_exception_handler(RequestValidationError, _as_answer)
    app.add_exception_handler(Exception, _as_answer)
    gate = service.gate = Gate(app, settings, key, metrics, _BODIES)
    metrics.gauge("open_requests", "Requests that are read or worked on.", lambda: gate.open)
    metrics.gauge("held_bytes", "Bytes of open requests.", lambda: gate.held)
    metrics.gauge("open_cohorts", "Cohorts that wait for responses.", lambda: service.cohorts.open)
    metrics.gauge("model_available", "Whether the reward model answers.", lambda: not model.engine.given_up)
    gate.drain = service.cohorts.drain
    return gate


def _add_routes(app: FastAPI, service: Service) -> None:
    described: set[type[msgspec.Struct]] = set()

    def content(model: type[msgspec.Struct]) -> dict[str, Any]:
        described.add(model)
        return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}

    error = {"description": "An error", **content(schemas.ErrorAnswer)}
    errors: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 413, 422, 429, 502, 503), error)

    def post(path: str, handler: Callable[..., Awaitable[Response]], answer: type[msgspec.Struct]) -> None:
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            openapi_extra={"requestBody": {"required": True, **content(_BODIES[path])}},
            responses={**errors, 200: {"description": "The result", **content(answer)}},
        )

    post("/v1/judge", service.judge, schemas.JudgeAnswer)
    post("/v1/rank", service.rank_responses, schemas.RankAnswer)
    post("/v1/score", service.score, schemas.ScoreAnswer)
    post("/v1/cohort", service.cohort, schemas.CohortAnswer)
    post("/get_reward", service.get_reward, schemas.RemoteAnswer)
    app.add_api_route("/health", service.health)
    app.add_api_route("/ready", service.ready)
    app.add_api_route("/metrics", service.prometheus)
    for path, (name, kind) in _PAGE.items():
        app.add_api_route(path, _page_file(name, kind), include_in_schema=False)
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        """Add the bodies, which the handlers read and write themselves."""
        schema = generated()
        _, bodies = msgspec.json.schema_components(described, ref_template="#/components/schemas/{name}")
        schema.setdefault("components", {}).setdefault("schemas", {}).update(bodies)
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}] if service.with_key else []
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _page_file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = files("r1reward_verl.use.serve").joinpath("page").joinpath(name).read_bytes()

    async def page() -> Response:
        return Response(content, media_type=kind, headers={"Content-Security-Policy": _POLICY, **_SAFE})

    return page


async def _as_answer(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ServeError(error.status_code, "http_error", f"{error.detail}: /openapi.json lists the routes")
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        name = str(fault["loc"][-1])
        error = invalid(f"{name}: {fault['msg']} (/openapi.json describes it)", name)
    if not isinstance(error, ServeError):  # the log has it
        error = ServeError(500, "internal_error", "the service has failed; its log says why")
    return Response(error.body(), error.status, error.headers(), "application/json")


def _read(request: Request, model: type[T]) -> T:
    return schemas.read_body(model, request.scope.pop(BODY))


def _answer(content: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json", headers={"Cache-Control": "no-store"})


def _digest(*values: Any) -> bytes:
    return hashlib.sha256(json.dumps(values).encode()).digest()


async def _prepare(
    body: Any, named: Sequence[tuple[str, str | schemas.ResponseIn]]
) -> tuple[Question, list[tuple[str, ModelResponse]]]:
    """Return the question and the responses of a request, each with the name of its field."""

    def make() -> tuple[Question, list[tuple[str, ModelResponse]]]:
        return schemas.make_question(body), [(name, schemas.make_response(value, name)) for name, value in named]

    if body.media or any(not isinstance(value, str) for _, value in named):
        return await asyncio.to_thread(make)  # decodes pictures
    return make()


async def _with_fields(work: Awaitable[T], question: Question, responses: Sequence[tuple[str, ModelResponse]]) -> T:
    """Wait for work on pictures; of one that cannot be decoded the error names the field."""
    try:
        return await work
    except ValueError as error:
        named = await asyncio.to_thread(schemas.damaged_picture, question, responses)
        raise named or invalid(str(error)) from None
