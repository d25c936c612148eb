"""Where a pre-tokenizer cuts, found by numpy over the bytes of many texts at once.

``cut_pieces`` gives GPT-2's pieces exactly. ``cut_at_words`` gives longer ones for other pre-tokenizers: it
cuts before a space between a word and a letter, where all those of ``cutter_for`` cut too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]
Cutter = Callable[[Bytes], Places]  # UTF-8 between BORDERs -> the first byte of each piece, borders included

BORDER = 0xFF  # stands before each text; occurs in no UTF-8
LETTER, NUMBER, _SPACE, _OTHER, _BORDER = 1, 2, 3, 4, 5  # classes of characters
_BLOCK = 256  # code points that the library is asked about at once

# Patterns in which a space stands at a match's start or in white space alone: GPT-2, Llama 3, Qwen 2.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_NORMALIZERS = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD"}  # none looks across a space


def cutter_for(spec: dict[str, Any], known: tuple[str, ...] = ()) -> Cutter | None:
    """The cutter that is right for a tokenizer.json, or None where none is known to be.

    ``known`` are further patterns of ``Split`` with a space only at a match's start.
    """
    normalizers = _steps(spec["normalizer"], "normalizers")
    before = _steps(spec["pre_tokenizer"], "pretokenizers")
    plain = all(token["special"] for token in spec["added_tokens"])  # others are sought before any cut
    random = spec["model"].get("dropout")
    if not before or not plain or random or any(step["type"] not in _NORMALIZERS for step in normalizers):
        return None
    byte_level = [step for step in before if step["type"] == "ByteLevel"]
    if any(step["add_prefix_space"] for step in byte_level):
        return None
    if before == byte_level and len(before) == 1 and before[0].get("use_regex", True) and not normalizers:
        return cut_pieces
    first = before[0]
    pattern = first.get("pattern", {}).get("Regex")
    cuts = first["type"] == "Split" and pattern in (_GPT2, _LLAMA3, _QWEN2, *known)
    cuts = cuts or first["type"] in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")
    return cut_at_words if cuts or (first["type"] == "ByteLevel" and first.get("use_regex", True)) else None


def cut_pieces(data: Bytes) -> Places:
    """GPT-2's pieces: the matches of ``_GPT2``, one behind the other (Radford et al. 2019, encoder.py)."""
    classes = character_classes(data)
    starts = np.empty(len(data) + 1, bool)
    starts[0] = True
    np.not_equal(classes[1:], classes[:-1], out=starts[1:-1])
    borders = np.flatnonzero(data == BORDER)
    starts[borders] = True
    starts[borders + 1] = True
    changes = np.flatnonzero(starts[:-1])
    changes = changes[changes > 0]
    # White space leaves its last character to what follows: a space joins it, others stand alone.
    after = changes[(classes[changes - 1] == _SPACE) & (classes[changes] != _BORDER)]
    last = after - 1
    joins = data[last] == 32
    starts[after[joins]] = False
    last[~joins] = _first_byte(data, last[~joins])
    starts[last] = True
    _cut_contractions(data, starts)
    return np.flatnonzero(starts[:-1])


def cut_at_words(data: Bytes) -> Places:
    """Pieces that begin with a space and a letter, after something that is no white space.

    Not after a hyphen, since in our own pattern for words one that hangs is a word of its own.
    """
    classes = character_classes(data)
    spaces = np.flatnonzero(data[1:-1] == 32) + 1
    spaces = spaces[(classes[spaces - 1] != _SPACE) & (classes[spaces + 1] == LETTER)]
    spaces = spaces[data[spaces - 1] != ord("-")]
    borders = np.flatnonzero(data == BORDER)
    starts = np.zeros(len(data) + 1, bool)
    for places in (spaces, borders, borders + 1):
        starts[places] = True
    return np.flatnonzero(starts[:-1])


def _cut_contractions(data: Bytes, starts: NDArray[np.bool_]) -> None:
    marks = np.flatnonzero(data == ord("'"))
    marks = marks[starts[marks]]
    padded = np.concatenate((data, np.zeros(2, np.uint8)))
    first, second = padded[marks + 1], padded[marks + 2]
    ends = np.zeros(len(marks), np.int64)
    ends[np.isin(first, list(b"stmd"))] = 2
    for pair in (b"re", b"ve", b"ll"):
        ends[(first == pair[0]) & (second == pair[1])] = 3
    found = ends > 0
    starts[marks[found] + 1] = False
    starts[marks[found] + ends[found]] = True


def _first_byte(data: Bytes, places: Places) -> Places:
    """Of the character that has its last byte at each place."""
    while len(inside := np.flatnonzero((data[places] & 0xC0) == 0x80)):
        places = places.copy()
        places[inside] -= 1
    return places


_known = np.zeros(0x110000, np.uint8)  # classes by code point, a block at a time; 0: not asked yet


def character_classes(data: Bytes) -> Bytes:
    """Each byte's class: that of the character it belongs to."""
    _ask(np.zeros(1, np.int64))
    table = np.zeros(256, np.uint8)
    table[:128] = _known[:128]
    table[BORDER] = _BORDER
    classes: Bytes = np.frombuffer(data.tobytes().translate(table.tobytes()), np.uint8)
    heads = np.flatnonzero((data >= 0xC0) & (data != BORDER))
    if not len(heads):
        return classes
    classes = classes.copy()
    for low, high, tail in ((0xC0, 0xE0, 1), (0xE0, 0xF0, 2), (0xF0, 0xF8, 3)):
        at = heads[(data[heads] >= low) & (data[heads] < high)]
        codes = (data[at] & (0x3F >> tail)).astype(np.int64)
        for i in range(1, tail + 1):
            codes = (codes << 6) | (data[at + i] & 0x3F)
        found = _known[codes]
        if not found.all():
            _ask(np.unique(codes[found == 0] // _BLOCK))
            found = _known[codes]
        for i in range(tail + 1):
            classes[at + i] = found
    return classes


def _ask(blocks: Places) -> None:
    """Fill the classes of some blocks by the library's own regular expressions, so that both agree."""
    for block in blocks:
        first = int(block) * _BLOCK
        if _known[first]:
            continue
        letters = "".join(map(chr, range(first, first + _BLOCK)))
        classes = np.full(_BLOCK, _OTHER, np.uint8)
        for kind, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (_SPACE, r"\s+")):
            split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
            for _, (start, end) in split.pre_tokenize_str(letters):
                classes[start:end] = kind
        _known[first : first + _BLOCK] = classes


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [step for inner in part[name] for step in _steps(inner, name)] if name in part else [part]
