"""Many prompts, one continuation each: batched by length, written down as they come, resumable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError, disk_errors
from gptscratch.generation.generator import Generator
from gptscratch.generation.memorization import copied

_ROWS = 16  # prompts decoded side by side


def complete_file(
    gpt: Generator,
    prompts: Sequence[str],
    knobs: SampleConfig,
    out: Path,
    *,
    n_best: int | None = None,
    novelty: bool = False,
) -> Iterator[int]:
    """Append ``{"index", "prompt", "text"}`` for each prompt that the file lacks; yields how many stand.

    A seed gives each prompt the same text however often this was stopped, as long as the context lasts.

    Args:
        gpt: with the index of its training tokens where ``novelty`` asks for it.
        prompts: one line of the results each; an empty one begins a document.
        knobs: for all of them; ``num_samples`` does not count.
        out: JSON lines, in the order of the prompts' lengths.
        n_best: adds ``tokens``, each with its log-probability and so many alternatives; None: not.
        novelty: adds ``copied``, the longest span that stands in the training tokens.

    Raises:
        ConfigError: the file holds the results of other prompts.
        RunError: the disk is full or refuses.
    """
    done = _done(out, prompts)
    yield len(done)
    todo = [number for number in range(len(prompts)) if number not in done]
    todo.sort(key=lambda number: len(gpt.prompt_ids(prompts[number])))  # neighbours need few pads
    with disk_errors(f"writing {out}"), out.open("a", encoding="utf-8") as file:
        for first in range(0, len(todo), _ROWS):
            rows = todo[first : first + _ROWS]
            answers = _answers(gpt, [prompts[number] for number in rows], knobs, rows, n_best)
            for number, answer in zip(rows, answers, strict=True):
                line = {"index": number, "prompt": prompts[number], **answer}
                if novelty:
                    line["copied"] = dataclasses.asdict(copied(gpt, answer["text"], after=prompts[number]))
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            yield len(done) + first + len(rows)


def _answers(
    gpt: Generator,
    prompts: Sequence[str],
    knobs: SampleConfig,
    streams: Sequence[int],
    n_best: int | None,
) -> list[dict[str, Any]]:
    if n_best is None:
        return [{"text": text} for text in gpt.complete(prompts, knobs, streams=streams)]
    rows = gpt.traced(prompts, knobs, n_best=n_best, streams=streams)
    return [
        {"text": "".join(token.text for token in row), "tokens": [dataclasses.asdict(token) for token in row]}
        for row in rows
    ]


def _done(out: Path, prompts: Sequence[str]) -> set[int]:
    """Which prompts have their line; half a line, of a process that was killed, is cut off."""
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
        raise ConfigError(f"{out} holds something else than results of these prompts.", "Name another file.")
    with out.open("r+b") as file:
        file.truncate(len(whole) + len(end))
    return {line["index"] for line in found}
