"""The simulator's routes: those of a provider, and those that control the simulator."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from . import errors
from .answers import Answer, Dripping, Hanging, Reset, Truncated, gone
from .batch_calls import BatchCalls
from .errors import Refusal
from .faults import belied, injected, replaced, spoil
from .question import Question, count_tokens
from .run import Call, Run
from .scenario import Scenario, is_refusal

_T = TypeVar("_T")

# Below these sizes a thread costs more than the work that it takes off the event loop.
_SMALL_BODY_BYTES: Final = 64 * 1024
_FEW_INPUTS: Final = 16


class Connection:
    """A client's connection, with its transport and the run that it served last."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._last_run: Run | None = None

    def enter(self, run: Run) -> tuple[bool, bool]:
        """Record a request; return whether it is the connection's first in this run, and ever."""
        first_of_run, first = self._last_run is not run, self._last_run is None
        self._last_run = run
        return first_of_run, first


class Embeddings:
    """The embeddings endpoint of OpenAI and of Azure's deployments.

    Args:
        scenario: how the server behaves.
        now: returns the time in seconds, of the clock that the event loop uses.

    """

    def __init__(self, scenario: Scenario, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.run = Run(scenario, now=now)
        # Threads parse and compute, so that a large request does not delay the headers of the
        # others in the event loop. More threads than processors would only take turns.
        self._threads = ThreadPoolExecutor(os.cpu_count())

    def restart(self, scenario: Scenario) -> None:
        """Begin a new run; requests in flight still count for the old one."""
        self.run = Run(scenario, self.run.cache, now=self._now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or fail it as the scenario demands."""
        run = self.run
        first_of_run, first = scope["state"]["connection"].enter(run)
        call = run.arrive(on_new_connection=first_of_run, is_cold=first)
        request = Request(scope, receive)
        try:
            if not await self._serve(run, call, request, send):
                response = await self._turn_away(run, call, request)
                await response(scope, receive, send)
                call.status = response.status_code
        except ClientDisconnect:
            pass  # the client left while its body was read or queued; there is nobody to answer
        finally:
            if call.left is not None:
                call.left.cancel()
            run.leave(call)

    async def _serve(self, run: Run, call: Call, request: Request, send: Send) -> bool:
        """Answer one request; return False if an outage prevents that."""
        outage = run.scenario.outage
        if outage == "hang":
            limit = None
        elif run.seconds_away() > 0:
            return False
        else:
            limit = run.seconds_to_outage()
        try:
            async with asyncio.timeout(limit) as outage_begins:
                response = await self._respond(run, call, request)
                await _until_back(run)
                if outage == "503":  # too late for that page once the answer has begun
                    outage_begins.reschedule(None)
                await response(request.scope, request.receive, send)
        except TimeoutError:
            return False
        call.status = response.status_code
        return True

    @staticmethod
    async def _turn_away(run: Run, call: Call, request: Request) -> Response:
        """Return the response that a client gets during an outage."""
        if run.scenario.outage == "reset":
            return Reset()
        if not call.is_read:
            await _drain(request.receive)
        await _until(run, call.started + call.network_seconds)
        refusal = errors.unavailable()
        return Response(refusal.body, refusal.status, refusal.headers)

    async def _respond(self, run: Run, call: Call, request: Request) -> Response:
        azure = "deployment" in request.path_params
        try:
            question = await self._read(run, call, request)
            if call.fault is not None and is_refusal(call.fault):
                return await self._refuse(run, call, call.fault, question, _key(request))
            self._admit(run, question, azure=azure)
        except Refusal as refusal:
            headers = (
                {}
                if refusal.is_page
                else _headers(run, call, azure=azure, quota=refusal.tells_quota)
            )
            await _until(run, call.started + call.network_seconds)
            return Response(refusal.body, refusal.status, {**headers, **refusal.headers})
        headers = _headers(run, call, azure=azure, quota=True)
        left = call.left if run.scenario.notices_leaving else None
        computing = await run.pool.compute(call.inputs, left)
        run.count_computed(call)
        await _until(run, call.started + call.network_seconds + call.server_seconds() + computing)
        return await self._answer(run, call, question, headers)

    async def _read(self, run: Run, call: Call, request: Request) -> Question:
        """Parse the request, and check it against all limits except the quota."""
        scenario = run.scenario
        deployment = request.path_params.get("deployment")
        azure = deployment is not None
        body = await _read_body(request, scenario.max_body_bytes)
        call.is_read = True
        if not call.holds_place:
            raise errors.busy(scenario.busy_status)
        self._watch(run, call, request.receive)
        await _until_back(run)
        if body is None:
            raise errors.body_too_long()
        key = _key(request)
        if scenario.api_key not in (None, key):
            raise errors.wrong_key(key, azure=azure)
        parse = partial(Question.parse, body, scenario, run.cache, deployment=deployment)
        question = await self._work(parse, beside=len(body) > _SMALL_BODY_BYTES)
        run.measure(call, question)
        question.check(scenario, azure=azure)
        return question

    @staticmethod
    def _watch(run: Run, call: Call, receive: Receive) -> None:
        """Watch for the client's disconnect, if the scenario depends on it."""
        if run.scenario.notices_leaving or run.scenario.max_in_flight is not None:
            call.left = asyncio.ensure_future(gone(receive))
            call.left.add_done_callback(lambda _: run.free_place(call))

    async def _refuse(
        self, run: Run, call: Call, fault: str, question: Question, key: str
    ) -> Response:
        """Return or raise the fault that replaces the answer."""
        call.shown = fault
        if fault == "hang":
            return Hanging(run.scenario.hang_seconds)
        if fault == "reset":
            await _until(run, call.started + call.network_seconds)
            return Reset()
        raise injected(fault, question, key=key, scenario=run.scenario, dice=call.dice)

    @staticmethod
    def _admit(run: Run, question: Question, *, azure: bool) -> None:
        """Charge the quotas, or raise a refusal if one of them is spent."""
        over = run.quota.admit(question.charge, run.now())
        if over:
            raise errors.over_quota(over, question.model, run.scenario, azure=azure)

    async def _answer(
        self, run: Run, call: Call, question: Question, headers: dict[str, str]
    ) -> Response:
        """Compute the answer, bill it, and spoil it if the call has a fault."""
        fault = call.shown = call.fault
        instead = replaced(fault, headers)
        if instead:
            return instead
        compose = partial(_compose, run, call, question)
        body = await self._work(compose, beside=len(question.texts) > _FEW_INPUTS)
        # A provider bills what it has computed, even if the client has disconnected.
        run.bill(call, question)
        if fault == "drip":
            return Dripping(body, headers, run.scenario.drip_seconds)
        if fault == "truncated":
            return Truncated(body, headers=headers)
        return Answer(body, headers=headers)

    async def _work(self, function: Callable[[], _T], *, beside: bool) -> _T:
        if not beside:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


class Control:
    """The model list, and the routes that control the simulator, which no provider has."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    async def models(self, request: Request) -> Response:
        """List the models, as a provider does."""
        scenario = self._embeddings.run.scenario
        if scenario.api_key not in (None, _key(request)):
            refusal = errors.wrong_key(_key(request))
            return Response(refusal.body, refusal.status, refusal.headers)
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "simulator"}
            for name in scenario.models
        ]
        return JSONResponse({"object": "list", "data": models})

    async def stats(self, _: Request) -> Response:
        """Return the counters of this run."""
        return JSONResponse(self._embeddings.run.stats())

    async def scenario(self, request: Request) -> Response:
        """Begin a new run with the scenario in the request's body."""
        try:
            scenario = Scenario.from_json(await request.body())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        self._embeddings.restart(scenario)
        return Response(status_code=204)

    async def reset(self, _: Request) -> Response:
        """Begin a new run with the same scenario."""
        self._embeddings.restart(self._embeddings.run.scenario)
        return Response(status_code=204)


def build_app(scenario: Scenario) -> Starlette:
    """Return the ASGI application; its server must set a `Connection` in every scope's state."""
    count_tokens([""])  # loads the vocabulary now, so that the first request need not wait for it
    embeddings = Embeddings(scenario)
    control = Control(embeddings)
    post, get = ["POST"], ["GET"]
    return Starlette(
        routes=[
            Route("/v1/embeddings", embeddings, methods=post),
            Route("/openai/deployments/{deployment}/embeddings", embeddings, methods=post),
            *BatchCalls(lambda: embeddings.run).routes(),
            Route("/v1/models", control.models, methods=get),
            Route("/simulator/stats", control.stats, methods=get),
            Route("/simulator/scenario", control.scenario, methods=post),
            Route("/simulator/reset", control.reset, methods=post),
        ]
    )


def _compose(run: Run, call: Call, question: Question) -> bytes:
    items = question.items(run.cache)
    if call.fault:
        items = spoil(items, question, call.fault, call.dice)
        question = belied(question, call.fault)
    return question.body(items, run.scenario)


def _headers(run: Run, call: Call, *, azure: bool, quota: bool) -> dict[str, str]:
    seconds = call.server_seconds() + run.pool.workers.seconds(call.inputs)
    headers = {
        "x-request-id": f"req_{call.dice.getrandbits(128):032x}",
        "openai-processing-ms": str(round(seconds * 1000)),
    }
    if quota and run.scenario.rate_limit_headers:
        headers |= run.quota.headers(run.now(), remaining_only=azure)
    return headers


def _key(request: Request) -> str:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    return request.headers.get("api-key") or bearer


async def _read_body(request: Request, limit: int | None) -> bytes | None:
    """Read the whole body, even one that is too long, because the client is still sending.

    Returns:
        The body, or `None` if it is longer than `limit`.

    """
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if limit is None or size <= limit:
            pieces.append(piece)
    return b"".join(pieces) if limit is None or size <= limit else None


async def _drain(receive: Receive) -> None:
    """Read and discard the rest of a body, or stop when the client disconnects."""
    while (await receive()).get("more_body"):
        pass


async def _until_back(run: Run) -> None:
    """Wait until the outage is over, if the scenario's outages let requests hang."""
    if run.scenario.outage == "hang":
        await asyncio.sleep(run.seconds_away())


async def _until(run: Run, moment: float) -> None:
    seconds = moment - run.now()
    if seconds > 0:
        await asyncio.sleep(seconds)
