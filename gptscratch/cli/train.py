"""``gptscratch train``: from text to a model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from gptscratch import distributed
from gptscratch.accelerate import process
from gptscratch.cli import import_
from gptscratch.cli import options as o
from gptscratch.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from gptscratch.config.setting import FINE_TUNING, LENGTH, OUTPUT, RUN, setting
from gptscratch.errors import require

if TYPE_CHECKING:
    from gptscratch.cli.progress import TrainView

STARTED = time.perf_counter() - process.age()  # the user's minutes begin to count when the program starts

EXAMPLES = """Examples:
  gptscratch train book.txt                             5 minutes, all chosen
  gptscratch train notes/ --glob "*.md" --minutes 30    a folder
  gptscratch train book.txt --layers 4 --steps 2000     fixed size and length
  gptscratch train --resume book --steps 4000           train a run longer
  gptscratch train letters.txt --init-from book         fine-tune a run

Runs are kept in the user's cache directory; GPTSCRATCH_HOME changes it."""


@o.command(RunConfig, TrainConfig, ModelConfig, DataConfig)
def train(
    corpus: o.Corpus = None,
    hours: float | None = setting(None, LENGTH, "Time limit in hours.", above=0),
    out: str | None = setting(
        None, RUN, "Folder for this run.", metavar="DIR", default_is="in the cache directory"
    ),
    resume: bool = setting(
        False, RUN, "Resume the run that is named in place of CORPUS", default_is="the newest"
    ),
    init_from: str | None = setting(
        None, FINE_TUNING, "Fine-tune: start from the parameters, the shape and the tokenizer of a run, or "
        "of a model that import takes.", metavar="RUN",
    ),
    force: bool = setting(False, RUN, "Overwrite an existing run of the same name."),
    cooldown: bool = setting(
        False, RUN, "Finish early: decay the learning rate to 0, then stop. Starts at Ctrl-C, or immediately "
        "with --resume. Lasts a tenth of the steps so far, or the training length that is given.",
    ),
    dry_run: bool = setting(False, RUN, "Print the plan and stop."),
    preset: str | None = o.PRESET,
    config: str | None = o.CONFIG,
    set_: tuple[str, ...] = o.SET,
    json: bool = o.JSON,
    quiet: bool = setting(False, OUTPUT, "Print no progress, only errors.", flag="-q,--quiet"),
    report: bool = setting(False, OUTPUT, "Serve a page with curves and samples while the run trains."),
    log_to: tuple[str, ...] = setting(
        (), OUTPUT, "Write logs for tensorboard or wandb (offline) into the run's folder (repeatable).",
        metavar="NAME",
    ),
    *,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Train a GPT on your text.

    Options whose default is "chosen" are set to suit your text, your hardware and the time. Ctrl-C saves
    and stops; --resume continues from there.
    """
    if hours is not None:
        require("train.minutes" not in settings, "--minutes and --hours are both given.", "Give one of them.")
        settings["train.minutes"] = 60.0 * hours
    names = tuple(corpus or ())
    if resume:
        other = {"--name": settings.get("name"), "--out": out, "--init-from": init_from, "--preset": preset,
                 "--force": force, "--dry-run": dry_run}  # fmt: skip
        _check_resume(names, [option for option, value in other.items() if value])
    kept = () if resume else names
    settings, note = o.combined(
        settings, preset=preset, config=config, pairs=set_, corpus=kept, init_from=init_from
    )
    silent = [flag for flag, on in (("--quiet", quiet), ("--json", json), ("--dry-run", dry_run)) if on]
    require(
        not (report and silent),
        f"--report prints an address, and {' and '.join(silent)} hides it.",
        f"Leave out {' and '.join(silent)}, or open the page with: gptscratch report --live",
    )
    process.passive_openmp_if_busy()
    if not distributed.world().is_first:  # of the processes that torchrun started, one reports
        if dry_run:
            return
        quiet, json, report, log_to, init_from = True, False, False, (), None
    from gptscratch.cli import console, render
    from gptscratch.cli.progress import TrainView
    from gptscratch.generation.generator import sample_text
    from gptscratch.training import trainer

    init_from = init_from and import_.as_run(init_from)
    view = TrainView(quiet=quiet or json or dry_run)
    if note and not (json or quiet):
        console.notice(note)
    if dry_run:
        settings = settings | ({"data.corpus": names} if names else {})
        _print_plan(settings, init_from, view, json=json, quiet=quiet)
        return
    from gptscratch.report.listeners import listening

    with view, listening(view.on_event, log_to=log_to, page=report) as on_event:
        common = {"cooldown": cooldown, "on_event": on_event, "sample_text": sample_text, **settings}
        if resume:
            result = trainer.resume(names[0] if names else None, **common)
        else:
            result = trainer.train(
                names, out=out, init_from=init_from, replace_run=force, started=STARTED, **common
            )
    if json or not quiet:
        render.result(result, json=json)
    if result.interrupted:
        # torchrun takes any code but 0 for a failure, and may start the processes again.
        raise typer.Exit(130 if distributed.world().size == 1 else 0)


def _print_plan(
    settings: dict[str, Any], init_from: str | None, view: TrainView, *, json: bool, quiet: bool
) -> None:
    from gptscratch.cli import console, render
    from gptscratch.training.planning.plan_run import plan_run

    plan, prepared = plan_run(settings, init_from=init_from, on_event=view.on_event, started=STARTED)
    console.show(plan, render.plan_lines(plan, prepared.manifest), json=json)
    for text in () if json or quiet else plan.notices:
        console.notice(text)


def _check_resume(names: tuple[str, ...], other: list[str]) -> None:
    given = " and ".join(other)
    require(
        not given,
        f"--resume continues a run as it is: it cannot be combined with {given}.",
        f"Leave out {given}, or start a new run without --resume.",
    )
    require(
        len(names) < 2,
        f"--resume continues one run, and {len(names)} are named.",
        "Name the run alone; it keeps its corpus.",
    )
