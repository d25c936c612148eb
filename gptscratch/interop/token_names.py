"""The chat template and the names of special tokens of an imported model, which its run keeps for exports."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from gptscratch import paths
from gptscratch.runs.run import TOKENIZER_CONFIG, read_facts
from gptscratch.tokenizer import Tokenizer

_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
_LARGEST = 1 << 20  # bytes of a chat template


def read_names(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """``chat_template``, ``eos_token`` and the like, as far as a model's folder or a run has them.

    A name that the tokenizer lacks is left out, and of several chat templates all but the default one.
    """
    values = read_facts(folder / "special_tokens_map.json") | read_facts(folder / TOKENIZER_CONFIG)
    template = _template_file(folder) or values.get("chat_template")
    if isinstance(template, list):
        named = (each for each in template if isinstance(each, dict) and each.get("name") == "default")
        template = next(named, {}).get("template")
    found = {} if not isinstance(template, str) else {"chat_template": template}
    for name in _NAMES:
        token: Any = values.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and tokenizer.library.token_to_id(token) is not None:
            found[name] = token
    return found


def _template_file(folder: Path) -> str | None:
    """Newer models have their template in a file of its own."""
    file = folder / "chat_template.jinja"
    with contextlib.suppress(OSError, ValueError):
        if paths.is_file(file) and file.stat().st_size <= _LARGEST:
            return file.read_text(encoding="utf-8")
    return None
