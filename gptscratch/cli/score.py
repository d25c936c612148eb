"""``gptscratch score``: how well a model predicts a text."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from gptscratch.accelerate import process as threads
from gptscratch.cli import options as o
from gptscratch.errors import ConfigError


def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A text; - for stdin.")],
    checkpoint: Annotated[
        str | None, typer.Option("--with", metavar="CKPT", help="A run or checkpoint; none: the newest run.")
    ] = None,
    stride: Annotated[int, typer.Option(help="Tokens between windows; 0: half a context.")] = 0,
    color: Annotated[bool, typer.Option("--color", help="The text, shaded by surprise.")] = False,
    json: o.Json = False,
    quantize: o.Quantize = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
) -> None:
    """Score a text: bits per byte (comparable over models and tokenizers) and perplexity."""
    threads.sleep_while_waiting_on_busy_machines()
    from gptscratch.cli import loading, render, render_sample
    from gptscratch.generation.scoring import score as score_
    from gptscratch.generation.scoring import surprises

    with render_sample.whoever_reads():
        text = loading.read_prompt(None, file)
        if not text:
            raise ConfigError(f"{'stdin' if file == '-' else file} is empty: there is nothing to score.")
        gpt = loading.load(checkpoint, quantize=quantize, device=device, dtype=dtype, exact=True)
        scored = score_(gpt, text, stride=stride)
        if scored.unknown:
            render.notice(f"{scored.unknown:,} tokens that the model never saw are left out.")
        if not scored.lossless:
            render.notice(
                "This run's tokenizer loses part of the text, such as spaces or case: "
                "its bits per byte are too low to be compared with those of other tokenizers."
            )
        if json:
            render_sample.no_effect("beside --json", {"--color": color})
        elif color:
            render_sample.stream("", surprises(gpt, scored), colors=render_sample.colors())
        values = {k: v for k, v in dataclasses.asdict(scored).items() if k not in ("bits", "token_ids")}
        render_sample.score({"run": gpt.run.name, **values}, json=json)
