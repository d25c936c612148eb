"""``gptscratch tokenize``: train or apply a tokenizer, and look at what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptscratch.cli import options as o
from gptscratch.config import DataConfig, RunConfig, all_settings
from gptscratch.config.setting import OUTPUT, TOKENIZER, setting
from gptscratch.errors import require

EXAMPLES = """Examples:
  gptscratch tokenize book.txt                          token files for train
  gptscratch tokenize book.txt --stats                  what is in the text
  gptscratch tokenize web/ --shard 3/8 --out tokens     a part of them
  gptscratch tokenize --text "Once upon" --with tales   the tokens of one text"""


@o.command(DataConfig)
def tokenize(
    corpus: o.Corpus = None,
    text: str | None = setting(None, TOKENIZER, "Show the tokens and ids of this text."),
    with_: str | None = setting(
        None, TOKENIZER, "Run or file whose tokenizer is used.", flag="--with", metavar="RUN"
    ),
    stats: bool = setting(False, OUTPUT, "Show statistics, write nothing."),
    out: str | None = setting(None, OUTPUT, "Folder for the token files, if not the cache.", metavar="DIR"),
    shard: str | None = setting(
        None, OUTPUT, "Make part I of N, from 1; other processes or machines make the others. The last one "
        "joins them in --out.", metavar="I/N",
    ),
    json: bool = o.JSON,
    *,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Train or apply a tokenizer and write the token files that train reads.

    With --text, only show the tokens of one text; without a corpus and without --with, by the tokenizer of
    the newest run.
    """
    from gptscratch.cli import console, render_stats

    if stats:
        given = {"--text": text, "--out": out, "--with": with_, "--shard": shard}
        _require_nothing_idle([flag for flag, value in given.items() if value is not None], settings)
    if with_:
        require(
            "data.tokenizer" not in settings, "--with and --tokenizer are both given.", "Take one of them."
        )
        settings["data.tokenizer"] = with_
    if shard is not None:
        require(text is None, "--shard and --text are both given.", "Take one of them.")
        require(out is not None, "--shard needs a folder for all shards.", "Name it with --out DIR.")
    if text is not None and not corpus:
        tokenizer, name = _tokenizer(settings.pop("data.tokenizer", None))
        idle = {all_settings()[key].label: True for key in settings}
        console.no_effect("without a corpus", {**idle, "--out": out})
        render_stats.text_tokens(text, tokenizer, name, json=json)
        return
    from gptscratch.cli.progress import WorkView
    from gptscratch.data.notices import notices
    from gptscratch.data.prepare import prepare, prepare_shard
    from gptscratch.data.shards import Shard
    from gptscratch.data.statistics import corpus_statistics

    data = RunConfig().with_settings(settings | {"data.corpus": tuple(corpus or ())}).data
    with WorkView() as view:
        if stats:
            found = corpus_statistics(data, on_progress=view)
        elif shard is not None and out is not None:
            part = prepare_shard(data, Shard.parse(shard), Path(out), on_progress=view)
        else:
            prepared = prepare(data, on_progress=view, out=Path(out) if out else None)
    if stats:
        render_stats.corpus(found, json=json)
        return
    for line in notices(data, (prepared if shard is None else part).manifest):
        console.notice(line)
    if shard is not None:
        render_stats.token_files(part.manifest, prepared=part, missing=part.missing, json=json)
    elif text is not None:
        render_stats.text_tokens(text, prepared.tokenizer, f"the tokenizer of {prepared.folder}", json=json)
    else:
        render_stats.token_files(prepared.manifest, prepared=prepared, json=json)


def _tokenizer(name: str | None) -> tuple[Any, str]:
    """A tokenizer that needs no corpus, and what it is."""
    from gptscratch import paths
    from gptscratch.tokenizer import KINDS, Tokenizer

    if name == "byte":
        return Tokenizer.of_bytes(), "the bytes of the text"
    require(
        name not in KINDS,
        f"A {name} tokenizer is made from a text.",
        f"Name it: gptscratch tokenize corpus.txt --tokenizer {name} --text ...",
    )
    path = Path(name) if name and Path(name).exists() else paths.find_run(name)
    return Tokenizer.load(path), f"the tokenizer of {path}"


def _require_nothing_idle(flags: list[str], settings: dict[str, Any]) -> None:
    """Raises ConfigError for options that have no effect with --stats."""
    names = ("tokenizer", "vocab_size", "lowercase", "min_frequency")
    idle = flags + [f"--{name.replace('_', '-')}" for name in names if f"data.{name}" in settings]
    hint = "It writes nothing, and tries vocabularies itself."
    require(not idle, f"{', '.join(idle)}: no effect with --stats.", hint)
