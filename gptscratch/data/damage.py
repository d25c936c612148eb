"""Bytes that an encoding does not know, replaced and counted: an error handler for Python's decoders."""

from __future__ import annotations

import codecs
import threading

_NAME = "gptscratch.replace"
_count = threading.local()


def counting_errors() -> str:
    """The name of a handler that reads such bytes as U+FFFD, as "replace" does, and counts them."""
    codecs.register_error(_NAME, _replace)
    return _NAME


def n_replaced() -> int:
    """The bytes replaced so far in this thread: the difference of two calls is what lies between them."""
    return getattr(_count, "bytes", 0)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _count.bytes = n_replaced() + error.end - error.start
    return "\ufffd", error.end
