"""Damaged and hostile versions of a file: of its JSON, of its bytes, of its safetensors header.

Each mutation is a function of (random numbers, the file's bytes) that returns other bytes.
"""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (
    0, -1, 1, 2, 3, 7, 255, 1000, 65_537, 1_000_000, 2**24 + 1, 2**31 - 1, 2**31, 2**32, 2**40, 2**53,
    2**63 - 1, 2**63, 2**64, -(2**63), 10**18, 10**30, 10**400, 0.0, -0.0, 0.5, 1.5, -1.5, 1e-320, 1e18,
    1e308, -1e308, float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip
TEXTS = (
    "", " ", "\n", "\x00", "x", "-", "..", "../../outside", "../../outside/checkpoints/step-00000008",
    "/dev/zero", "/", "~", "step-00000008", "step-99999999", "auto", "cuda:99", "5", "1e400", "nan",
    "null", "[1]", "\ud800", "\U0001f600", "\u2028", "%s{0}", "[bold]", "x" * 5000, "a" * 300_000,
    "<script>alert(1)</script>",
)  # fmt: skip
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "f32", "")


def any_of(*mutations: Mutation) -> Mutation:
    return lambda chance, data: chance.choice(mutations)(chance, data)


def damaged_bytes(chance: random.Random, data: bytes) -> bytes:
    """What a bad disk, a cut download or another program makes of a file."""
    size = len(data)
    start, end = sorted((chance.randrange(size + 1), chance.randrange(size + 1)))
    flipped = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if size:
            flipped[chance.randrange(size)] ^= 1 << chance.randrange(8)
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: bytes(flipped),
        lambda: bytes(flipped),
        lambda: data[:start],
        lambda: data[start:],
        lambda: data[:start] + data[end:],
        lambda: data[:start] + bytes(end - start) + data[end:],
        lambda: data[:start] + chance.randbytes(min(end - start, 4096)) + data[end:],
        lambda: data[:end] + data[start:],
        lambda: (
            data[:start] + chance.choice((b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b'"', b"{", b"["))
        ),
        lambda: chance.choice(
            (b"", b"\n", b"null", b"[]", b"{}", b"0", b'""', b"[" * 200_000, b" " * (20 << 20))
        ),
    )
    return chance.choice(choices)()


def damaged_json(chance: random.Random, data: bytes) -> bytes:
    """Valid JSON in most cases, with one to three values that are wrong, missing, additional or moved."""
    try:
        document = json.loads(data)
    except ValueError:
        return damaged_bytes(chance, data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        document = changed(chance, document)
    return dumped(document)


def damaged_lines(chance: random.Random, data: bytes) -> bytes:
    """A file with one JSON object per line, some of which are damaged."""
    lines = data.split(b"\n")
    for _ in range(chance.choice((1, 2, 5))):
        at = chance.randrange(len(lines))
        lines[at] = any_of(damaged_json, damaged_json, damaged_bytes)(chance, lines[at])
    return b"\n".join(lines)


def dumped(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=True).encode()


def changed(chance: random.Random, document: Any) -> Any:
    """The document with one change at a random place."""
    places = list(_places(document))
    if not places:
        return value(chance)
    holder, key = chance.choice(places)
    old = holder[key]
    what = chance.randrange(8)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[chance.choice((*TEXTS[:9], str(key) + "x", str(key).upper()))] = old
    elif what == 2:
        other, other_key = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[other_key]))
    elif what == 3:
        holder[key] = chance.choice(([old], {"a": old}, [old] * 100, str(old), [], {}))
    elif what == 4 and isinstance(old, int | float):
        holder[key] = chance.choice(
            (-old, old + 1, old - 1, old * 2, float(old) if abs(old) < 1e300 else 0, 2 * 10**9)
        )
    elif what == 4 and isinstance(old, str):
        holder[key] = chance.choice((old + "x", old[:-1], old.upper(), old * 50, old[::-1]))
    else:
        holder[key] = value(chance)
    return document


def value(chance: random.Random) -> Any:
    kind = chance.randrange(10)
    if kind < 5:
        return chance.choice(NUMBERS)
    if kind < 8:
        return chance.choice(TEXTS)
    return chance.choice((None, [], {}, [[]], [None], {"": {}}, list(range(3000)), nested(500)))


def nested(depth: int) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = (
        document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    )
    for key in list(keys):
        yield document, key
        yield from _places(document[key])


