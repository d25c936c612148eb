"""A trained model with its tokenizer: text in, text out. ``generate.py`` has the loop in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gptscratch import paths
from gptscratch.accelerate.decode_step import DecodeStep, accelerate_decoding
from gptscratch.config import SampleConfig, sample_config
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.generation.generate import generate_batch
from gptscratch.generation.logprobs import GeneratedToken, LogprobRecorder, TokenTexts
from gptscratch.generation.memorization import SuffixArray
from gptscratch.model.gpt import GPT
from gptscratch.runs.checkpoint import load_model
from gptscratch.runs.run import read_run
from gptscratch.sizing import kv_cache_bytes
from gptscratch.tokenizer import Tokenizer
from gptscratch.tokenizer.detokenize import DecodeStream

_BATCH_BYTES = 1 << 30  # of keys, values and logits, for samples generated at once
_BATCH_ROWS = 256  # samples generated at once: more are hardly faster, and the first ones come later


@dataclass(frozen=True)
class Completion:
    """The continuation of a prompt, to be appended to it directly: it may begin with a space."""

    tokens: tuple[GeneratedToken, ...]

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


@dataclass(frozen=True)
class Generator:
    """A model and its tokenizer."""

    model: GPT
    tokenizer: Tokenizer
    end_of_text: int | None  # the id that ended each document in training; None: there was only one text
    run: Path
    checkpoint: Path | None = None
    stop_ids: frozenset[int] = frozenset()  # what ends a text besides end_of_text
    decoder: DecodeStep | None = None  # made by ``accelerated``
    training: SuffixArray | None = None  # of the training tokens: see memorization.py

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
        record = read_run(run)
        size = model.config.vocab_size
        if tokenizer.vocab_size > size and tokenizer.largest_id >= size:
            raise CheckpointError(f"{run / 'tokenizer.json'} has more entries than the model's vocabulary.")
        stop_ids = frozenset(record.stop_ids)
        return cls(model, tokenizer, record.end_of_text, run, checkpoint, stop_ids=stop_ids)

    def accelerated(self, *, quantize: str | None = None, rows: int = 1) -> Generator:
        """Make the model, in place, as fast as it can be; it cannot be trained any more.

        ``quantize``: float16, int8 or int4 weights, on a CPU. ``rows``: sequences that are decoded together.

        Raises:
            ConfigError: there is no such kernel here.
        """
        return dataclasses.replace(
            self, decoder=accelerate_decoding(self.model, quantize=quantize, rows=rows)
        )

    def generate(self, prompt: str = "", config: SampleConfig | None = None, **options: Any) -> str:
        """The continuation of a prompt, to be appended to it directly: it may begin with a space.

        ``options`` are fields of ``SampleConfig``: ``generate("Once", max_tokens=50, seed=1)``.

        Raises:
            ConfigError: an option is unknown or out of range, or more than one sample is asked for.
        """
        return "".join(self.stream(prompt, config, **options))

    def stream(self, prompt: str = "", config: SampleConfig | None = None, **options: Any) -> Iterator[str]:
        """One continuation as it is generated: never half a character, nor a part of a stop string.

        Arguments and errors as of ``generate``.
        """
        config = sample_config(config, **options)
        if config.num_samples > 1:
            raise ConfigError(f"num_samples is {config.num_samples}, and this is one text.", "Use sample().")
        texts = ("".join(token.text for token in new) for (new,) in self._steps([prompt], config))
        return (text for text in texts if text)

    def tokens(
        self, prompt: str, config: SampleConfig, *, n_best: int | None = None
    ) -> Iterator[GeneratedToken]:
        """One continuation, token by token, each once its text is certain; ``n_best`` as in ``complete``."""
        for (new,) in self._steps([prompt], config, n_best=n_best):
            yield from new

    def sample(
        self,
        prompt: str = "",
        config: SampleConfig | None = None,
        *,
        n_best: int | None = None,
        **options: Any,
    ) -> Iterator[Completion]:
        """``num_samples`` continuations of one prompt. Arguments as of ``complete`` and ``generate``."""
        config = sample_config(config, **options)
        yield from self.complete([prompt] * config.num_samples, config, n_best=n_best)

    def complete(
        self,
        prompts: Sequence[str],
        config: SampleConfig,
        *,
        sample_ids: Sequence[int] | None = None,
        n_best: int | None = None,
    ) -> Iterator[Completion]:
        """One continuation of each prompt, generated in batches that fit into memory.

        Args:
            prompts: texts; an empty prompt begins a document.
            config: ``num_samples`` does not matter.
            sample_ids: what a row's seed is combined with: see ``generate_batch``.
            n_best: adds log-probabilities, and the most likely tokens at each place; None: neither.
        """
        sample_ids, shape = sample_ids or range(len(prompts)), self.model.config
        row_bytes = kv_cache_bytes(shape) + 16 * shape.vocab_size  # logits and float32 copies
        n_rows = min(max(1, _BATCH_BYTES // row_bytes), _BATCH_ROWS)
        for first in range(0, len(prompts), n_rows):
            some = slice(first, first + n_rows)
            tokens: list[list[GeneratedToken]] = [[] for _ in prompts[some]]
            for new in self._steps(prompts[some], config, sample_ids=sample_ids[some], n_best=n_best):
                for row, more in zip(tokens, new, strict=True):
                    row += more
            yield from (Completion(tuple(row)) for row in tokens)

    def prompt_ids(self, prompt: str) -> list[int]:
        """What the model reads of a prompt: no unknown characters and words; what its tokenizer puts first.

        An empty prompt begins a document.
        """
        return self.readable(self.tokenizer.encode(prompt, specials=True))

    def readable(self, ids: Sequence[int]) -> list[int]:
        """What the model reads of a prompt of ids: see ``prompt_ids``."""
        if known := [*self.tokenizer.prefix_ids, *self.known(ids)]:
            return known
        if self.end_of_text is not None:
            return [self.end_of_text]
        return self.known(self.tokenizer.encode("\n")) or self.known(range(self.tokenizer.vocab_size))[:1]

    def known(self, ids: Iterable[int]) -> list[int]:
        """Those ids that the model can read."""
        unused = self._unused_ids
        return [i for i in ids if i not in unused]

    @cached_property
    def ending_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        return frozenset(i for i in (self.end_of_text, *self.stop_ids) if i is not None)

    @cached_property
    def banned_ids(self) -> list[int]:
        """Ids that are never generated."""
        return [i for i in self._unused_ids if i < self.model.config.vocab_size]

    @cached_property
    def _unused_ids(self) -> frozenset[int]:
        """Ids that mean nothing to the model: special ones that it has not seen, those without a token."""
        special = {self.tokenizer.unk_id, self.tokenizer.eot_id} - {self.end_of_text, *self.stop_ids}
        sizes = sorted((self.tokenizer.vocab_size, self.model.config.vocab_size))
        return frozenset(i for i in (*special, *range(*sizes)) if i is not None)

    def _steps(
        self,
        prompts: Sequence[str],
        config: SampleConfig,
        *,
        sample_ids: Sequence[int] | None = None,
        n_best: int | None = None,
    ) -> Iterator[list[list[GeneratedToken]]]:
        """For each step, the tokens of each row whose text is certain by then."""
        recorder = None if n_best is None else LogprobRecorder(self.tokenizer, n_best)
        token = recorder.token if recorder else lambda _, token_id: GeneratedToken(token_id)
        encoded = [self.tokenizer.encode(prompt, specials=True) for prompt in prompts]
        rows = [
            TokenTexts(DecodeStream(self.tokenizer, prompt, ids), config.stop)
            for prompt, ids in zip(prompts, encoded, strict=True)
        ]
        for ids in generate_batch(
            self.model,
            [self.readable(ids) for ids in encoded],
            config,
            sample_ids=sample_ids,
            stop_ids=self.ending_ids,
            banned_ids=self.banned_ids,
            training=self.training,
            decoder=self.decoder,
            on_logits=recorder.record if recorder else None,
        ):
            yield [
                row.feed(None if token_id is None else token(number, token_id))
                for number, (row, token_id) in enumerate(zip(rows, ids, strict=True))
            ]
            if all(row.ended for row in rows):
                return
        yield [row.feed(None) for row in rows]


load = Generator.load


def sample_text(model: GPT, run: Path) -> str:
    """A sample to look at while a model trains, always from the same random numbers."""
    was_training = model.training
    model.eval()
    try:
        record = read_run(run)
        stop_ids = frozenset(record.stop_ids)
        generator = Generator(model, Tokenizer.load(run), record.end_of_text, run, stop_ids=stop_ids)
        return generator.generate(max_tokens=160, seed=0)
    finally:
        model.train(was_training)
