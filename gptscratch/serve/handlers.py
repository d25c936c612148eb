"""What the server does with each request: checks, limits, samples, and answers whole or as a stream."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gptscratch.errors import UserError
from gptscratch.serve.completions import Completion
from gptscratch.serve.engine import Progress, joined
from gptscratch.serve.errors import ApiError, generation_failed
from gptscratch.serve.models import Limits, Models, copied_spans, warnings_of
from gptscratch.serve.sample import Sample
from gptscratch.serve.schema import CompletionRequest, parse_completion, parse_json, parse_prompts
from gptscratch.serve.stream import EventStream

_BODY_SECONDS = 30  # a body takes at most
_MOST_COPIED = 4096  # ids that are searched for at once


class Handlers:
    """The handlers; ``models`` exists while the application runs."""

    models: Models

    def __init__(self, limits: Limits, api_key: str | None) -> None:
        self.limits = limits
        self.api_key = api_key

    async def health(self, _: Request) -> Response:
        engines = self.models.engines.values()
        counts = {
            "running": sum(len(each.running) for each in engines),
            "waiting": sum(each.waiting for each in engines),
        }
        return JSONResponse({"status": "ok", **counts})

    async def list_models(self, request: Request) -> Response:
        self._authorize(request)
        data = [self.models.describe(name) for name in self.models.generators]
        return JSONResponse({"object": "list", "data": data})

    async def show_model(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse(self.models.describe(self.models.name(request.path_params["name"])))

    async def complete(self, request: Request) -> Response:
        body = await self._body(request)
        name = self.models.name(str(body.get("model") or ""))
        vocab_size = self.models.generators[name].tokenizer.vocab_size
        asked = parse_completion(body | {"model": name}, vocab_size=vocab_size)
        samples, warnings = await run_in_threadpool(self._samples, name, asked)
        inbox = self.models.submit(name, samples)
        completion = Completion(asked, samples, warnings)
        if asked.stream:
            events = _events(completion, inbox)
            return EventStream(events, on_close=lambda: self.models.release(name, samples))
        try:
            return JSONResponse(completion.whole(await _all(inbox, len(samples), request)))
        finally:
            self.models.release(name, samples)

    async def copied(self, request: Request) -> Response:
        body = await self._body(request)
        name = self.models.name(str(body.pop("model", "") or ""))
        ids, after = body.pop("ids", None), body.pop("after", 0)
        if body:
            raise ApiError(f"There is no field {next(iter(body))[:100]!r}.", param=next(iter(body))[:100])
        vocab_size = self.models.generators[name].tokenizer.vocab_size
        if not isinstance(ids, list) or not ids or len(ids) > _MOST_COPIED:
            raise ApiError(f"ids must be a list of 1 to {_MOST_COPIED} token ids.", param="ids")
        parse_prompts([ids], vocab_size=vocab_size)
        if type(after) is not int or not 0 <= after <= len(ids):
            raise ApiError(f"after must be from 0 to the {len(ids)} ids.", param="after")
        generator = await run_in_threadpool(self.models.with_training, name)
        return JSONResponse(await run_in_threadpool(copied_spans, generator, ids, after=after))

    def _samples(self, name: str, asked: CompletionRequest) -> tuple[list[Sample], list[str]]:
        """In a thread: a long prompt takes a while to tokenize."""
        limits, config = self.limits, asked.config
        most = limits.max_queue + self.models.engines[name].max_batch
        if len(asked.prompts) * asked.n > most:
            raise ApiError(f"A request may ask for at most {most} texts (n for each prompt).", param="n")
        if asked.max_tokens > limits.max_tokens:
            raise ApiError(
                f"max_tokens is {asked.max_tokens}: at most {limits.max_tokens} are allowed.",
                param="max_tokens",
            )
        generator = self.models.generators[name]
        for prompt in asked.prompts:
            if isinstance(prompt, list) and len(generator.known(prompt)) < len(prompt):
                raise ApiError("The prompt has an id that was not in the training text.", param="prompt")
        if config.no_copy_ngram:
            generator = self.models.with_training(name)
        samples = [
            Sample(
                generator,
                prompt,
                config,
                number=number,
                max_tokens=asked.max_tokens,
                n_best=asked.logprobs,
                scores_prompt=asked.echo
                and (asked.logprobs is not None or asked.return_tokens or asked.max_tokens == 0),
                stream=asked.stream,
            )
            for prompt in asked.prompts
            for number in range(asked.n)
        ]
        longest = max(len(sample.prompt_ids) for sample in samples)
        if longest > limits.max_prompt_tokens:
            raise ApiError(
                f"The prompt has {longest} tokens: at most {limits.max_prompt_tokens} are allowed.",
                param="prompt",
                code="context_length_exceeded",
            )
        return samples, warnings_of(generator, samples)

    async def _body(self, request: Request) -> dict[str, Any]:
        """The JSON object that was sent. Other content types, which any page may send, are refused."""
        self._authorize(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError("The Content-Type must be application/json.", status=415)
        try:
            return parse_json(await asyncio.wait_for(self._read(request), _BODY_SECONDS))
        except asyncio.TimeoutError:
            raise ApiError(f"The body did not arrive within {_BODY_SECONDS} seconds.", status=408) from None

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.limits.max_body:
                message = f"The body is longer than {self.limits.max_body} bytes."
                raise ApiError(message, status=413)
        return bytes(body)

    def _authorize(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")  # as it was sent
        if self.api_key and not secrets.compare_digest(given, b"Bearer " + self.api_key.encode()):
            raise ApiError(
                "The API key is missing or wrong. Send it as: Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
            )


async def _events(completion: Completion, inbox: asyncio.Queue[Progress]) -> AsyncIterator[str]:
    """The data of server-sent events, the last one of which is [DONE]."""
    left = len(completion.samples)
    while left:
        arrived = [await inbox.get()]
        while not inbox.empty():
            arrived.append(inbox.get_nowait())
        for progress in joined(arrived):
            if progress.error is not None:
                yield json.dumps(_failed(progress.error).body)
                return
            left -= progress.finish is not None
            yield json.dumps(completion.chunk(progress))
    if completion.request.include_usage:
        yield json.dumps(completion.usage_chunk())
    yield "[DONE]"


async def _all(inbox: asyncio.Queue[Progress], count: int, request: Request) -> list[Progress]:
    """The last progress of each sample, unless the client leaves before."""

    async def collect() -> list[Progress]:
        found: list[Progress] = []
        while len(found) < count:
            progress = await inbox.get()
            if progress.error is not None:
                raise _failed(progress.error)
            found.append(progress)
        return found

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    complete, gone = asyncio.create_task(collect()), asyncio.create_task(left())
    await asyncio.wait((complete, gone), return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not complete.done():
        complete.cancel()
        raise ClientDisconnect
    return complete.result()


def _failed(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return generation_failed(str(error))
    logging.getLogger(__name__).error("A text could not be generated.", exc_info=error)
    return generation_failed("see the messages of the server.")
