"""The answers of ``/v1/completions``, in OpenAI's form."""

from __future__ import annotations

import dataclasses
import itertools
import time
import uuid
from collections.abc import Sequence
from typing import Any

from gptscratch.generation.logprobs import GeneratedToken
from gptscratch.serve.engine import Progress
from gptscratch.serve.sample import Sample
from gptscratch.serve.schema import CompletionRequest


class Completion:
    """A request's samples as JSON: whole, or as the chunks of a stream."""

    def __init__(self, request: CompletionRequest, samples: Sequence[Sample], warnings: list[str]) -> None:
        self.request, self.samples, self.warnings = request, samples, warnings
        self.head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model,
        }
        self.index = {sample: index for index, sample in enumerate(samples)}
        self.sent = [0] * len(samples)  # characters of each text
        self.opened = [False] * len(samples)

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        """The answer without a stream; ``progress`` has one entry for each sample, its last one."""
        choices = sorted((self.choice(each) for each in progress), key=lambda choice: int(choice["index"]))
        return self.with_warnings({**self.head, "choices": choices, "usage": self.usage()})

    def chunk(self, progress: Progress) -> dict[str, Any]:
        """One event of the stream; the first one has the warnings."""
        first = not any(self.opened)
        chunk = {**self.head, "choices": [self.choice(progress)]}
        return self.with_warnings(chunk) if first else chunk

    def usage_chunk(self) -> dict[str, Any]:
        return {**self.head, "choices": [], "usage": self.usage()}

    def with_warnings(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer | ({"warnings": self.warnings} if self.warnings else {})

    def usage(self) -> dict[str, int]:
        prompts = self.samples[:: self.request.n]
        prompt, new = sum(len(s.prompt_ids) for s in prompts), sum(s.generated for s in self.samples)
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def choice(self, progress: Progress) -> dict[str, Any]:
        """What is new of one sample; with ``echo`` its first part begins with the prompt."""
        index, sample = self.index[progress.sample], progress.sample
        echo = self.request.echo and not self.opened[index]
        self.opened[index] = True
        prompt = sample.prompt_tokens if echo else []
        texts = [sample.prompt if echo else "", *(token.text for token in progress.tokens)]
        text = "".join(texts)
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": progress.finish}
        if self.request.logprobs is not None:
            given = sample.prompt_offsets if echo else []
            scored = prompt[len(prompt) - len(given) :]  # not what begins an empty prompt
            new = itertools.accumulate(map(len, texts[:-1]), initial=self.sent[index])
            offsets = [*given, *itertools.islice(new, 1, None)]
            choice["logprobs"] = _logprobs([*scored, *progress.tokens], offsets)
        if self.request.return_tokens:
            choice["prompt_tokens"] = [dataclasses.asdict(token) for token in prompt]
            choice["tokens"] = [dataclasses.asdict(token) for token in progress.tokens]
        self.sent[index] += len(text)
        return choice


def _logprobs(tokens: Sequence[GeneratedToken], offsets: Sequence[int]) -> dict[str, list[Any]]:
    """OpenAI's four lists; ``offsets``: characters of the text before each token."""
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, offset in zip(tokens, offsets, strict=True):
        best = {each.token: each.logprob for each in token.best}
        if token.logprob is not None:
            best.setdefault(token.token, token.logprob)
        found["tokens"].append(token.token)
        found["token_logprobs"].append(token.logprob)
        found["top_logprobs"].append(best if token.logprob is not None else None)
        found["text_offset"].append(offset)
    return found
