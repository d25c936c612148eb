"""Generation: ``generate`` speaks ids, ``Generator`` puts a tokenizer around a model and speaks text.

The loop under both is decode.py's. Nothing here prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gptscratch import paths
from gptscratch.accelerate.decode_step import Decoder
from gptscratch.accelerate.quantization import quantize as quantize_
from gptscratch.accelerate.weight_packing import join, pack
from gptscratch.config import SampleConfig, SampleOptions, sample_config
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.generation.generate import decode
from gptscratch.generation.logits_processors import MakeRule, NoRepeat
from gptscratch.generation.logprobs import Thoughts, Trace, TracedToken
from gptscratch.generation.memorization import CopyIndex, NoCopy
from gptscratch.generation.sampling import Sampler, make_sampler
from gptscratch.generation.stop import Reply
from gptscratch.model.gpt import GPT
from gptscratch.runs.checkpoint import load_model
from gptscratch.runs.run import read_run
from gptscratch.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

_BATCH_BYTES = 1 << 30  # of keys, values and logits, for samples decoded at once
_BATCH_ROWS = 256  # samples decoded at once: more are hardly faster, and the first ones come later


def generate(
    model: GPT,
    token_ids: Sequence[int],
    *,
    stop_ids: Sequence[int] = (),
    banned_ids: Sequence[int] = (),
    **options: Unpack[SampleOptions],
) -> Iterator[int]:
    """Yield the token ids that continue one prompt, one at a time.

    Args:
        model: in any mode; while the ids are read it is in evaluation mode.
        token_ids: the prompt, at least one id.
        stop_ids: generation ends before the first of these.
        banned_ids: ids that are never generated.
        options: fields of ``SampleConfig``, such as ``max_tokens=100, temperature=0.8, seed=1``. ``stop``
            and ``no_copy_ngram`` need a tokenizer and a run: see ``Generator``.

    Raises:
        ConfigError: an option is unknown, out of range, or does not apply here.
    """
    knobs = sample_config(**options)
    _require_one_sample(knobs, "Call generate once for each; give each call another seed.")
    if knobs.stop or knobs.no_copy_ngram:
        raise ConfigError(
            "stop and no_copy_ngram need the run's tokenizer and training tokens.",
            'Use load("my-run").generate(...), or give stop_ids.',
        )
    if not len(token_ids):
        raise ValueError("generate needs a prompt of at least one token id.")
    return _generated(model, token_ids, knobs, stop_ids=stop_ids, banned_ids=banned_ids)


def _generated(
    model: GPT,
    token_ids: Sequence[int],
    knobs: SampleConfig,
    *,
    stop_ids: Sequence[int],
    banned_ids: Sequence[int],
) -> Iterator[int]:
    was_training = model.training
    model.eval()
    try:
        for row in decode(
            model,
            [token_ids],
            sampler_of(knobs),
            max_tokens=knobs.max_tokens,
            seed=knobs.seed,
            stop_ids=frozenset(stop_ids),
            banned_ids=banned_ids,
            remember=_remembers(knobs),
            rules=rules_of(knobs),
        ):
            if row[0] is not None:
                yield row[0]
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Generator:
    """A model and its tokenizer: text in, text out."""

    model: GPT
    tokenizer: Tokenizer
    end_of_text: int | None  # the id that ended each document in training; None: there was but one text
    run: Path
    checkpoint: Path | None = None
    decoder: Decoder | None = None  # made once, by ``for_sampling``
    copies: CopyIndex | None = None  # of the training tokens, for ``no_copy_ngram``: see memorization.py

    @classmethod
    def load(
        cls, name_or_path: str | Path | None = None, *, device: str = "auto", dtype: str = "float32"
    ) -> Generator:
        """A trained model with its tokenizer, by run name, run folder or checkpoint folder; None: the newest.

        A run's best checkpoint is taken. ``load("my-run").generate("Once", max_tokens=50)`` gives text.

        Raises:
            CheckpointError: it is missing, damaged, of a newer format, or holds numbers that are not finite.
        """
        run, checkpoint = paths.find_checkpoint(name_or_path)
        model = load_model(run, checkpoint, device=device, dtype=dtype)
        tokenizer = Tokenizer.load(run)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(f"{run / 'tokenizer.json'} has more entries than the model's vocabulary.")
        return cls(
            model=model,
            tokenizer=tokenizer,
            end_of_text=read_run(run).end_of_text,
            run=run,
            checkpoint=checkpoint,
        )

    def for_sampling(self, *, quantize: str | None = None) -> Generator:
        """Make the model, in place, as fast as it can be; it is not to be trained any more.

        ``quantize``: float16, int8 or int4 weights, on a CPU.

        Raises:
            ConfigError: there is no such kernel here.
        """
        if quantize is not None:
            quantize_(self.model, quantize)
        decoder = None
        if Decoder.supports(self.model):
            join(self.model)
            pack(self.model)
            decoder = Decoder(self.model)
        return dataclasses.replace(self, decoder=decoder)

    def generate(
        self, prompt: str = "", config: SampleConfig | None = None, **options: Unpack[SampleOptions]
    ) -> str:
        """The continuation of a prompt as one text that follows it directly: it may begin with a space.

        ``options`` are fields of ``SampleConfig``: ``generate("Once", max_tokens=50, seed=1)``.

        Raises:
            ConfigError: an option is unknown or out of range, or more than one sample is asked for.
        """
        return "".join(self.stream(prompt, config, **options))

    def stream(
        self, prompt: str = "", config: SampleConfig | None = None, **options: Unpack[SampleOptions]
    ) -> Iterator[str]:
        """One continuation, piece by piece: never half a character, nor a part of a stop text.

        Arguments and errors as of ``generate``.
        """
        knobs = sample_config(config, **options)
        _require_one_sample(knobs, "Use samples() for several.")
        return self._pieces(prompt, knobs)

    def _pieces(self, prompt: str, knobs: SampleConfig) -> Iterator[str]:
        reply = self._reply(prompt, knobs)
        for (token_id,) in self._decode([prompt], knobs):
            if text := reply.feed(token_id):
                yield text
            if reply.ended:
                return
        if text := reply.finish():
            yield text

    def samples(
        self, prompt: str = "", config: SampleConfig | None = None, **options: Unpack[SampleOptions]
    ) -> list[str]:
        """``num_samples`` continuations of one prompt: ``samples("Once", num_samples=3)``.

        Arguments and errors as of ``generate``.
        """
        knobs = sample_config(config, **options)
        return [
            text
            for numbers in self.batches(prompt, knobs)
            for text in self.complete([prompt] * len(numbers), knobs, streams=numbers)
        ]

    def batches(self, prompt: str, knobs: SampleConfig) -> Iterator[range]:
        """The numbers of the samples asked for, in groups that fit into memory together."""
        shape = self.model.config
        length = min(shape.context_length, len(self.prompt_ids(prompt)) + knobs.max_tokens)
        size = self.model.token_embedding.weight.element_size()
        cache = 2 * shape.n_layer * shape.n_kv_head * shape.head_dim * length * size
        row = cache + 16 * shape.vocab_size  # logits and their float32 copies
        rows = min(max(1, _BATCH_BYTES // row), _BATCH_ROWS)
        for first in range(0, knobs.num_samples, rows):
            yield range(first, min(first + rows, knobs.num_samples))

    def complete(
        self, prompts: Sequence[str], knobs: SampleConfig, *, streams: Sequence[int] | None = None
    ) -> list[str]:
        """One continuation of each prompt, decoded as one batch; ``streams`` as in ``decode``."""
        replies = [self._reply(prompt, knobs) for prompt in prompts]
        texts = [""] * len(replies)
        for row in self._decode(prompts, knobs, streams=streams):
            texts = [t + reply.feed(i) for t, reply, i in zip(texts, replies, row, strict=True)]
            if all(reply.ended for reply in replies):
                break
        return [text + reply.finish() for text, reply in zip(texts, replies, strict=True)]

    def tokens(self, prompt: str, knobs: SampleConfig, *, n_best: int = 0) -> Iterator[TracedToken]:
        """``stream``, token by token, each with its log-probability and the ``n_best`` likeliest."""
        thoughts = Thoughts(n_best)
        trace = Trace(self._reply(prompt, knobs), self.tokenizer, thoughts)
        for (token_id,) in self._decode([prompt], knobs, watch=thoughts):
            yield from trace.feed(token_id)
            if trace.reply.ended:
                return
        yield from trace.finish()

    def traced(
        self,
        prompts: Sequence[str],
        knobs: SampleConfig,
        *,
        n_best: int = 0,
        streams: Sequence[int] | None = None,
    ) -> list[list[TracedToken]]:
        """``complete``, token by token: the texts of a row's tokens, joined, are its continuation."""
        thoughts = Thoughts(n_best)
        replies = [self._reply(prompt, knobs) for prompt in prompts]
        traces = [Trace(reply, self.tokenizer, thoughts, row) for row, reply in enumerate(replies)]
        found: list[list[TracedToken]] = [[] for _ in prompts]
        for ids in self._decode(prompts, knobs, streams=streams, watch=thoughts):
            for tokens, trace, token_id in zip(found, traces, ids, strict=True):
                tokens += trace.feed(token_id)
            if all(trace.reply.ended for trace in traces):
                break
        return [tokens + trace.finish() for tokens, trace in zip(found, traces, strict=True)]

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids of a prompt, unknown characters and words left out; an empty one begins a document."""
        if ids := self.known(self.tokenizer.encode(prompt, specials=True)):
            return ids
        if self.end_of_text is not None:
            return [self.end_of_text]
        return self.known(self.tokenizer.encode("\n")) or self.known(range(self.tokenizer.vocab_size))[:1]

    def known(self, ids: Iterable[int]) -> list[int]:
        """Those ids that training had a use for."""
        never_seen = self._never_seen
        return [i for i in ids if i not in never_seen]

    @property
    def _never_seen(self) -> list[int]:
        """Ids that training had no use for: they mean nothing to the model."""
        special = {self.tokenizer.unk_id, self.tokenizer.eot_id} - {self.end_of_text, None}
        return [i for i in special if i is not None]

    def _reply(self, prompt: str, knobs: SampleConfig) -> Reply:
        """What takes the ids of a reply: its text joins the prompt's as it would inside one text."""
        return Reply(self.tokenizer.stream(after=prompt), knobs.stop)

    def _decode(
        self,
        prompts: Sequence[str],
        knobs: SampleConfig,
        *,
        streams: Sequence[int] | None = None,
        watch: Thoughts | None = None,
    ) -> Iterator[list[int | None]]:
        return decode(
            self.model,
            [self.prompt_ids(prompt) for prompt in prompts],
            streams=streams,
            sampler=sampler_of(knobs),
            max_tokens=knobs.max_tokens,
            seed=knobs.seed,
            stop_ids=frozenset() if self.end_of_text is None else frozenset((self.end_of_text,)),
            banned_ids=self._never_seen,
            remember=_remembers(knobs),
            rules=rules_of(knobs, self.copies),
            decoder=self.decoder,
            watch=watch,
        )


