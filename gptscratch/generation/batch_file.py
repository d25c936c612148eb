"""A file of prompts, one continuation each: batches of similar length, saved as they come, resumable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError, disk_errors
from gptscratch.generation.generator import Generator
from gptscratch.generation.memorization import longest_copy

_ROWS = 16  # prompts continued at once


def complete_file(
    generator: Generator,
    prompts: Sequence[str],
    config: SampleConfig,
    out: Path,
    *,
    n_best: int | None = None,
    novelty: bool = False,
) -> Iterator[int]:
    """Append ``{"index", "prompt", "text"}`` for each prompt that the file lacks; yields how many it has.

    A seed gives each prompt the same text however often this was stopped, until the context is full.

    Args:
        generator: with its training tokens where ``novelty`` asks for them.
        prompts: one line of the results each; an empty prompt begins a document.
        config: for all of them; ``num_samples`` does not matter.
        out: JSON lines, in the order of the prompts' lengths.
        n_best: adds ``tokens`` with log-probabilities and this number of alternatives; None: no tokens.
        novelty: adds ``copied``, the longest span that is in the training tokens.

    Raises:
        ConfigError: the file has the results of other prompts, or its folder does not exist.
        RunError: the disk is full or refuses.
    """
    done = _done(out, prompts)
    yield len(done)
    todo = [number for number in range(len(prompts)) if number not in done]
    todo.sort(key=lambda number: len(generator.prompt_ids(prompts[number])))  # less padding
    with disk_errors(f"writing {out}"), out.open("a", encoding="utf-8") as file:
        for first in range(0, len(todo), _ROWS):
            rows = todo[first : first + _ROWS]
            texts = [prompts[number] for number in rows]
            completions = generator.complete(texts, config, sample_ids=rows, n_best=n_best)
            for number, completion in zip(rows, completions, strict=True):
                line: dict[str, Any] = {"index": number, "prompt": prompts[number], "text": completion.text}
                if n_best is not None:
                    line["tokens"] = [dataclasses.asdict(token) for token in completion.tokens]
                if novelty:
                    copy = longest_copy(generator, completion.text, after=prompts[number])
                    line["copied"] = dataclasses.asdict(copy)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            yield len(done) + first + len(rows)


def _done(out: Path, prompts: Sequence[str]) -> set[int]:
    """Which prompts have their line; an incomplete line, from a killed process, is deleted."""
    if not out.is_file():
        if not out.parent.is_dir():
            raise ConfigError(f"The folder {out.parent} does not exist.", "Make it, or name another file.")
        return set()
    whole, end, _ = out.read_bytes().rpartition(b"\n")
    lines = whole.decode("utf-8", "replace").split("\n") if whole else []
    try:
        found: list[Mapping[str, Any]] = [json.loads(line) for line in lines]
        fits = all(prompts[line["index"]] == line["prompt"] for line in found)
    except (ValueError, KeyError, TypeError, IndexError):
        fits = False
    if not fits:
        raise ConfigError(f"{out} has something else than results of these prompts.", "Name another file.")
    with out.open("r+b") as file:
        file.truncate(len(whole) + len(end))
    return {line["index"] for line in found}
