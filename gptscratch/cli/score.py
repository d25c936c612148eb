"""``gptscratch score``: how well a model predicts a text."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.config.setting import OUTPUT
from gptscratch.errors import ConfigError

EXAMPLES = """Examples:
  gptscratch score story.txt --with tales
  gptscratch score story.txt --color | less -R"""


def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A text; - reads it from stdin.")],
    run: Annotated[
        str | None,
        o.option(
            "--with", help="Run, or folder of a run or checkpoint (default: the newest run).", metavar="RUN"
        ),
    ] = None,
    stride: Annotated[
        int | None,
        o.option("--stride", help="Tokens between windows (default: half a context).", metavar="N"),
    ] = None,
    color: Annotated[
        bool, o.option("--color", help="Print the text, shaded by the model's surprise.", panel=OUTPUT)
    ] = False,
    json: o.Json = False,
    quantize: o.Quantize = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
) -> None:  # fmt: skip
    """Score a text: bits per byte (comparable between models and tokenizers) and perplexity."""
    process.passive_openmp_if_busy()
    from gptscratch.cli import loading, render_sample
    from gptscratch.cli.console import notice
    from gptscratch.generation.scoring import score as score_
    from gptscratch.generation.scoring import surprises

    text = loading.read_prompt(None, file)
    if not text:
        raise ConfigError(f"{'stdin' if file == '-' else file} is empty: there is nothing to score.")
    generator = loading.load(run, quantize=quantize, device=device, dtype=dtype, exact=True)
    scored = score_(generator, text, stride=stride)
    if scored.unknown:
        notice(f"{scored.unknown:,} tokens that were not in the training text are left out.")
    if not scored.lossless:
        notice(
            "This run's tokenizer loses part of the text, such as spaces or case: "
            "its bits per byte are too low to be compared with those of other tokenizers."
        )
    if json:
        render_sample.no_effect("with --json", {"--color": color})
    elif color:
        render_sample.stream("", surprises(generator, scored), colors=render_sample.colors())
    values = {k: v for k, v in dataclasses.asdict(scored).items() if k not in ("bits", "token_ids")}
    render_sample.score({"run": generator.run.name, **values}, json=json)
