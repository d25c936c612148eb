"""From bytes to text: the encoding of a file, its line ends, and which files are not text at all."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from importlib import import_module

from gptscratch.data.chunks import Reading
from gptscratch.errors import CorpusError, MissingExtraError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's: tested first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = {b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive (docx, epub and odt are)",
               b"\x89PNG": "an image", b"\xff\xd8\xff": "an image", b"GIF8": "an image",
               b"BZh": "compressed with bzip2", b"\xfd7zXZ": "compressed with xz"}  # fmt: skip
_HALVES = ("utf-7", "unicode-escape", "raw-unicode-escape")  # may decode to half of a surrogate pair
_LOOKED_AT = 1 << 16  # bytes


class NotTextError(CorpusError):
    """A binary file: an error if the user named it, skipped in a folder."""


def decoded(reading: Reading) -> Iterator[str]:
    """The text of a file in blocks, with every line end as \\n, also where CR and LF are in two blocks.

    Raises:
        CorpusError: the encoding is unknown, or the bytes are not text in it.
    """
    name, errors = reading.source.name, reading.config.encoding_errors
    with reading.source.open() as (file, content):
        block = content.read(reading.sizes.chunk)
        encoding = encoding_of(block, name, reading.config.encoding)
        reading.counts.encodings[encoding] += 1
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
        start = 0  # of the block, in the content
        while True:
            waiting = len(decoder.getstate()[0])
            try:
                text = newlines.decode(block, final=not block)
            except UnicodeError as error:
                raise _undecodable(name, encoding, error, block, start - waiting) from None
            if errors == "replace":
                reading.counts.replaced += text.count("\ufffd")
            if text:
                yield whole_characters(text) if encoding in _HALVES else text
            if not block:
                return
            start += len(block)
            reading.on_bytes(file.tell())
            block = content.read(reading.sizes.chunk)


def whole_characters(text: str) -> str:
    """Half of a surrogate pair is not a character, and nothing can encode it: U+FFFD replaces it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encoding_of(head: bytes, name: str, wanted: str) -> str:
    """The encoding of a file that begins with ``head``: a byte-order mark wins, "auto" is guessed.

    Raises:
        CorpusError: ``wanted`` is not an encoding of text.
        NotTextError: the file is binary.
    """
    known = "utf-8" if wanted == "auto" else _text_encoding(wanted)
    marked = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if marked:
        return marked
    if wanted == "auto":
        known = _wide_encoding(head) or ("utf-8" if _is_utf8(head) else _guess(head))
    start = head[:_LOOKED_AT]
    if start.count(0) > len(start) // 512 and not known.startswith(("utf-16", "utf-32")):
        wide = _wide_encoding(start)
        hint = f"If it is text: --encoding {wide}" if wide else "Convert it to plain text first."
        raise NotTextError(f"{name} is not text: it looks like {_kind(start) or 'binary data'}.", hint)
    return known


def _undecodable(name: str, encoding: str, error: UnicodeError, data: bytes, offset: int) -> CorpusError:
    """The error for bytes that the encoding does not have; ``data`` begins at ``offset`` of the file."""
    if not isinstance(error, UnicodeDecodeError):  # without a place: UTF-16 without a byte-order mark
        wide = _wide_encoding(data)
        hint = f"It is probably {wide}: --encoding {wide}" if wide else "Name another one with --encoding."
        return CorpusError(f"{name} is not {encoding}: {error}.", hint)
    object_, at = error.object, error.start
    if offset <= 0 and (kind := _kind(object_)):
        return NotTextError(f"{name} is not text: it looks like {kind}.", "Convert it to plain text.")
    if error.encoding == "utf-8" and _has_utf8_letters(object_[:at]):
        hint = "The text before it is UTF-8: --encoding-errors replace reads damaged places as U+FFFD."
    else:
        try:
            guess = _guess(object_[max(0, at - _LOOKED_AT // 2) :])
            hint = f"It is probably {guess}: --encoding {guess}"
        except MissingExtraError as missing:
            hint = f"Name its encoding, as in --encoding cp1252, or let it be guessed. {missing.hint}"
    shown = f"byte 0x{object_[at]:02x}" if at < len(object_) else "a missing byte"
    return CorpusError(f"{name} is not {error.encoding}: {shown} at offset {offset + at:,}.", hint)


def _text_encoding(name: str) -> str:
    try:
        known = codecs.lookup(name).name
        b" ".decode(name)
    except UnicodeError:
        pass  # as for UTF-16 and one byte
    except (LookupError, ValueError):
        hint = "Encodings are utf-8, latin-1, cp1252, shift_jis ..."
        raise CorpusError(f"{name!r} is not an encoding of text.", hint) from None
    return known


def _guess(data: bytes) -> str:
    """Raises MissingExtraError where charset-normalizer is not installed and it is not UTF-16."""
    data = data[:_LOOKED_AT]
    wide = _wide_encoding(data)
    if wide:
        return wide
    try:
        found = list(import_module("charset_normalizer").from_bytes(data))  # best first
    except ImportError:
        raise MissingExtraError("charset-normalizer", "encodings") from None
    best = [m for m in found if (m.chaos, m.coherence) == (found[0].chaos, found[0].coherence)]
    names = [name for match in best for name in (match.encoding, *match.could_be_from_charset)]
    if not names:
        return "latin-1"
    return "cp1252" if "cp1252" in names else str(names[0])  # of equally good ones the Western one


def _kind(data: bytes) -> str:
    return next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), "")


def _wide_encoding(data: bytes) -> str:
    """UTF-16 of Western text has a zero in every other place."""
    data = data[:_LOOKED_AT]
    even, odd = data[::2].count(0), data[1::2].count(0)
    if max(even, odd) <= len(data) // 4 or min(even, odd) > len(data) // 8:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_utf8(data: bytes) -> bool:
    """Also where it is damaged later: other text is not valid UTF-8 for long."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError as error:
        return _has_utf8_letters(data[: error.start])
    return True


def _has_utf8_letters(valid: bytes) -> bool:
    return sum(letter > "\x7f" for letter in valid.decode("utf-8", "replace")) > 2
