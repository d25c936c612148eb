"""``gptscratch tokenize``: train or apply a tokenizer, and look at what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptscratch.cli import options as o
from gptscratch.errors import ConfigError


def tokenize(
    corpus: o.Corpus = None,
    tokenizer: o.TokenizerKind = None,
    vocab_size: o.VocabSize = None,
    lowercase: o.Lowercase = None,
    min_frequency: o.MinFrequency = None,
    glob: o.Glob = None,
    column: o.Column = None,
    separator: o.Separator = None,
    encoding: o.Encoding = None,
    errors: o.Errors = None,
    clean: o.Clean = None,
    val_fraction: o.ValFraction = None,
    val_file: o.ValFile = None,
    text: Annotated[str | None, typer.Option(help="Show the pieces and ids of this text.")] = None,
    with_: Annotated[
        str | None, typer.Option("--with", help="A tokenizer to apply: of a run, or a file.", metavar="RUN")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Look at the corpus, and write nothing.")] = False,
    out: Annotated[
        str | None, typer.Option(help="Where to write, instead of the cache directory.", metavar="DIR")
    ] = None,
    json: o.Json = False,
) -> None:
    """Train or apply a tokenizer and write the token files that train reads.

    With --text, only show how one text is cut: gptscratch tokenize --text "Once upon" --with my-run
    """
    from gptscratch.cli import render, render_info, render_stats

    if with_ and tokenizer:
        raise ConfigError("--with and --tokenizer are both given.", "Take one of them.")
    if text is not None:
        from gptscratch import paths
        from gptscratch.tokenizer import Tokenizer

        chosen = with_ or tokenizer
        path = Path(chosen) if chosen and Path(chosen).exists() else paths.find_run(chosen)
        render.pieces(text, Tokenizer.load(path), json=json)
        return
    tokenizer = with_ or tokenizer
    settings = o.settings_of(locals())
    from gptscratch.cli.progress import WorkView
    from gptscratch.config import RunConfig
    from gptscratch.data.prepare import prepare

    data = RunConfig().with_settings(settings).data
    if stats:
        from gptscratch.data.stats import corpus_stats

        with WorkView() as view:
            found = corpus_stats(data, on_progress=view)
        render_stats.corpus(found, json=json)
        return
    with WorkView() as view:
        prepared = prepare(data, on_progress=view, out=Path(out) if out else None)
    render_info.prepared(prepared, json=json)
