"""Output of ``tokenize``: token files, the tokens of a text, and statistics of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from gptscratch.cli.console import NO_BREAK, out, print_json, show
from gptscratch.cli.render import Lines, tokenizer
from gptscratch.units import plural, size

if TYPE_CHECKING:
    from gptscratch.data.chunks import Removed
    from gptscratch.data.prepare import Prepared, PreparedShard
    from gptscratch.data.statistics import CorpusStatistics
    from gptscratch.data.token_files import Manifest
    from gptscratch.tokenizer import Tokenizer

_ODD = 8  # kinds of odd characters shown
_SCRIPTS = 6
_SPLITS = {"documents": "chosen by hash", "tail": "the tail of the text", "file": "a corpus of their own"}


def token_files(
    manifest: Manifest,
    *,
    json: bool,
    prepared: Prepared | PreparedShard | None = None,
    missing: Sequence[int] | None = None,
) -> None:
    """Describe token files.

    Args:
        prepared: what the command has just made or found; None: only the files are described.
        missing: the shards that are still to be made, where the corpus has shards.
    """
    train, val = manifest.train, manifest.val
    sums = {
        name: getattr(train, name) + getattr(val, name)
        for name in ("characters", "bytes", "tokens", "unknown")
    }
    documents = manifest.documents or train.documents + val.documents
    names = ("vocab_size", "lossy", "files", "skipped", "replaced", "removed", "train", "val")
    values = {"tokenizer": manifest.tokenizer_kind, "documents": documents, **sums}
    values |= {name: getattr(manifest, name) for name in (*names, "characters_per_token", "unknown_rate")}
    lines = [
        ("tokenizer", tokenizer(manifest)),
        ("documents", f"{documents:,} in {plural(manifest.files, 'file')}"),
        ("characters", f"{sums['characters']:,}"),
        ("tokens", f"{sums['tokens']:,}: {train.tokens:,} to train, {val.tokens:,} to validate"),
        ("per token", f"{manifest.characters_per_token:.3f} characters"),
        ("unknown", f"{manifest.unknown_rate:.3%} of the tokens"),
        *losses(manifest.removed, manifest.replaced, manifest.skipped),
    ]
    if prepared is not None:
        values["folder"] = prepared.folder
        lines.append(("folder", f"{prepared.folder}{' (existed already)' if prepared.reused else ''}"))
    if missing is not None:
        values["missing_shards"] = missing
        some = ", ".join([*map(str, missing[:10]), *["..."] * (len(missing) > 10)])
        lines.append(("shards", f"still to be made: {some}" if missing else "all are made and joined"))
    show(values, lines, json=json)


def losses(removed: Sequence[Removed], replaced: int, skipped: int) -> Lines:
    """One line for each thing that is no longer in the text."""
    lines = [("cleaning", f"{step.step}: {_removed(step)}") for step in removed]
    if replaced:
        lines.append(("replaced", f"{plural(replaced, 'character')} U+FFFD for bytes that cannot be decoded"))
    if skipped:
        lines.append(("skipped", f"{plural(skipped, 'file')}: not text, not readable, or deleted"))
    return lines


def _removed(step: Removed) -> str:
    if not step.characters and not step.documents and not step.changed:
        return "changed nothing"
    dropped = f"{plural(step.documents, 'document')} dropped, " if step.documents else ""
    number = plural(abs(step.characters), "character")
    return f"{dropped}{step.changed:,} changed, {number} {'removed' if step.characters >= 0 else 'added'}"


def text_tokens(text: str, by: Tokenizer, name: str, *, json: bool) -> None:
    """The tokens of one text; ``name`` says which tokenizer it is."""
    tokens = [(token, i, i == by.unk_id) for token, i in by.tokens(text)]
    if json:
        shown = [{"token": token, "id": i, "unknown": unknown} for token, i, unknown in tokens]
        print_json({"text": text, "tokenizer": name, "tokens": shown})
        return
    table = Table("token", "id", "", box=None, pad_edge=False)
    for token, i, unknown in tokens:
        table.add_row(escape(repr(token)), str(i), "[yellow]unknown[/]" if unknown else "")
    out.print(table)
    n_unknown = sum(unknown for *_, unknown in tokens)
    counts = f"{plural(len(tokens), 'token')} for {plural(len(text), 'character')}"
    counts += f", {n_unknown:,} unknown" if n_unknown else ""
    out.print(escape(f"{counts}, by {name}"), style="dim")


def corpus(stats: CorpusStatistics, *, json: bool) -> None:
    show(stats, _lines(stats), json=json)


def _lines(stats: CorpusStatistics) -> Lines:
    part = [f"in {stats.sample_share:.0%} of the text"] if stats.sample_share < 1 else []
    files = _counted(stats.encodings.items()) if stats.files > 1 else list(stats.encodings)
    documents = _counted(stats.document_characters.items()) if stats.documents > 1 else []
    copies = plural(stats.duplicate_documents, "document")
    repeated = f"{copies}, {stats.duplicate_share:.2%}: --clean dedup"
    entries = f" with {stats.suggested_vocab_size:,} entries" if stats.suggested_vocab_size else ""
    held_out = [plural(stats.val_documents, "document")] if stats.val_documents else []
    leaked = [f"{stats.overlap.documents:.2%} of these documents"] if stats.val_documents else []
    leaked.append(f"{stats.overlap.windows:.2%} of all runs of 13 words are in the training text")
    names, values = _bytes_per_token(stats)
    return [
        ("text", f"{size(stats.bytes)}, {stats.characters:,} characters, {plural(stats.lines, 'line')}"),
        ("files", _joined([f"{stats.files:,}", *files])),
        *losses(stats.removed, stats.replaced, stats.skipped),
        ("documents", _joined([f"{stats.documents:,}", *documents])),
        ("duplicates", repeated if stats.duplicate_documents else "none"),
        ("alphabet", _joined([f"{stats.distinct_characters:,} characters", *_scripts(stats)])),
        ("odd", _joined(_odd(stats)) or "none"),
        ("words", _joined([f"{stats.words:,}", f"{stats.distinct_words:,} distinct", *part])),
        ("", _joined(_counted(stats.top_words), "   ")),
        ("tokens", f"with {stats.top_tokens_of:,} entries"),
        ("", _joined(_counted((_quoted(name), n) for name, n in stats.top_tokens), "   ")),
        ("bytes/token", names),
        ("", values),
        ("suggestion", f"{stats.suggested_tokenizer}{entries}"),
        ("validation", _joined([*held_out, _SPLITS[stats.split]])),
        ("leakage", ", ".join(leaked)),
    ]


def _joined(parts: Iterable[str], between: str = ", ") -> str:
    """The parts in one text, in which no part is broken."""
    return between.join(part.replace(" ", NO_BREAK) for part in parts)


def _counted(pairs: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{name} {count:,}" for name, count in pairs]


def _quoted(token: str) -> str:
    return repr(token).replace("\\\\", "\\")


def _scripts(stats: CorpusStatistics) -> list[str]:
    shares = [(name, f"{share:.1%}" if share >= 0.001 else "< 0.1%") for name, share in stats.scripts.items()]
    more = [f"{len(shares) - _SCRIPTS:,} more"] if len(shares) > _SCRIPTS else []
    return [f"{name} {share}" for name, share in shares[:_SCRIPTS]] + more


def _odd(stats: CorpusStatistics) -> list[str]:
    more = len(stats.odd_characters) - _ODD
    shown = [f"{each.code} {each.name} {each.count:,}" for each in stats.odd_characters[:_ODD]]
    return shown + ([f"{more} kinds more"] if more > 0 else [])


def _bytes_per_token(stats: CorpusStatistics) -> tuple[str, str]:
    """The sizes of the vocabularies, and below them the bytes per token."""
    columns = []
    for name, value in stats.bytes_per_token.items():
        title = f"{int(name):,}" if name.isdecimal() else name
        width = max(len(title), 4)
        columns.append((title.rjust(width), f"{value:{width}.2f}"))
    names, values = zip(*columns, strict=True)
    return "  ".join(names), "  ".join(values)
