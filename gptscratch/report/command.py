"""The command that trains a run again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from gptscratch.config import SECTIONS, RunConfig
from gptscratch.config.setting import CHOSEN, Setting, settings_of
from gptscratch.training.planning.source import FREE, TOKENIZER


def command_of(config: Mapping[str, Any], init_from: str | None = None) -> str:
    """A command line with every setting that was given or chosen.

    Args:
        config: the content of a config.json.
        init_from: the run whose weights this one started from.
    """
    known = RunConfig.from_dict({name: config.get(name, {}) for name in SECTIONS})
    words = ["gptscratch", "train", *known.data.corpus]
    if init_from:
        words += ["--init-from", init_from]
    for section, cls in SECTIONS.items():
        values = known.model.chosen() if section == "model" else vars(getattr(known, section))
        for name, setting in settings_of(cls).items():
            if name in values and not _is_decided(f"{section}.{name}", init_from):
                words += _option(section, setting, values[name])
    return shlex.join(words)


def _is_decided(name: str, init_from: str | None) -> bool:
    """Whether another word of the command, the text or the first run decides about a setting."""
    if name in ("data.corpus", "model.vocab_size"):
        return True
    return bool(init_from) and (name in TOKENIZER or (name.startswith("model.") and name not in FREE))


def _option(section: str, setting: Setting, value: Any) -> Iterator[str]:
    """The words that give a setting its value; none where it would have it anyway."""
    is_chosen = setting.default_is == CHOSEN
    if value in (None, "", ()) or (value == setting.default and not is_chosen):
        return
    if not setting.flags:
        text = ",".join(map(str, value)) if setting.many else json.dumps(value).strip('"')
        yield from ("--set", f"{section}.{setting.name}={text}")
    elif setting.kind is bool:
        on, _, off = setting.flags[-1].partition("/")
        yield on if value else off
    else:
        for part in value if setting.many else [value]:
            yield from (setting.label, str(part))
