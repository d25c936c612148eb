"""Output of ``tokenize``: statistics of a corpus, the tokens of a text, and what cleaning removed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from gptscratch.cli.render import facts, out, print_json
from gptscratch.units import plural, size

if TYPE_CHECKING:
    from gptscratch.data.chunks import Removed
    from gptscratch.data.statistics import CorpusStatistics
    from gptscratch.tokenizer import Tokenizer

_ODD = 8  # kinds of odd characters shown
_SCRIPTS = 6
_LABEL = 12  # columns
_SPLITS = {"documents": "chosen by hash", "tail": "the tail of the text", "file": "a corpus of their own"}


def corpus(stats: CorpusStatistics, *, json: bool) -> None:
    if json:
        print_json(stats)
        return
    for label, lines in _rows(stats):
        facts(out, zip([label, *[""] * len(lines)], lines, strict=False))


def text_tokens(text: str, tokenizer: Tokenizer, name: str, *, json: bool) -> None:
    """The tokens of one text; ``name`` says which tokenizer it is."""
    tokens = [(token, i, i == tokenizer.unk_id) for token, i in tokenizer.tokens(text)]
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


def losses(removed: Iterable[Removed], replaced: int, skipped: int) -> list[tuple[str, str]]:
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
    what = "removed" if step.characters >= 0 else "added"
    dropped = f"{plural(step.documents, 'document')} dropped, " if step.documents else ""
    return f"{dropped}{step.changed:,} changed, {plural(abs(step.characters), 'character')} {what}"


def _rows(stats: CorpusStatistics) -> list[tuple[str, list[str]]]:
    part = [f"in {stats.sample_share:.0%} of the text"] if stats.sample_share < 1 else []
    words = _filled([f"{stats.words:,}", f"{stats.distinct_words:,} distinct", *part])
    files = [f"{name} {count:,}" for name, count in stats.encodings.items()] if stats.files > 1 else []
    entries = f" with {stats.suggested_vocab_size:,} entries" if stats.suggested_vocab_size else ""
    lost = losses(stats.removed, stats.replaced, stats.skipped)
    return [
        ("text", [f"{size(stats.bytes)}, {stats.characters:,} characters, {plural(stats.lines, 'line')}"]),
        ("files", _filled([f"{stats.files:,}", *(files or stats.encodings)])),
        *((label, [line]) for label, line in lost),
        ("documents", _documents(stats)),
        ("duplicates", [_duplicates(stats)]),
        ("alphabet", _alphabet(stats)),
        ("odd", _odd(stats)),
        ("words", words + _counted(stats.top_words)),
        ("tokens", [f"with {stats.top_tokens_of:,} entries", *_counted(_quoted(stats.top_tokens))]),
        ("bytes/token", _bytes_per_token(stats.bytes_per_token)),
        ("suggestion", [f"{stats.suggested_tokenizer}{entries}"]),
        ("validation", _filled([*_held_out(stats), _SPLITS[stats.split]])),
        ("leakage", _leakage(stats)),
    ]


def _documents(stats: CorpusStatistics) -> list[str]:
    if stats.documents == 1:
        return ["1"]
    return _filled(
        [f"{stats.documents:,}", *(f"{name} {n:,}" for name, n in stats.document_characters.items())]
    )


def _duplicates(stats: CorpusStatistics) -> str:
    if not stats.duplicate_documents:
        return "none"
    return f"{plural(stats.duplicate_documents, 'document')}, {stats.duplicate_share:.2%}: --clean dedup"


def _alphabet(stats: CorpusStatistics) -> list[str]:
    shares = list(stats.scripts.items())
    shown = [f"{name} {share:.1%}" if share >= 0.001 else f"{name} < 0.1%" for name, share in shares]
    more = [f"{len(shown) - _SCRIPTS:,} more"] if len(shown) > _SCRIPTS else []
    return _filled([f"{stats.distinct_characters:,} characters", *shown[:_SCRIPTS], *more])


def _odd(stats: CorpusStatistics) -> list[str]:
    shown = [f"{c.code} {c.name} {c.count:,}" for c in stats.odd_characters[:_ODD]]
    more = len(stats.odd_characters) - len(shown)
    return _filled([*shown, *([f"{more} kinds more"] if more > 0 else [])] or ["none"])


def _held_out(stats: CorpusStatistics) -> list[str]:
    return [plural(stats.val_documents, "document")] if stats.val_documents else []


def _leakage(stats: CorpusStatistics) -> list[str]:
    documents = [f"{stats.overlap.documents:.2%} of these documents"] if stats.val_documents else []
    runs = f"{stats.overlap.windows:.2%} of all runs of 13 words are in the training text"
    return _filled([*documents, runs])


def _bytes_per_token(found: dict[str, float]) -> list[str]:
    names = [f"{int(name):,}" if name.isdecimal() else name for name in found]
    width = [max(len(name), 4) for name in names]
    return [
        "  ".join(name.rjust(n) for name, n in zip(names, width, strict=True)),
        "  ".join(f"{value:{n}.2f}" for value, n in zip(found.values(), width, strict=True)),
    ]


def _quoted(pairs: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(repr(name).replace("\\\\", "\\"), count) for name, count in pairs]


def _counted(pairs: Iterable[tuple[str, int]]) -> list[str]:
    return _filled([f"{name} {count:,}" for name, count in pairs], between="   ")


def _filled(parts: Iterable[str], between: str = ", ") -> list[str]:
    """The parts in lines as wide as the terminal; no part is broken."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}{between}{part}" if lines[-1] else part
        if lines[-1] and cell_len(longer) > out.width - _LABEL - len(between.rstrip()):
            lines[-1] += between.rstrip()
            lines.append(part)
        else:
            lines[-1] = longer
    return lines