load = Generator.load


def sample_text(model: GPT, tokenizer: Tokenizer, end_of_text: int | None) -> str:
    """A sample to look at while a model trains, always from the same random numbers."""
    was_training = model.training
    model.eval()
    try:
        return Generator(model, tokenizer, end_of_text, run=Path()).generate(max_tokens=160, seed=0)
    finally:
        model.train(was_training)


def sampler_of(knobs: SampleConfig) -> Sampler:
    return make_sampler(
        temperature=knobs.temperature,
        top_k=knobs.top_k,
        top_p=knobs.top_p,
        min_p=knobs.min_p,
        repetition_penalty=knobs.repetition_penalty,
        frequency_penalty=knobs.frequency_penalty,
        presence_penalty=knobs.presence_penalty,
    )


def rules_of(knobs: SampleConfig, copies: CopyIndex | None = None) -> list[MakeRule]:
    """Raises ConfigError where ``no_copy_ngram`` is asked for without an index of the training tokens."""
    rules: list[MakeRule] = [partial(NoRepeat, knobs.no_repeat_ngram)] if knobs.no_repeat_ngram else []
    if knobs.no_copy_ngram:
        if copies is None:
            raise ConfigError(
                "no_copy_ngram needs an index of the run's training tokens.",
                "Make it first: gpt = gptscratch.generation.memorization.with_copies(gpt).",
            )
        rules.append(partial(NoCopy, knobs.no_copy_ngram, copies))
    return rules


def _require_one_sample(knobs: SampleConfig, hint: str) -> None:
    if knobs.num_samples != 1:
        raise ConfigError(f"num_samples is {knobs.num_samples}, and this makes one sample.", hint)


def _remembers(knobs: SampleConfig) -> bool:
    penalties = (knobs.repetition_penalty, knobs.frequency_penalty, knobs.presence_penalty)
    return penalties != (1.0, 0.0, 0.0)
