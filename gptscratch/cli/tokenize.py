"""``gptscratch tokenize``: train or apply a tokenizer, and look at what it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gptscratch.cli import options as o
from gptscratch.config import DataConfig, RunConfig
from gptscratch.errors import ConfigError


@o.settings_from(DataConfig)
def tokenize(
    corpus: o.Corpus = None,
    text: Annotated[str | None, typer.Option(help="Show the tokens and ids of this text.")] = None,
    with_: Annotated[
        str | None, typer.Option("--with", help="Run or file whose tokenizer is used.", metavar="RUN")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Show statistics, write nothing.")] = False,
    out: Annotated[
        str | None,
        typer.Option(help="Folder for the token files, if not the cache.", metavar="DIR"),
    ] = None,
    json: o.Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Train or apply a tokenizer and write the token files that train reads.

    With --text, only show the tokens of one text: gptscratch tokenize --text "Once upon" --with my-run.
    Without --with, the tokenizer of the newest run is used.
    """
    from gptscratch.cli import render, render_info, render_stats

    if with_ and "data.tokenizer" in settings:
        raise ConfigError("--with and --tokenizer are both given.", "Take one of them.")
    if stats:
        _require_nothing_idle({"--text": text, "--out": out, "--with": with_}, settings)
    if with_:
        settings["data.tokenizer"] = with_
    tokenizer = settings.get("data.tokenizer")
    if text is not None and not corpus:
        from gptscratch import paths
        from gptscratch.tokenizer import KINDS, Tokenizer

        if tokenizer in KINDS and tokenizer != "byte":
            raise ConfigError(
                f"A {tokenizer} tokenizer is made from a text.",
                f"Name it: gptscratch tokenize corpus.txt --tokenizer {tokenizer} --text ...",
            )
        if tokenizer == "byte":
            render_stats.text_tokens(text, Tokenizer.of_bytes(), "the bytes of the text", json=json)
            return
        path = Path(tokenizer) if tokenizer and Path(tokenizer).exists() else paths.find_run(tokenizer)
        render_stats.text_tokens(text, Tokenizer.load(path), f"the tokenizer of {path}", json=json)
        return
    from gptscratch.cli.progress import WorkView
    from gptscratch.data.prepare import ineffective, prepare

    data = RunConfig().with_settings(settings | {"data.corpus": tuple(corpus or ())}).data
    if stats:
        from gptscratch.data.statistics import corpus_statistics

        with WorkView() as view:
            found = corpus_statistics(data, on_progress=view)
        render_stats.corpus(found, json=json)
        return
    with WorkView() as view:
        prepared = prepare(data, on_progress=view, out=Path(out) if out else None)
    for line in ineffective(data, prepared.manifest):
        render.notice(line)
    if text is not None:
        render_stats.text_tokens(text, prepared.tokenizer, f"the tokenizer of {prepared.folder}", json=json)
        return
    render_info.prepared(prepared, json=json)


def _require_nothing_idle(options: Mapping[str, object], settings: Mapping[str, object]) -> None:
    """Raises ConfigError for options that have no effect with --stats."""
    names = ("tokenizer", "vocab_size", "lowercase", "min_frequency")
    idle = [flag for flag, value in options.items() if value is not None]
    idle += [f"--{name.replace('_', '-')}" for name in names if f"data.{name}" in settings]
    if idle:
        raise ConfigError(
            f"{', '.join(idle)}: no effect with --stats.", "It writes nothing, and tries vocabularies itself."
        )
