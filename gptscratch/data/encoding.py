"""Which encoding the bytes of a file are in, what is no text at all, and what becomes of damaged places."""

from __future__ import annotations

import codecs
import threading
from importlib import import_module

from gptscratch.errors import CorpusError, MissingExtraError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does: asked first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC = {b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive (docx, epub and odt are)", b"\x89PNG": "an image",
          b"\xff\xd8\xff": "an image", b"GIF8": "an image",
          b"BZh": "packed with bzip2", b"\xfd7zXZ": "packed with xz"}  # fmt: skip


_REPLACE = "gptscratch.replace"  # the name of an error handler for Python's decoders
_count = threading.local()


class NotTextError(CorpusError):
    """A binary file: a fault when it was named, passed over in a folder."""


def encoding_of(head: bytes, name: str, wanted: str) -> str:
    marked = next((encoding for mark, encoding in _BOMS if head.startswith(mark)), None)
    if marked:
        if wanted != "auto":
            _text_encoding(wanted)
        return marked
    encoding = wanted
    if wanted == "auto":
        encoding = _wide_encoding(head) or ("utf-8" if _is_utf8(head) else likely_encoding(head))
    known = _text_encoding(encoding)
    start = head[: 1 << 16]
    zeros = start.count(0)
    if zeros > len(start) // 512 and not known.startswith(("utf-16", "utf-32")):
        kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "binary")
        wide = _wide_encoding(start)
        hint = f"If it is text: --encoding {wide}" if wide else "Convert it to plain text first."
        raise NotTextError(f"{name} is no text: it looks like {kind} data." if kind == "binary"
                           else f"{name} is no text: it looks like {kind}.", hint)  # fmt: skip
    return encoding


def _text_encoding(name: str) -> str:
    """Python's own name of an encoding.

    Raises:
        CorpusError: it is unknown, or a codec that does not decode bytes to text (base64, rot13, zlib).
    """
    hint = "Encodings are utf-8, latin-1, cp1252, shift_jis ..."
    try:
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise CorpusError(f"there is no encoding {name!r}.", hint) from None
    try:
        b" ".decode(name)
    except UnicodeError:
        pass  # as UTF-16 says of one byte
    except LookupError:
        raise CorpusError(f"{name!r} is not an encoding of text.", hint) from None
    return known


def likely_encoding(data: bytes) -> str:
    """A guess at the encoding of text that is not UTF-8.

    Raises:
        MissingExtraError: charset-normalizer is not installed, and it is no UTF-16.
    """
    data = data[: 1 << 16]
    wide = _wide_encoding(data)
    if wide:
        return wide
    try:
        found = list(import_module("charset_normalizer").from_bytes(data))  # best first
    except ImportError:
        raise MissingExtraError("charset-normalizer", "encodings") from None
    best = [m for m in found if (m.chaos, m.coherence) == (found[0].chaos, found[0].coherence)]
    alike = [name for match in best for name in (match.encoding, *match.could_be_from_charset)]
    if alike:  # of code pages that read it equally well, the Western one is the likeliest
        return str("cp1252" if "cp1252" in alike else alike[0])
    return "cp1252" if _decodes(data, "cp1252") else "latin-1"


def _wide_encoding(data: bytes) -> str:
    """UTF-16 of Western text has zeros in every other place; else the name is empty."""
    even, odd = data[::2].count(0), data[1::2].count(0)
    if max(even, odd) <= len(data) // 4 or min(even, odd) > len(data) // 8:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_utf8(data: bytes) -> bool:
    """Also where it is damaged further on: no other text is UTF-8 by chance for long."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError as error:
        return _reads_as_utf8(data[: error.start])
    return True


def _reads_as_utf8(before: bytes) -> bool:
    """Of what stands before the first fault."""
    return sum(letter > "\x7f" for letter in before.decode("utf-8", "replace")) > 2


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)  # incremental: the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def undecodable(name: str, error: UnicodeDecodeError, base: int) -> CorpusError:
    data, at = error.object, error.start
    magic = next((kind for magic, kind in _MAGIC.items() if base <= 0 and data.startswith(magic)), None)
    if magic:
        return NotTextError(f"{name} is no text: it looks like {magic}.", "Convert it to plain text first.")
    around = data[max(0, at - (1 << 15)) :][: 1 << 16]
    if error.encoding == "utf-8" and _reads_as_utf8(data[:at]):
        hint = "What stands before is UTF-8: --encoding-errors replace reads damaged places as U+FFFD."
    else:
        hint = _hint(around)
    shown = f"0x{data[at]:02x}" if at < len(data) else "missing"
    return CorpusError(f"{name} is not {error.encoding}: byte {shown} at offset {base + at:,}.", hint)


def undecodable_text(name: str, encoding: str, error: UnicodeError, data: bytes) -> CorpusError:
    """A fault that a decoder gives no place for, such as UTF-16 without a byte-order mark."""
    wide = _wide_encoding(data[: 1 << 16]) if encoding.lower().startswith("utf") else ""
    hint = f"It is likely {wide}: --encoding {wide}" if wide else "Name another one with --encoding."
    return CorpusError(f"{name} is not {encoding}: {error}.", hint)


def _hint(data: bytes) -> str:
    try:
        likely = likely_encoding(data)
    except MissingExtraError as error:
        return f"Name its encoding, as in --encoding cp1252, or have it guessed. {error.hint}"
    return f"It is likely {likely}: --encoding {likely}"


def counting_errors() -> str:
    """The name of a handler that reads such bytes as U+FFFD, as "replace" does, and counts them."""
    codecs.register_error(_REPLACE, _replace)
    return _REPLACE


def n_replaced() -> int:
    """The bytes replaced so far in this thread: the difference of two calls is what lies between them."""
    return getattr(_count, "bytes", 0)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _count.bytes = n_replaced() + error.end - error.start
    return "\ufffd", error.end
