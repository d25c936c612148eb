"""``gptscratch train``: from text to a model."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

import typer

from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from gptscratch.config.setting import FINE_TUNING, LENGTH, OUTPUT, RUN
from gptscratch.errors import ConfigError

STARTED = time.perf_counter() - process.age()  # the user's minutes begin to count when the program starts

EXAMPLES = """Examples:
  gptscratch train book.txt                             5 minutes, everything chosen for you
  gptscratch train notes/ --glob "*.md" --minutes 30    a folder
  gptscratch train book.txt --layers 4 --steps 2000     fixed size and length
  gptscratch train --resume book --steps 4000           train a run longer
  gptscratch train letters.txt --init-from book         fine-tune a run on another text

Runs are kept in the user's cache directory; GPTSCRATCH_HOME changes it."""


@o.settings_from(RunConfig, TrainConfig, ModelConfig, DataConfig)
def train(
    corpus: o.Corpus = None,
    hours: Annotated[
        float | None, o.option("--hours", help="Time limit in hours.", panel=LENGTH, metavar="X")
    ] = None,
    out: Annotated[
        str | None,
        o.option(
            "--out", help="Folder for this run (default: in the cache directory).", panel=RUN, metavar="DIR"
        ),
    ] = None,
    resume: Annotated[
        bool,
        o.option(
            "--resume",
            help="Resume the run that is named in place of CORPUS (default: the newest).",
            panel=RUN,
        ),
    ] = False,
    init_from: Annotated[
        str | None,
        o.option(
            "--init-from",
            help="Fine-tune: start from the parameters, the shape and the tokenizer of a run.",
            panel=FINE_TUNING,
            metavar="RUN",
        ),
    ] = None,
    force: Annotated[
        bool, o.option("--force", help="Overwrite an existing run of the same name.", panel=RUN)
    ] = False,
    cooldown: Annotated[
        bool,
        o.option(
            "--cooldown",
            help="Finish early: decay the learning rate to 0, then stop. Starts at Ctrl-C, or immediately "
            "with --resume. Lasts a tenth of the steps so far, or --steps, --minutes ...",
            panel=RUN,
        ),
    ] = False,
    dry_run: Annotated[bool, o.option("--dry-run", help="Print the plan and stop.", panel=RUN)] = False,
    preset: o.Preset = None,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: Annotated[
        bool, o.option("-q", "--quiet", help="Print no progress, only errors.", panel=OUTPUT)
    ] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Train a GPT on your text.

    Options whose default is "chosen" are set to suit your text, your hardware and the time. Ctrl-C saves
    and stops; --resume continues from there.
    """
    _check_lengths(settings, hours)
    if resume:
        _check_resume(
            {"--name": settings.get("name"), "--out": out, "--init-from": init_from, "--preset": preset,
             "--force": force, "--dry-run": dry_run},
            corpus,
        )  # fmt: skip
    settings = o.combined(settings, preset=preset, config=config, pairs=set_ or ())
    process.passive_openmp_if_busy()
    from gptscratch.cli import render
    from gptscratch.cli.progress import TrainView
    from gptscratch.generation.generator import sample_text
    from gptscratch.training import trainer
    from gptscratch.training.planning import plan_run as planning

    view = TrainView(quiet=quiet or json or dry_run)
    names = tuple(corpus or ())
    if dry_run:
        settings = settings | ({"data.corpus": names} if names else {})
        plan, prepared = planning.plan_run(settings, init_from=init_from, on_event=view, started=STARTED)
        render.plan(plan, prepared.manifest, json=json)
        if not (json or quiet):
            for text in plan.notices:
                render.notice(text)
        return
    with view:
        if resume:
            result = trainer.resume(
                names[0] if names else None,
                cooldown=cooldown,
                on_event=view,
                sample_text=sample_text,
                **settings,
            )
        else:
            result = trainer.train(
                names, out=out, init_from=init_from, replace_run=force, cooldown=cooldown, on_event=view,
                sample_text=sample_text, started=STARTED, **settings,
            )  # fmt: skip
    render.result(result, json=json, quiet=quiet)
    if result.interrupted:
        raise typer.Exit(130)


def _check_lengths(settings: dict[str, Any], hours: float | None) -> None:
    """Raises ConfigError for a training length of 0; adds the hours to the settings."""
    if hours is not None:
        if not 0.0 < hours < math.inf:
            raise ConfigError(f"--hours is {hours:g}: it must be above 0 and finite.")
        if "train.minutes" in settings:
            raise ConfigError("--minutes and --hours are both given.", "Give one of them.")
        settings["train.minutes"] = 60.0 * hours


def _check_resume(options: dict[str, object], names: list[str] | None) -> None:
    given = [option for option, value in options.items() if value]
    if given:
        raise ConfigError(
            f"--resume continues a run as it is: it cannot be combined with {' and '.join(given)}.",
            f"Leave out {' and '.join(given)}, or start a new run without --resume.",
        )
    if len(names or ()) > 1:
        raise ConfigError(
            f"--resume continues one run, and {len(names or ())} are named.",
            "Name the run alone; it keeps its corpus.",
        )
