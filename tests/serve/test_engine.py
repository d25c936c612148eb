"""Texts that are decoded together are those that each request would get alone."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch.config import POSITIONS, SampleConfig
from gptscratch.generation.generator import Generator, load
from gptscratch.generation.memorization import with_training_tokens

pytest.importorskip("starlette")

from gptscratch.serve.engine import Engine, Progress, joined
from gptscratch.serve.errors import ApiError
from gptscratch.serve.sample import Sample

PROMPTS = ["", "the fox", "a dog sleeps here.\nmy", "far far far far far far far far far"]


def text_of(tokens: Any) -> str:
    return "".join(token.text for token in tokens)


class Running:
    """An engine with what it has reported, by sample."""

    def __init__(self, generator: Generator, **options: int) -> None:
        self.reports: queue.Queue[Progress] = queue.Queue()
        self.engine = Engine(generator, lambda found: [*map(self.reports.put, found)] and None, **options)
        self.generator = generator

    def sample(self, prompt: str | list[int], **options: Any) -> Sample:
        more = {name: options.pop(name) for name in ("number", "n_best", "stream") if name in options}
        return Sample(self.generator, prompt, SampleConfig(**options), **more)

    def finished(self, *samples: Sample) -> list[Progress]:
        found: dict[Sample, Progress] = {}
        while len(found) < len(samples):
            progress = self.reports.get(timeout=20)
            if progress.finish or progress.error:
                found[progress.sample] = progress
        return [found[sample] for sample in samples]

    def texts(self, *samples: Sample) -> list[str]:
        self.engine.submit(samples)
        return [text_of(progress.tokens) for progress in self.finished(*samples)]


@pytest.fixture
def running(tale: Path) -> Iterator[Running]:
    found = Running(load(tale, device="cpu").accelerated(), max_batch=3, max_queue=40)
    yield found
    found.engine.close()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.3},
        {"top_k": 5, "top_p": 0.9},
        {"min_p": 0.1, "repetition_penalty": 1.4, "frequency_penalty": 0.3},
        {"no_repeat_ngram": 3, "stop": (".", "og")},
    ],
    ids=lambda options: ",".join(options),
)
def test_texts_decoded_together_equal_each_alone(running: Running, options: dict[str, Any]) -> None:
    # More texts than rows, of different lengths, past the context of 16: they join and leave at all times.
    samples = [
        running.sample(prompt, seed=seed, number=number, max_tokens=9 + 13 * seed, **options)
        for seed, prompt in enumerate(PROMPTS)
        for number in (0, 1)
    ]
    alone = [
        next(running.generator.complete([prompt], config, sample_ids=[number])).text
        for seed, prompt in enumerate(PROMPTS)
        for config in [SampleConfig(seed=seed, max_tokens=9 + 13 * seed, **options)]
        for number in (0, 1)
    ]
    assert running.texts(*samples) == alone


VARIANTS: list[dict[str, Any]] = [
    *({"position": name} for name in POSITIONS if name != "rope"),
    {"tokenizer": "byte", "dropout": 0.3, "tie_embeddings": True},
    {"tokenizer": "word", "n_kv_head": 1},
    {"tokenizer": "bpe", "data.vocab_size": 280, "context_length": 15, "tie_embeddings": False},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: next(iter(changes.values())))
def test_every_kind_of_run_is_decoded_as_alone(fit: Any, changes: dict[str, Any]) -> None:
    run = fit(**changes, steps=4).run
    for generator in (load(run, device="cpu"), load(run, device="cpu").accelerated()):
        running = Running(generator, max_batch=2)
        samples = [running.sample(prompt, max_tokens=40, temperature=0) for prompt in PROMPTS]
        alone = [generator.generate(prompt, max_tokens=40, temperature=0) for prompt in PROMPTS]
        assert running.texts(*samples) == alone
        running.engine.close()


def test_texts_of_different_options_share_a_batch(running: Running) -> None:
    options: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 2.0, "seed": 1},
        {"top_k": 3, "seed": 2},
    ]
    samples = [running.sample("the", max_tokens=12, **each) for each in options]
    assert running.texts(*samples) == [
        running.generator.generate("the", max_tokens=12, **each) for each in options
    ]


def test_tokens_and_their_alternatives_are_those_of_a_text_alone(running: Running) -> None:
    other = running.sample("a dog", max_tokens=30, seed=4)
    sample = running.sample("the fox", max_tokens=10, seed=3, n_best=4)
    running.engine.submit([other, sample])
    found = running.finished(other, sample)
    (wanted,) = running.generator.sample("the fox", n_best=4, max_tokens=10, seed=3)
    assert [dataclasses.replace(token, logprob=None, best=()) for token in found[1].tokens] == [
        dataclasses.replace(token, logprob=None, best=()) for token in wanted.tokens
    ]
    for token, same in zip(found[1].tokens, wanted.tokens, strict=True):
        assert token.logprob == pytest.approx(same.logprob, abs=1e-4)
        assert [each.id for each in token.best] == [each.id for each in same.best]
    assert {token.logprob for token in found[0].tokens} == {None}


def test_a_text_without_copies_is_decoded_as_alone(tale: Path) -> None:
    generator = with_training_tokens(load(tale, device="cpu"))
    running = Running(generator)
    config = {"max_tokens": 30, "seed": 1, "no_copy_ngram": 6}
    assert running.texts(running.sample("the", **config)) == [generator.generate("the", **config)]
    running.engine.close()


def test_a_canceled_text_leaves_and_reports_nothing(running: Running) -> None:
    endless = [running.sample("the", max_tokens=10**6, stream=True) for _ in range(5)]  # two of them wait
    running.engine.submit(endless)
    running.reports.get(timeout=20)
    running.engine.cancel(endless)
    short = running.sample("the", max_tokens=2)
    running.engine.submit([short])
    running.finished(short)
    assert running.engine.waiting == 0
    another = running.sample("the", max_tokens=2)
    running.engine.submit([another])
    assert running.reports.get(timeout=20).sample is another
    assert not any(sample.canceled for sample in running.engine.running)


def test_a_full_queue_refuses_all_texts_of_a_request(tale: Path) -> None:
    running = Running(load(tale, device="cpu"), max_batch=1, max_queue=2)
    first = [running.sample("the", max_tokens=10**6) for _ in range(3)]
    running.engine.submit(first)
    with pytest.raises(ApiError, match="busy") as refused:
        running.engine.submit([running.sample("a", max_tokens=1)] * 2)
    assert refused.value.status == 429
    running.engine.cancel(first)
    assert len(running.texts(running.sample("the", max_tokens=1))[0]) == 1
    running.engine.close()


def test_after_a_failure_the_engine_answers_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(running.engine, "_choose", lambda _: (_ for _ in ()).throw(MemoryError("no memory")))
        broken = running.sample("the", max_tokens=3)
        running.engine.submit([broken])
        (progress,) = running.finished(broken)
        assert isinstance(progress.error, MemoryError)
    assert running.texts(running.sample("the", max_tokens=3, seed=0)) == [
        running.generator.generate("the", max_tokens=3, seed=0)
    ]


def test_a_stopped_engine_answers_all_texts_with_an_error(running: Running) -> None:
    samples = [running.sample("the", max_tokens=10**6) for _ in range(5)]  # two of them wait
    running.engine.submit(samples)
    running.engine.abort()
    assert [str(progress.error) for progress in running.finished(*samples)] == ["The server was stopped."] * 5
    with pytest.raises(ApiError, match="stopped"):
        running.engine.submit([running.sample("the", max_tokens=1)])


def test_logits_that_are_not_numbers_are_an_error_of_the_text(tale: Path) -> None:
    generator = load(tale, device="cpu")
    with torch.no_grad():
        generator.model.final_norm.weight.fill_(torch.nan)  # type: ignore[operator, union-attr]
    running = Running(generator)
    sample = running.sample("the", max_tokens=3)
    running.engine.submit([sample])
    assert "not numbers" in str(running.finished(sample)[0].error)
    running.engine.close()


def test_what_a_slow_reader_has_not_taken_is_joined_by_text(running: Running) -> None:
    samples = [running.sample(prompt, max_tokens=9, seed=1, stream=True) for prompt in ("the", "a dog")]
    running.engine.submit(samples)
    found: list[Progress] = []
    while sum(progress.finish is not None for progress in found) < 2:
        found.append(running.reports.get(timeout=20))
    assert len(found) == 18
    for progress, prompt in zip(joined(found), ("the", "a dog"), strict=True):
        assert text_of(progress.tokens) == running.generator.generate(prompt, max_tokens=9, seed=1)
        assert progress.finish == "length"
