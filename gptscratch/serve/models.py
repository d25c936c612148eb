"""The models of a server, each with its engine, and what is sent from the engines to the requests."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptscratch.errors import UserError
from gptscratch.generation.generator import Generator
from gptscratch.generation.memorization import with_training_tokens
from gptscratch.serve.engine import Engine, Progress
from gptscratch.serve.errors import ApiError
from gptscratch.serve.sample import Sample
from gptscratch.sizing import count_parameters, kv_cache_bytes

_BATCH_BYTES = 1 << 30  # of keys, values and logits


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client, and all of them together, may ask for."""

    max_batch: int | None = None  # texts decoded together; None: 16, or fewer where memory is scarce
    max_queue: int = 64  # texts that wait
    max_tokens: int = 4096  # new tokens of a text
    max_prompt_tokens: int = 16384
    max_body: int = 1 << 20  # bytes


class Models:
    """Starts an engine for each generator; ``submit`` gives the inbox that their progress goes to."""

    def __init__(self, generators: Mapping[str, Generator], limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.generators = dict(generators)
        self.engines = {
            name: Engine(
                generator,
                self._report,
                max_batch=limits.max_batch or batch_that_fits(generator),
                max_queue=limits.max_queue,
            )
            for name, generator in generators.items()
        }
        self._inboxes: dict[Sample, asyncio.Queue[Progress]] = {}
        self._reading = threading.Lock()

    def name(self, given: str) -> str:
        """The model of a request; without a name it is the first.

        Raises:
            ApiError: there is no such model.
        """
        name = given or next(iter(self.generators))
        if name not in self.generators:
            known = ", ".join(self.generators)
            raise ApiError(
                f"There is no model {name[:100]!r}. The models: {known}.",
                status=404,
                param="model",
                code="model_not_found",
            )
        return name

    def with_training(self, name: str) -> Generator:
        """The generator with its training tokens, which are read at the first use: call it in a thread.

        Raises:
            ApiError: they are gone; the reason, which names files of this machine, is logged.
        """
        with self._reading:
            try:
                if self.generators[name].training is None:
                    self.generators[name] = with_training_tokens(self.generators[name])
            except UserError as error:
                logging.getLogger(__name__).warning("%s", error)
                message = f"The training text of {name} is not there any more, or has changed."
                raise ApiError(message, code="no_training_text") from None
            return self.generators[name]

    def submit(self, name: str, samples: Sequence[Sample]) -> asyncio.Queue[Progress]:
        """Queue the samples.

        Raises:
            ApiError: the queue is full.
        """
        self.engines[name].submit(samples)
        inbox: asyncio.Queue[Progress] = asyncio.Queue()
        self._inboxes |= dict.fromkeys(samples, inbox)
        return inbox

    def release(self, name: str, samples: Sequence[Sample]) -> None:
        """The request has ended: what is left of its samples is not generated."""
        for sample in samples:
            self._inboxes.pop(sample, None)
        if any(not sample.done for sample in samples):
            self.engines[name].cancel(samples)

    def abort(self) -> None:
        """Answer all requests with an error; safe in a signal handler."""
        for engine in self.engines.values():
            self.loop.call_soon_threadsafe(engine.abort)

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()

    def describe(self, name: str) -> dict[str, Any]:
        """The model as OpenAI's ``/v1/models`` has it, and what the page shows of it."""
        generator = self.generators[name]
        config, run = generator.model.config, generator.run
        created = run.stat().st_mtime if run.exists() else 0
        return {
            "id": name,
            "object": "model",
            "created": int(created),
            "owned_by": "gptscratch",
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "parameters": count_parameters(config).total,
            "tokenizer": generator.tokenizer.kind,
            "checkpoint": generator.checkpoint.name if generator.checkpoint else None,
        }

    def _report(self, progress: list[Progress]) -> None:
        """Called by the engines' threads."""
        self.loop.call_soon_threadsafe(self._deliver, progress)

    def _deliver(self, progress: list[Progress]) -> None:
        for each in progress:
            if each.sample in self._inboxes:
                self._inboxes[each.sample].put_nowait(each)


def batch_that_fits(generator: Generator) -> int:
    """Texts decoded together: 16, or fewer where keys, values and logits would take more than 1 GiB."""
    config = generator.model.config
    row_bytes = kv_cache_bytes(config) + 16 * config.vocab_size
    return max(1, min(16, _BATCH_BYTES // row_bytes))


def warnings_of(generator: Generator, samples: Sequence[Sample]) -> list[str]:
    """What the model does not read of the prompts."""
    found = []
    context = generator.model.config.context_length
    longest = max(len(sample.prompt_ids) for sample in samples)
    if longest > context:
        found.append(f"The prompt has {longest} tokens; the model reads the last {context} of them.")
    unknown = [part for sample in samples for part in generator.tokenizer.unknown(sample.prompt)]
    if unknown:
        shown = " ".join(map(repr, dict.fromkeys(unknown[:10])))
        found.append(f"The vocabulary lacks these parts of the prompt, which are left out: {shown}")
    return found


def copied_spans(generator: Generator, ids: Sequence[int], *, after: int = 0) -> dict[str, Any]:
    """What of these ids is in the training text, as spans of tokens.

    Returns:
        ``lengths``: for each id, the length of the longest such span that has it; ``longest``: the longest
        one that begins after the first ``after`` ids, which are the prompt's.
    """
    assert generator.training is not None
    lengths = generator.training.match_lengths(ids)
    covered = [0] * len(ids)
    for start, length in enumerate(lengths):
        for place in range(start, start + length):
            covered[place] = max(covered[place], length)
    longest = max(lengths[after:], default=0)
    start = lengths.index(longest, after) if longest else after
    span = list(ids[start : start + longest])
    times = len(generator.training.positions(span)) if span else 0
    text = generator.tokenizer.decode(span)
    return {
        "lengths": covered,
        "longest": {"start": start, "tokens": longest, "text": text, "times": times},
    }
