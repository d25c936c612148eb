"""A run that starts from the weights of another: reads them, and reports what training changed.

The losses before and after are over the same tokens: of the validation set, and of a text of the kind that
the model was trained on before. fine_tuning.json has them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

from gptscratch import paths
from gptscratch.config import RunConfig
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.errors import CheckpointError, ConfigError, CorpusError, UserError
from gptscratch.files import write_json
from gptscratch.model.gpt import GPT
from gptscratch.runs import checkpoint
from gptscratch.runs.run import TOKENIZER_CONFIG, disk_errors_in, read_facts, read_run
from gptscratch.runs.summary import FINE_TUNING
from gptscratch.runs.tensors import load_tensors
from gptscratch.training.context import TrainContext
from gptscratch.training.events import Evaluated, FineTuned, Notice, Working
from gptscratch.training.planning.heuristics import LEAST_FINAL_TOKENS


def load_source(model: GPT, run: Path, init_from: str | Path) -> Path | None:
    """Copy the parameters of another run's checkpoint into a model, which may have adapters.

    Returns:
        The file that holds exactly these parameters; None: they were changed.

    Raises:
        CheckpointError: they are missing or damaged.
        ConfigError: they are those of ``run`` itself, which is to be replaced.
    """
    source, weights = paths.find_checkpoint(init_from)
    if source.resolve() == run.resolve():
        raise ConfigError(f"{run.name} cannot start from itself.", "Take another --name.")
    record, file = read_run(source), None
    if record.base is None:
        checkpoint.require_same_shapes(source, record, weights)
        file = weights / checkpoint.WEIGHTS
        tensors = load_tensors(file)
    else:
        merged = checkpoint.load_model(source, weights, device="cpu", dtype="float32")
        tensors = dict(merged.named_parameters())
    learned, length = tensors.get("position_embedding.weight"), model.config.context_length
    if learned is not None and len(learned) > length:
        file = None
        tensors["position_embedding.weight"] = learned[:length]
    checkpoint.copy_parameters(model, tensors)
    return file


def before(context: TrainContext, init_from: str | Path) -> FineTuned:
    """The losses of the weights that a run starts from.

    Raises:
        CorpusError, TokenizerError: the text to be kept cannot be read.
        CheckpointError: the loss is not a finite number.
    """
    found = context.evaluate(0, context.tokens_at_end())
    if not math.isfinite(found.val_loss):
        raise CheckpointError(
            f"The loss of {init_from} on this text is not a finite number: its weights are damaged.",
            "Use another checkpoint.",
        )
    return FineTuned(init_from=str(init_from), before=found, keep_before=_keep_loss(context, 0))


def begin(context: TrainContext, found: FineTuned, source: Path | None) -> None:
    """Note the losses before the first step in the run's folder, which exists by now.

    A run with adapters keeps the parameters that stay fixed; ``source`` as ``load_source`` returned it. The
    names of the special tokens of an imported model stay, since its tokenizer does.
    """
    theirs = paths.find_checkpoint(found.init_from)[0]
    if names := read_facts(theirs / TOKENIZER_CONFIG):
        with disk_errors_in(context.run, f"writing {TOKENIZER_CONFIG}"):
            write_json(context.run / TOKENIZER_CONFIG, names)
    if context.config.lora_rank is not None:
        base = checkpoint.save_base(context.run, context.model, source)
        context.record = replace(context.record, base=base)
        with disk_errors_in(context.run, "writing config.json"):
            write_json(context.run / "config.json", context.record.to_dict())
    context.fine_tuned = found
    _write(context, found)


def end(context: TrainContext, after: Evaluated) -> FineTuned | None:
    """Note the losses of the best checkpoint, which the model holds now; None: it started from no run."""
    found = context.fine_tuned
    if found is None:
        return None
    try:
        keep_after = _keep_loss(context, after.step)
    except UserError as error:
        context.report(Notice(f"The loss on the text of --keep-file is not known: {error.message}"))
        keep_after = None
    if after.val_loss >= found.before.val_loss:
        lower = "A lower --learning-rate or more text may help."
        context.report(Notice(f"Fine-tuning did not lower the validation loss. {lower}"))
    context.fine_tuned = replace(found, after=after, keep_after=keep_after)
    _write(context, context.fine_tuned)
    return context.fine_tuned


def read(run: Path) -> FineTuned | None:
    """The losses before and after, as far as they are known; None where the run started from nothing."""
    values = read_facts(run / FINE_TUNING)
    before, *others = (
        Evaluated.from_facts(values.get(name)) for name in ("before", "after", "keep_before", "keep_after")
    )
    return None if before is None else FineTuned(str(values.get("init_from")), before, *others)


def _write(context: TrainContext, found: FineTuned) -> None:
    if context.world.is_first:
        with disk_errors_in(context.run, f"writing {FINE_TUNING}"):
            write_json(context.run / FINE_TUNING, asdict(found))


def _keep_loss(context: TrainContext, step: int) -> Evaluated | None:
    """On the held-out part of the text of --keep-file: the model may have been trained on the rest."""
    config = context.record.config
    if config.train.keep_file is None:
        return None
    prepared = _prepared(config, Path(context.record.tokens), context)
    if len(prepared.tokens.val) < 2:
        raise CorpusError(f"{config.train.keep_file} is too short: nothing of it can be held out.")
    return context.evaluator(prepared)(step, max(LEAST_FINAL_TOKENS, context.tokens_at_end()))


def _prepared(config: RunConfig, tokens: Path, context: TrainContext) -> Prepared:
    data = replace(
        config.data,
        corpus=(str(config.train.keep_file),),
        tokenizer=str(tokens / "tokenizer.json"),
        val_file=None,
        vocab_size=None,
    )
    return prepare(data, on_progress=lambda *progress: context.on_event(Working(*progress)))
