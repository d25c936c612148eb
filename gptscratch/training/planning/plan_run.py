"""The job behind ``--dry-run``: from a corpus and what the user gave to a plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gptscratch import paths
from gptscratch.config import ModelConfig, RunConfig, flattened, qualified
from gptscratch.data.document_batches import require_documents
from gptscratch.data.mixture import tokens_per_padded_row
from gptscratch.data.prepare import Prepared, ineffective, prepare
from gptscratch.device import (
    can_compile,
    free_memory,
    is_out_of_memory,
    peak_memory,
    pick_device,
    pick_dtype,
    set_up,
    slow_dtype_warning,
)
from gptscratch.errors import ConfigError
from gptscratch.runs.run import read_run
from gptscratch.training.budget import require_length
from gptscratch.training.events import Listener, Notice, Planned, Working, ignore
from gptscratch.training.planning import heuristics as rules
from gptscratch.training.planning.benchmark import matmul_rate, step_seconds
from gptscratch.training.planning.heuristics import Facts
from gptscratch.training.planning.planner import Plan, make_plan

MEASURING = 0.01  # of the time that is given goes into measuring steps of one plan ...
LEAST, MOST = 0.3, 3.0  # ... or so many seconds
MOST_PLANS = 3  # that are measured, while the measurement changes the shape
MAKING = 0.3  # seconds from the plan to the first step


def plan_run(
    settings: dict[str, Any],
    *,
    init_from: str | Path | None = None,
    listen: Listener = ignore,
    started: float | None = None,
) -> tuple[Plan, Prepared]:
    """Read the corpus, measure the machine and make the plan, without training.

    ``started``: ``time.perf_counter()`` when the user's time began to count; None: now.
    """
    started = time.perf_counter() if started is None else started
    settings = qualified(settings)
    require_length(settings)
    if init_from is not None:
        settings = _like_run(init_from, settings)
    config = RunConfig().with_settings(settings)  # checks all that was given, before any work
    if not config.data.corpus:
        listen(Notice("No corpus was named: training on the source of Python's own library."))
    device = pick_device(config.train.device)
    if warning := slow_dtype_warning(pick_dtype(config.train.dtype, device), device):
        listen(Notice(warning))
    plan, prepared = _planned(settings, config, listen, started)
    if _would_repeat_pieces(plan, prepared, config):
        characters = replace(config, data=replace(config.data, tokenizer="char"))
        plan, prepared = _planned(settings, characters, listen, started)
    plan = replace(plan, notices=(*ineffective(config.data, prepared.manifest), *plan.notices))
    listen(Planned(plan, prepared.manifest))
    for notice in plan.notices:
        listen(Notice(notice))
    return plan, prepared


def _planned(
    settings: dict[str, Any], config: RunConfig, listen: Listener, started: float
) -> tuple[Plan, Prepared]:
    device = pick_device(config.train.device)
    dtype = pick_dtype(config.train.dtype, device)
    prepared = prepare(config.data, on_progress=lambda *facts: listen(Working(*facts)))
    set_up(device)  # before anything is timed
    manifest = prepared.manifest
    facts = Facts(
        train_tokens=manifest.train.tokens,
        train_bytes=manifest.train.bytes,
        val_tokens=manifest.val.tokens,
        vocab_size=prepared.tokenizer.vocab_size,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        flops_per_second=matmul_rate(device, dtype),
        peak_bytes=peak_memory() if device.type == "cpu" else 0,
        val_bytes=manifest.val.bytes,
        memory_bytes=free_memory(device),
        can_compile=can_compile(device),
        tokens_per_row=tokens_per_row(prepared, config.train.documents),
    )
    data = replace(config.data, tokenizer=config.data.tokenizer or prepared.tokenizer.kind)
    plan = make_plan(settings, data, facts)
    measured: set[ModelConfig] = set()
    while plan.config.train.minutes and len(measured) < MOST_PLANS and plan.config.model not in measured:
        measured.add(plan.config.model)
        facts = _measured(plan, facts, device, dtype)
        facts = replace(facts, start_up_seconds=time.perf_counter() - started + MAKING)
        plan = make_plan(settings, data, facts)
    return plan, prepared


def tokens_per_row(prepared: Prepared, documents: str) -> Callable[[int], float]:
    """A function of the context's length: how many tokens a row of it holds on average.

    Raises:
        ConfigError: documents are to be told apart, and the tokens do not say where they end.
    """
    if documents == "packed":
        return float
    end_of_text = require_documents(prepared.manifest, prepared.tokenizer.eot_id)
    if documents == "masked":
        return float
    return tokens_per_padded_row(prepared.tokens, end_of_text)


def _would_repeat_pieces(plan: Plan, prepared: Prepared, config: RunConfig) -> bool:
    """Whether a BPE that nobody asked for cuts a small corpus into so few tokens that they wear out."""
    asked = config.data.tokenizer or config.data.vocab_size
    if asked or prepared.scan is None or prepared.tokenizer.kind != "bpe":
        return False
    few = len(prepared.scan.alphabet) <= 256 and prepared.scan.characters < rules.SMALL_CHARACTERS
    return few and plan.epochs > rules.BPE_EPOCHS


def _measured(plan: Plan, facts: Facts, device: torch.device, dtype: torch.dtype) -> Facts:
    """The facts, corrected by what steps of a plan take: other programs and caches are in no formula."""
    train = plan.config.train
    places = train.batch_size * plan.config.model.context_length
    expected = places / rules.tokens_per_second(plan.config.model, facts)  # seconds a step
    limit = min(MOST, max(LEAST, MEASURING * 60 * train.minutes))
    rows = int(min(train.batch_size, max(1.0, train.batch_size * limit / expected / 5)))
    while True:
        try:
            seconds = step_seconds(plan.config, rows, device, dtype, limit=limit)
            return replace(facts, speed=facts.speed * expected / seconds)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if rows == 1:
            return facts  # training itself will say what does not fit
        rows = (rows + 1) // 2


def _like_run(init_from: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, completed with the shape and the tokenizer of a checkpoint.

    Raises:
        ConfigError: one of them differs from the checkpoint's.
    """
    run, _ = paths.find_checkpoint(init_from)
    theirs = flattened({"model": read_run(run).config.to_dict()["model"]})
    free = ("model.dropout",)
    for key, value in settings.items():
        if key.startswith("model.") and key not in free and theirs[key] != value:
            raise ConfigError(f"{key} is {value}, but in {run.name} it is {theirs[key]}.", "Leave it out.")
    if settings.get("data.tokenizer"):
        raise ConfigError("--init-from brings its own tokenizer.", "Leave --tokenizer out.")
    theirs.pop("model.vocab_size")
    return {**theirs, **settings, "data.tokenizer": str(run / "tokenizer.json")}
