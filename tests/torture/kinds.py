"""What ``mutate.py`` damages, and the commands that read it; the files are those of ``fixtures.py``."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from gptscratch.config import all_settings
from tests.torture import mutations as m

SLOW = ("train", "report")  # commands that are taken less often
READING = ("info", "runs", "compare", "score", "doctor", "http")  # these change no file of the fixtures


@dataclass(frozen=True)
class Kind:
    """Patterns of files, how one of them is damaged, and the commands that read them."""

    files: Sequence[str]
    damage: m.Mutation
    commands: Sequence[str]


def lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


LIGHT = lines("""
    info
    info tale
    info tale --json
    runs
    compare tale tuned
    report tale --no-copies --html r.html --force
""")
LOADING = lines("""
    sample tale --max-tokens 3 --prompt the
    sample tale --max-tokens 3 --no-copy-ngram 3
    score in.txt --with tale
    doctor tale --no-copies
    export tale --out hf
    export tale --format gguf --out g
    cache
    train --resume tale --steps 26
    train in.txt --init-from tale --steps 1 --name n
""")
TUNED = lines("""
    info tuned
    sample tuned --max-tokens 3
    train --resume tuned --steps 10
    export tuned --format peft --out p
""")
DELETING = lines("""
    cache clear --yes
    runs rm tale --yes
    train tale.txt --name tale --force --steps 1
""")
TOKENIZING = lines("""
    tokenize in.txt --tokenizer FILE --out t
    tokenize --text abc --with FILE
    tokenize in.txt --stats --with FILE
    import foreign/ckpt.pt --tokenizer FILE
    train in.txt --steps 1 --device cpu --tokenizer FILE
""")
READING_TEXT = lines("""
    tokenize FILE --out t
    tokenize FILE --stats
    tokenize corpora --out t
    tokenize FILE --encoding auto --out t
    tokenize FILE --encoding-errors replace --tokenizer byte --out t
    tokenize FILE --clean dedup --clean html --out t
    tokenize in.txt --val-file FILE --out t
    score FILE --with tale
    sample tale --max-tokens 3 --prompt-file FILE
    sample tale --max-tokens 2 --prompts FILE --out o.jsonl
""")


def extreme_setting(chance: random.Random, data: bytes) -> bytes:
    """Settings, one or two of which have the smallest or the largest values that are allowed, or above."""
    settings = json.loads(data)
    known = [each for name, each in all_settings().items() if name != "train.compile"]  # that takes minutes
    for each in chance.sample(known, chance.choice((1, 1, 2))):
        numbers = (0, 1, 2, 3, 10_000, 2**31 - 1, 2**40, 2**62, 1e-300, 1e-9, 0.5, 0.999999, 1.0, 1e9, 1e300)
        settings[each.name] = chance.choice(each.choices or ((True, False) if each.kind is bool else numbers))
    return m.dumped(settings)


RUN = "home/runs/tale"
STATE = ("checkpoints/*/state.json", "best.json", "last.json", "plan.json")
PARTS = ("*", "checkpoints", "checkpoints/*", "checkpoints/*/*")
JSON = m.any_of(*[m.damaged_json] * 4, m.damaged_bytes)
KINDS = {
    "config": Kind([f"{RUN}/config.json"], JSON, (*LIGHT, *LOADING)),
    "state": Kind(
        [f"{RUN}/{name}" for name in STATE] + ["home/runs/tuned/fine_tuning.json"],
        JSON,
        (*LIGHT, *LOADING, *TUNED),
    ),
    "logs": Kind(
        [f"{RUN}/metrics.jsonl", f"{RUN}/samples.jsonl"],
        m.any_of(*[m.damaged_lines] * 4, m.damaged_bytes),
        (*LIGHT, "doctor tale --no-copies", "train --resume tale --steps 26"),
    ),
    "weights": Kind(
        ["home/runs/*/checkpoints/*/*.safetensors", "home/runs/tuned/base.safetensors"],
        m.any_of(m.damaged_header, m.damaged_header, m.damaged_bytes),
        (*LOADING, *TUNED),
    ),
    "tokenizer": Kind(
        [f"{RUN}/tokenizer.json", "tokenizers/*.json"],
        m.any_of(*[m.damaged_tokenizer] * 3, m.damaged_json, m.damaged_bytes),
        (*TOKENIZING, *LOADING),
    ),
    "tokens": Kind(
        ["home/tokens/*/*"],
        m.any_of(m.damaged_json, m.damaged_bytes),
        ("info home/tokens/HASH", "tokenize tale.txt --tokenizer char", *DELETING, *LIGHT, *LOADING),
    ),
    "corpus": Kind(["corpora/*"], m.damaged_bytes, READING_TEXT),
    "settings": Kind(
        ["settings/*.json"],
        m.any_of(m.damaged_json, extreme_setting, extreme_setting, m.damaged_bytes),
        ("train in.txt --steps 1 --device cpu --config FILE", "train tale.txt --config FILE --steps 1"),
    ),
    "import": Kind(
        ["foreign/*/*.json", "foreign/*/*.safetensors"],
        m.any_of(m.damaged_json, m.damaged_json, m.damaged_bytes),
        ("import FOLDER --name new", "train in.txt --init-from FOLDER --steps 1 --name n"),
    ),
    "pickle": Kind(
        ["foreign/ckpt.pt"],
        m.any_of(m.damaged_archive, m.damaged_archive, m.damaged_bytes),
        ("import foreign/ckpt.pt --tokenizer tokenizers/char.json",),
    ),
    "files": Kind(
        [f"{RUN}/{part}" for part in PARTS]
        + ["home/tokens/*", "home/tokens/*/*", "foreign/llama/*", "corpora/*"],
        m.damaged_bytes,
        (
            *LIGHT,
            *LOADING,
            *DELETING,
            "import foreign/llama",
            "tokenize corpora --out t",
            "info home/tokens/HASH",
        ),
    ),
    "http": Kind(["requests/*.json"], JSON, ("http",)),
}
