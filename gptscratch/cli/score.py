"""``gptscratch score``: how well a model predicts a text."""

from __future__ import annotations

from typing import Annotated

import typer

from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.config.setting import ADVANCED, OUTPUT, RUN, setting
from gptscratch.errors import require
from gptscratch.units import plural

EXAMPLES = """Examples:
  gptscratch score story.txt --with tales
  gptscratch score story.txt --color | less -R"""


@o.command()
def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A text or table, as for train; - is stdin.")],
    run: str | None = setting(
        None, RUN, "Run, or folder of a run or checkpoint.", flag="--with", metavar="RUN",
        default_is="the newest run",
    ),
    stride: int | None = setting(
        None, ADVANCED, "Tokens between windows.", at_least=1, default_is="half a context"
    ),
    text_column: str | None = setting(
        None, ADVANCED, "Column that holds the text in a jsonl, csv, tsv or parquet file.", metavar="NAME",
        default_is="that of the run",
    ),
    color: bool = setting(False, OUTPUT, "Print the text, shaded by the model's surprise."),
    json: bool = o.JSON,
    quantize: str | None = o.QUANTIZE,
    device: str = o.DEVICE,
    dtype: str = o.DTYPE,
) -> None:  # fmt: skip
    """Score a text: bits per byte (comparable between models and tokenizers) and perplexity."""
    process.passive_openmp_if_busy()
    from gptscratch import paths
    from gptscratch.cli import console, loading, render_sample
    from gptscratch.data.sources import Source
    from gptscratch.generation.scoring import score as score_
    from gptscratch.generation.scoring import surprises
    from gptscratch.runs.run import read_run

    data = read_run(paths.find_checkpoint(run)[0]).config.data
    if Source(file, True).format == "text":
        console.no_effect("with plain text", {"--text-column": text_column})
    column = text_column or data.text_column
    documents = loading.read_documents(file, separator=data.separator, column=column)
    require(bool(documents), f"{'stdin' if file == '-' else file} is empty: there is nothing to score.")
    generator = loading.load(run, quantize=quantize, device=device, dtype=dtype, exact=True)
    scored = score_(generator, documents, stride=stride)
    if scored.unknown:
        console.notice(f"Left out: {plural(scored.unknown, 'token')} that the model does not know.")
    if not scored.lossless:
        console.notice(
            "This run's tokenizer loses part of the text, such as spaces or case: "
            "its bits per byte are too low to be compared with those of other tokenizers."
        )
    if json:
        console.no_effect("with --json", {"--color": color})
    elif color:
        render_sample.stream("", surprises(generator, scored), colors=render_sample.colors())
    values = {k: v for k, v in vars(scored).items() if k not in ("bits", "token_ids")}
    values["documents"] = len(scored.documents)
    perplexity = f"{scored.perplexity:.4g} per token, {scored.nats_per_token:.4f} nats per token"
    several = f", {len(scored.documents):,} documents" if len(scored.documents) > 1 else ""
    lines = [
        ("bits/byte", f"{scored.bits_per_byte:.4f}"),
        ("perplexity", perplexity),
        ("text", f"{plural(scored.tokens, 'token')}, {plural(scored.bytes, 'byte')}{several}"),
        ("run", generator.run.name),
    ]
    console.show({"run": generator.run.name, **values}, lines, json=json)
