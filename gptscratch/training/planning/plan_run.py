"""From a corpus and what the user gave to a plan: ``--dry-run``, and the beginning of ``train``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gptscratch.config import ModelConfig, RunConfig, qualified
from gptscratch.data.batches import tokens_per_padded_row
from gptscratch.data.document_batches import require_documents
from gptscratch.data.notices import notices
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.device import (
    can_compile,
    fast_dtype,
    free_memory,
    peak_memory,
    pick_device,
    pick_dtype,
    set_up,
    slow_dtype_warning,
)
from gptscratch.distributed import world
from gptscratch.errors import ConfigError
from gptscratch.training import clock
from gptscratch.training.events import Notice, OnEvent, Planned, Working, ignore
from gptscratch.training.planning import heuristics
from gptscratch.training.planning.benchmark import matmul_rate, measured_speed
from gptscratch.training.planning.heuristics import Facts
from gptscratch.training.planning.planner import Plan, make_plan
from gptscratch.training.planning.source import require_embeddings, settings_from, shorter_context

MOST_PLANS = 3  # that are measured, while the measurement changes the shape
WORTH_MEASURING = 10.0  # seconds: measuring would be a large part of a shorter run
SETUP_SECONDS = 0.3  # from the plan to the first step


def plan_run(
    settings: Mapping[str, Any],
    *,
    init_from: str | Path | None = None,
    on_event: OnEvent = ignore,
    started: float | None = None,
) -> tuple[Plan, Prepared]:
    """Read the corpus, measure the machine and make the plan, without training.

    Args:
        settings: what the user gave, as in ``RunConfig.with_settings``.
        init_from: a checkpoint that the run starts from: see ``settings_from``.
        started: ``clock.now()`` when the user's time began to count; None: now.
    """
    started = clock.now() if started is None else started
    given = qualified(settings)
    is_context_given = "model.context_length" in given
    if init_from is not None:
        given |= settings_from(init_from, given)
    config = RunConfig().with_settings(given)  # checks all that was given, before any work
    for name in ("lora_rank", "keep_file"):
        if init_from is None and getattr(config.train, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is for a model that is trained already.", "Name it with --init-from.")
    if not config.data.corpus:
        on_event(Notice("No corpus was named: training on Python's own language reference."))
    device = pick_device(config.train.device)
    if warning := slow_dtype_warning(pick_dtype(config.train.dtype, device), device):
        on_event(Notice(warning))
    plan, prepared = _planned(given, config, init_from is not None, on_event, started)
    require_embeddings(prepared, plan.config.model.vocab_size)
    found = notices(config.data, prepared.manifest)
    if init_from is not None and not is_context_given:
        found += shorter_context(init_from, plan.config.model)
    plan = replace(plan, notices=(*found, *plan.notices))
    on_event(Planned(plan, prepared.manifest))
    for notice in plan.notices:
        on_event(Notice(notice))
    return plan, prepared


def tokens_per_row(prepared: Prepared, documents: str) -> Callable[[int], float]:
    """The mean number of tokens in a row, as a function of the context length.

    Raises:
        ConfigError: the documents of a row are to be separated, and the tokens do not show where they end.
    """
    if documents == "packed":
        return float
    end_of_text = require_documents(prepared.manifest, prepared.tokenizer.eot_id)
    return float if documents == "masked" else tokens_per_padded_row(prepared.tokens, end_of_text)


def _planned(
    given: Mapping[str, Any], config: RunConfig, fine_tunes: bool, on_event: OnEvent, started: float
) -> tuple[Plan, Prepared]:
    """Plan, measure the plan, and plan again with what was measured, until its shape stays."""
    device = pick_device(config.train.device)
    dtype = pick_dtype(config.train.dtype, device)
    prepared = prepare(config.data, on_progress=lambda *progress: on_event(Working(*progress)))
    set_up(device)  # before anything is timed
    facts = replace(_facts(prepared, config, device, dtype), fine_tunes=fine_tunes)
    data = replace(config.data, tokenizer=config.data.tokenizer or prepared.tokenizer.kind)
    plan = make_plan(given, data, facts)
    if not config.train.minutes and plan.seconds < WORTH_MEASURING:
        return plan, prepared
    measured: set[ModelConfig] = set()
    while len(measured) < MOST_PLANS and plan.config.model not in measured:
        model, batch_size = plan.config.model, plan.config.train.batch_size
        measured.add(model)
        passes = plan.config.train.passes
        expected = passes * batch_size * model.context_length / heuristics.tokens_per_second(model, facts)
        rows = math.ceil(batch_size / facts.world_size)  # of a process
        own = replace(plan.config, train=replace(plan.config.train, batch_size=rows))
        step, evaluation = measured_speed(own, expected, plan.seconds, device, dtype) or (expected, 0)
        facts = replace(
            facts,
            speed=facts.speed * expected / step,
            evaluation_cost=evaluation / step or facts.evaluation_cost,
            start_up_seconds=clock.now() - started + SETUP_SECONDS,
        )
        plan = make_plan(given, data, facts)
    return plan, prepared


def _facts(prepared: Prepared, config: RunConfig, device: torch.device, dtype: torch.dtype) -> Facts:
    manifest, ranks = prepared.manifest, world()
    sizes = [] if config.train.documents == "padded" else [share.tokens for share in manifest.corpora]
    muon_dtype = fast_dtype(device) if config.train.muon_dtype == "auto" else config.train.muon_dtype
    return Facts(
        train_tokens=manifest.train.tokens,
        train_bytes=manifest.train.bytes,
        val_tokens=manifest.val.tokens,
        val_bytes=manifest.val.bytes,
        least_tokens=min(sizes, default=None),
        vocab_size=prepared.tokenizer.vocab_size,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        muon_dtype=str(muon_dtype).removeprefix("torch."),
        flops_per_second=matmul_rate(device, dtype),
        peak_bytes=peak_memory() if device.type == "cpu" else 0,
        memory_bytes=free_memory(device) // (ranks.local_size if device.type == "cpu" else 1),
        world_size=ranks.size,
        can_compile=can_compile(device),
        tokens_per_row=tokens_per_row(prepared, config.train.documents),
    )