def damaged_header(chance: random.Random, data: bytes) -> bytes:
    """A safetensors file whose header claims something else than the file holds."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    entry = header[chance.choice(names)]
    start, end = entry["data_offsets"]
    huge = chance.choice((10**13, 2**40, 2**63 - 1, 2**64))
    what = chance.randrange(10)
    if what == 0:
        entry["data_offsets"] = chance.choice(
            ([end, start], [0, end], [start, end + huge], [-4, end], [start], [huge, 2 * huge])
        )
    elif what == 1:
        entry["shape"] = chance.choice(
            ([huge], [huge, huge], [], [0], [-1], [2**32, 2**32, 4], [1.5], [1] * 5000)
        )
    elif what == 2:  # a tensor of 10 TB, with matching offsets
        entry.update(shape=[huge // 4], data_offsets=[start, start + huge // 4 * 4], dtype="F32")
    elif what == 3:
        entry["dtype"] = chance.choice(DTYPES)
    elif what == 4:
        header[chance.choice((*TEXTS[:8], "a.b.c", "__metadata__x"))] = dict(entry)
    elif what == 5:
        header.pop(chance.choice(names))
    elif what == 6:
        header = changed(chance, header)
    elif what == 7:  # the numbers, not the header
        bits = chance.choice(
            (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\xff\xff\xff\xff")
        )
        at = chance.randrange(max(1, len(body) // 4)) * 4
        body = (
            body[:at] + bits * chance.choice((1, 64)) + body[at:]
            if chance.random() < 0.1
            else bits * (len(body) // 4)
        )
    text = dumped(header)
    if what == 8:  # a name twice
        text = text[:-1] + b"," + dumped({names[0]: header.get(names[0], {})})[1:]
    claimed = chance.choice((0, 2**63, 10**13, len(text) + 1, len(data))) if what == 9 else len(text)
    return claimed.to_bytes(8, "little") + text + body


_COMPONENTS: dict[str, tuple[Any, ...]] = {
    "normalizer": (
        {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": "(([a-z ]+)+)+$"}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": "x" * 10_000},
        {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "ab" * 50}] * 6,
        },
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="},
        {"type": "Prepend", "prepend": "y" * 100_000},
        {"type": "Prepend", "prepend": ""},
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        {"type": "Lowercase"},
        {"type": "Nope"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ),
    "pre_tokenizer": (
        {"type": "FixedLength", "length": 0},
        {"type": "FixedLength", "length": 2**40},
        {"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Removed", "invert": True},
        {"type": "Split", "pattern": {"String": ""}, "behavior": "MergedWithNext", "invert": False},
        {"type": "Metaspace", "replacement": "", "prepend_scheme": "always", "split": True},
        {"type": "Punctuation", "behavior": "Removed"},
        {"type": "Digits", "individual_digits": True},
        {"type": "Sequence", "pretokenizers": []},
        {"type": "UnicodeScripts"},
        {"type": "CharDelimiterSplit", "delimiter": ""},
    ),
    "decoder": (
        {"type": "WordPiece", "prefix": "", "cleanup": True},
        {"type": "ByteFallback"},
        {"type": "CTC"},
        {"type": "Strip", "content": " ", "start": 2**40, "stop": 2**40},
        {"type": "Fuse"},
        {"type": "BPEDecoder", "suffix": ""},
        {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
    ),
    "post_processor": (
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "nope", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
        {"type": "BertProcessing", "sep": ["x", 2**31], "cls": ["y", 0]},
        {
            "type": "RobertaProcessing",
            "sep": ["x", 0],
            "cls": ["y", 0],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        {"type": "Sequence", "processors": [{"type": "ByteLevel", "trim_offsets": True}] * 3},
    ),
    "padding": (
        {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
    ),
    "truncation": ({"max_length": 0, "strategy": "LongestFirst", "stride": 5, "direction": "Right"},),
}


def damaged_tokenizer(chance: random.Random, data: bytes) -> bytes:
    """A tokenizer.json with a part that other tokenizers have, wrong ids, or a wrong model."""
    spec = json.loads(data)
    what = chance.randrange(6)
    vocab = spec["model"].get("vocab")
    if what < 3:
        part = chance.choice(list(_COMPONENTS))
        spec[part] = chance.choice(_COMPONENTS[part])
    elif what == 3 and isinstance(vocab, dict) and vocab:
        vocab[chance.choice(list(vocab))] = chance.choice(
            (2**31, 2**32 - 1, 2**24 - 1, 10**6, -1, 0, 1.5, "1", None)
        )
    elif what == 4:
        token = {
            "id": chance.choice((2**31, 2**32 - 1, 0, 10**6, -1)),
            "content": chance.choice(TEXTS),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": chance.random() < 0.5,
            "special": chance.random() < 0.5,
        }
        spec["added_tokens"] = [*spec.get("added_tokens", []), token]
    else:
        model = spec["model"]
        model[chance.choice((*model, "unk_token", "unk_id", "dropout", "byte_fallback"))] = value(chance)
    return dumped(spec)


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> Any:
        return self.what


def malicious_pickle(target: Path) -> bytes:
    """A pickle that creates ``target`` where it is executed."""
    import pickle

    return pickle.dumps({"model_args": {}, "model": _Call(os.mkdir, str(target))}, protocol=2)


def damaged_archive(chance: random.Random, data: bytes) -> bytes:
    """A zip archive of torch.save with one member changed; the archive itself stays whole."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as copy:
        names = archive.namelist()
        target = (
            next(n for n in names if n.endswith("data.pkl"))
            if chance.random() < 0.6
            else chance.choice(names)
        )
        for name in names:
            content = archive.read(name)
            if name == target:
                content = damaged_bytes(chance, content)
            copy.writestr(name, content)
    return out.getvalue()
