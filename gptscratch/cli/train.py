"""``gptscratch train``: from text to a model."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gptscratch.accelerate import process as threads
from gptscratch.cli import options as o
from gptscratch.errors import ConfigError

STARTED = time.perf_counter() - threads.age()  # the user's minutes begin to count when the program starts


class TrainCommand(TyperCommand):
    """Lets ``--resume`` be given without a run: it then means the newest one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for i, arg in enumerate(args):
            alone = i + 1 == len(args) or args[i + 1].startswith("-")
            if arg == "--resume" and alone:
                args = [*args[:i], "--resume=", *args[i + 1 :]]
        return super().parse_args(ctx, args)


def train(
    corpus: o.Corpus = None,
    name: Annotated[
        str | None, typer.Option(help="Of the run.", rich_help_panel=o.RUN, show_default=False)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="The run's folder, instead of one in the cache directory.",
            rich_help_panel=o.RUN,
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with a run; without RUN, the newest.",
            rich_help_panel=o.RUN,
            metavar="[RUN]",
            show_default=False,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            help="Start from a checkpoint's parameters and tokenizer.",
            rich_help_panel=o.RUN,
            metavar="CKPT",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a run of that name.", rich_help_panel=o.RUN)
    ] = False,
    cooldown: Annotated[
        bool,
        typer.Option(
            "--cooldown",
            help="At Ctrl-C (with --resume: at once) let the rate fall to 0 over a tenth of the steps "
            "so far, or over a horizon that --resume is given, and end.",
            rich_help_panel=o.RUN,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and stop.", rich_help_panel=o.RUN)
    ] = False,
    steps: o.Steps = None,
    epochs: o.Epochs = None,
    tokens: o.Tokens = None,
    minutes: o.Minutes = None,
    hours: o.Hours = None,
    preset: o.Preset = None,
    n_layer: o.Layers = None,
    n_head: o.Heads = None,
    n_kv_head: o.KvHeads = None,
    d_model: o.DModel = None,
    d_ff: o.DFf = None,
    context_length: o.ContextLength = None,
    dropout: o.Dropout = None,
    position: o.Position = None,
    norm: o.Norm = None,
    activation: o.Activation = None,
    qk_norm: o.QkNorm = None,
    bias: o.Bias = None,
    tie_embeddings: o.TieEmbeddings = None,
    output_bias: o.OutputBias = None,
    adaptive_cutoffs: o.AdaptiveCutoffs = None,
    tokenizer: o.TokenizerKind = None,
    vocab_size: o.VocabSize = None,
    lowercase: o.Lowercase = None,
    min_frequency: o.MinFrequency = None,
    glob: o.Glob = None,
    text_column: o.Column = None,
    separator: o.Separator = None,
    encoding: o.Encoding = None,
    encoding_errors: o.Errors = None,
    clean: o.Clean = None,
    val_fraction: o.ValFraction = None,
    val_file: o.ValFile = None,
    mask_documents: o.MaskDocuments = False,
    pad_documents: o.PadDocuments = False,
    batch_size: o.BatchSize = None,
    micro_batch_size: o.MicroBatch = None,
    learning_rate: o.LearningRate = None,
    weight_decay: o.WeightDecay = None,
    grad_clip: o.GradClip = None,
    warmup_steps: o.Warmup = None,
    optimizer: o.OptimizerName = None,
    lr_schedule: o.ScheduleName = None,
    eval_interval: o.EvalInterval = None,
    save_interval: o.SaveInterval = None,
    sample_interval: o.SampleInterval = None,
    keep_checkpoints: o.Keep = None,
    patience: o.Patience = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    compile: o.Compile = None,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, errors only.")] = False,
) -> None:
    """Train a GPT on your text.

    Every size, rate and interval that you leave out is chosen for your corpus and the time you give;
    Ctrl-C saves and stops, and --resume goes on as if nothing had happened; with --cooldown the rate falls
    to 0 before the run ends.
    """
    options = locals() | {"documents": o.documents_of(mask_documents, pad_documents)}
    settings = o.settings_of(options, preset=preset, config=config, pairs=set_ or ())
    if resume is not None:
        _refuse_with_resume({
            "the corpus": corpus, "--name": name, "--out": out, "--init-from": init_from,
            "--preset": preset, "--force": force, "--dry-run": dry_run,
        })  # fmt: skip
    threads.sleep_while_waiting_on_busy_machines()
    from gptscratch.cli import render
    from gptscratch.cli.progress import TrainView
    from gptscratch.generation.generator import sample_text
    from gptscratch.training import trainer
    from gptscratch.training.planning import plan_run as planning

    view = TrainView(quiet=quiet or json or dry_run)
    if dry_run:
        plan, prepared = planning.plan_run(settings, init_from=init_from, listen=view, started=STARTED)
        render.plan(plan, prepared.manifest, json=json)
        if not (json or quiet):
            for text in plan.notices:
                render.notice(text)
        return
    with view:
        if resume is not None:
            result = trainer.resume(
                resume or None, cooldown=cooldown, listen=view, sample_text=sample_text, **settings
            )
        else:
            result = trainer.train(
                (), out=out, init_from=init_from, replace_run=force, cooldown=cooldown, listen=view,
                sample_text=sample_text, started=STARTED, **settings,
            )  # fmt: skip
    render.result(result, json=json, quiet=quiet)
    if result.interrupted:
        raise typer.Exit(130)


def _refuse_with_resume(options: dict[str, object]) -> None:
    given = [option for option, value in options.items() if value]
    if given:
        raise ConfigError(
            f"--resume continues a run as it is: it cannot be combined with {' and '.join(given)}.",
            f"Leave out {' and '.join(given)}, or start a new run without --resume.",
        )
