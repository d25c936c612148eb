"""Continuous batching: one thread decodes all texts of a model together.

Between two tokens, texts that wait join the batch, and complete ones leave it (Yu et al. 2022, Orca).
Each has its own place in the KV cache, random numbers and options, so the others change nothing in it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptscratch.generation.context import Context
from gptscratch.generation.generate import require_numbers
from gptscratch.generation.generator import Generator
from gptscratch.generation.logprobs import GeneratedToken, LogprobRecorder
from gptscratch.generation.sampling import make_sampler
from gptscratch.serve.errors import server_stopped, too_many_requests
from gptscratch.serve.sample import Sample
from gptscratch.tokenizer.detokenize import DecodeStream

_PREFILL = 4096  # prompt tokens that are read between two tokens of the others, unless one prompt is longer


@dataclass(frozen=True)
class Progress:
    """What one step added to one text."""

    sample: Sample
    tokens: list[GeneratedToken]
    finish: str | None
    error: Exception | None = None


def joined(several: Sequence[Progress]) -> list[Progress]:
    """One for each sample: what a slow reader has not taken yet is sent together."""
    found: dict[Sample, Progress] = {}
    for each in several:
        before = found[each.sample].tokens if each.sample in found else []
        found[each.sample] = dataclasses.replace(each, tokens=before + each.tokens)
    return list(found.values())


class Engine:
    """Takes samples from any thread and reports their progress from its own."""

    def __init__(
        self,
        generator: Generator,
        report: Callable[[list[Progress]], None],
        *,
        max_batch: int = 16,
        max_queue: int = 64,
    ) -> None:
        """
        Args:
            report: called after each step that has something to report.
            max_batch: texts that are decoded together.
            max_queue: texts that wait for that.
        """
        self.generator, self.report = generator, report
        self.max_batch, self.max_queue = max_batch, max_queue
        self._change = threading.Condition()
        self._waiting: deque[Sample] = deque()
        self._closed = self._aborted = False
        self.running: list[Sample] = []  # in the order of the batch's rows
        device = generator.model.token_embedding.weight.device
        self._banned = torch.tensor(generator.banned_ids, dtype=torch.long, device=device)
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, samples: Sequence[Sample]) -> None:
        """Add texts to the queue, all or none.

        Raises:
            ApiError: the queue is full.
        """
        with self._change:
            free = self.max_batch - len(self.running)
            if self._aborted:
                raise server_stopped()
            if len(self._waiting) + len(samples) > max(0, free) + self.max_queue:
                raise too_many_requests(len(self._waiting))
            self._waiting += samples
            self._change.notify()

    def cancel(self, samples: Sequence[Sample]) -> None:
        """Stop texts that will not be read: they leave the batch at the next token, without a report."""
        with self._change:
            for sample in samples:
                sample.canceled = True
            self._waiting = deque(sample for sample in self._waiting if not sample.canceled)

    def abort(self) -> None:
        """Answer all texts, and those that come later, with an error: the server is stopped."""
        with self._change:
            self._aborted = True
            self._change.notify()

    def close(self) -> None:
        """End the thread after its current token."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        context = self._context()
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self.running or self._closed)
                if self._closed:
                    return
                if self._aborted:
                    self.running += self._waiting
                    self._waiting.clear()
            try:
                if self._aborted:
                    raise server_stopped()
                self._leave(context)
                self._join(context)
                if self.running:
                    self._step(context)
            except Exception as error:  # out of memory, or a defect: the server answers and continues
                self._fail(error)
                context = self._context()

    def _context(self) -> Context:
        model = self.generator.model
        return Context(model, self.max_batch, model.config.context_length, self.generator.decoder)

    def _leave(self, context: Context) -> None:
        for row in reversed(range(len(self.running))):
            if self.running[row].done or self.running[row].canceled:
                context.remove(row)
                self.running[row] = self.running[-1]
                self.running.pop()

    def _join(self, context: Context) -> None:
        """The first texts that wait, as many as there are rows, and as can be read quickly."""
        joining = self._next(context.length)
        try:
            for sample in joining:
                if sample.scores_prompt:
                    self._score(sample, context)
            reading = [sample for sample in joining if not sample.done]
            if reading:
                context.add([sample.prompt_ids for sample in reading])
        except Exception as error:
            for sample in joining:
                sample.error = error
            self._send(joining)
            raise
        self.running += reading
        self._send([sample for sample in joining if sample.done])

    def _next(self, context_length: int) -> list[Sample]:
        joining: list[Sample] = []
        longest = 0
        with self._change:
            while self._waiting and len(self.running) + len(joining) < self.max_batch:
                longest = max(longest, min(len(self._waiting[0].prompt_ids), context_length))
                if joining and longest * (len(joining) + 1) > _PREFILL:
                    break
                joining.append(self._waiting.popleft())
        return joining

    def _step(self, context: Context) -> None:
        """One more token of each text."""
        logits = context.read()  # (B, V)
        if any(not sample.generated for sample in self.running):
            require_numbers(logits)
        tokens = self._recorded(logits)
        logits.index_fill_(1, self._banned, -torch.inf)
        chosen = self._choose(logits)
        token_ids: list[int] = chosen.tolist()
        for row, (sample, token_id) in enumerate(zip(self.running, token_ids, strict=True)):
            sample.take(tokens(row, token_id), ends=token_id in self.generator.ending_ids)
        context.append(chosen, token_ids)
        self._send([sample for sample in self.running if sample.done or (sample.stream and sample.tokens)])

    def _recorded(self, logits: Tensor) -> Callable[[int, int], GeneratedToken]:
        """What makes a token of a row and an id, with log-probabilities where they are asked for."""
        wanted = {row: sample.n_best for row, sample in enumerate(self.running) if sample.n_best is not None}
        if not wanted:
            return lambda _, token_id: GeneratedToken(token_id)
        recorder = LogprobRecorder(self.generator.tokenizer, max(n for n in wanted.values()))
        recorder.record(logits[list(wanted)])
        places = {row: place for place, row in enumerate(wanted)}

        def token(row: int, token_id: int) -> GeneratedToken:
            if row not in wanted:
                return GeneratedToken(token_id)
            found = recorder.token(places[row], token_id)
            found.best = found.best[: wanted[row]]
            return found

        return token

    def _choose(self, logits: Tensor) -> Tensor:
        """(B,) ids; rows with the same sampling options are sampled together."""
        groups: dict[object, list[int]] = defaultdict(list)
        for row, sample in enumerate(self.running):
            groups[sample.sampling].append(row)
            for process in sample.processors:
                logits[row] = process(logits[row : row + 1])[0]
        chosen = torch.empty(len(self.running), dtype=torch.long, device=logits.device)
        for rows in groups.values():
            sampler = make_sampler(self.running[rows[0]].config)
            uniform = torch.cat([next(self.running[row].random) for row in rows])
            chosen[rows] = sampler(logits[rows], uniform)
        for row, sample in enumerate(self.running):
            for process in sample.processors:
                process.append(chosen[row : row + 1])
        return chosen

    def _score(self, sample: Sample, context: Context) -> None:
        """Log-probabilities of the prompt's tokens that fit into the context, except the first of these."""
        ids = sample.prompt_ids
        first = max(0, len(ids) - context.length)
        tokens = [GeneratedToken(i, self.generator.tokenizer.token_text(i)) for i in ids]
        if len(ids) - first > 1 and sample.n_best is not None:
            inputs = torch.tensor([ids[first:-1]], device=context.device)
            recorder = LogprobRecorder(self.generator.tokenizer, sample.n_best)
            recorder.record(context.model(inputs)[0])  # (T - 1, V)
            for place, token_id in enumerate(ids[first + 1 :]):
                tokens[first + 1 + place] = recorder.token(place, token_id)
        stream = DecodeStream(self.generator.tokenizer)
        for token in tokens:
            token.text = stream.feed(token.id)
        sample.prompt_tokens = tokens[len(self.generator.tokenizer.prefix_ids) :]
        if sample.max_tokens == 0:
            sample.finish = "length"

    def _fail(self, error: Exception) -> None:
        for sample in self.running:
            sample.error = error
        self._send(self.running)
        self.running = []

    def _send(self, samples: Sequence[Sample]) -> None:
        found = [Progress(s, s.report(), s.finish, s.error) for s in samples if not s.canceled]
        if found:
            self.report(found)
