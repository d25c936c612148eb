"""Texts and tokenizers for exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gptscratch.tokenizer import Tokenizer, build_tokenizer

TEXT = "Once upon a time, the fox said: “Café”! 你好 世界 👩‍🚀 it's 3.14\n\nA dog didn't.\n" * 9
ODD_TEXTS = (
    "", " ", "\n", "\n\n \t x ", "Once upon a time", "It's we'll THEY'RE  1234567 3.14",
    "naïve café — “quotes” e\u0301 \u200b", "👩‍👩‍👧‍👦 🇩🇪 🏽", "你好，世界！日本語テキスト 한국어",
    "\ufffd\ufffd \x00 \x7f \x85", b"\xc3(\xf0\x9f\x92".decode(errors="replace"), "x" * 300, "a\r\nb  ",
    "مرحبا שלום", "a<|endoftext|>b <|endoftext|>", "<|endoftext|>", "<unk> [UNK] <s></s> <pad> <unused1>",
)  # fmt: skip

GPT2 = {"position": "learned", "norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False,
        "bias": True, "tie_embeddings": True, "norm_eps": 1e-5}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"dropout": 0.1},
    "qwen3, grouped and tied": {"n_kv_head": 2, "tie_embeddings": True, "head_dim": 12, "rope_theta": 5e5},
    "llama, rescaled": {"qk_norm": False, "n_kv_head": 1, "rope_scaling": (8.0, 1.0, 4.0, 64.0)},
    "llama, with biases": {"qk_norm": False, "bias": True},
    "gpt2": GPT2 | {"dropout": 0.1},
    "gpt2, untied and without biases": GPT2 | {"tie_embeddings": False, "bias": False, "d_ff": 40},
}


@pytest.fixture(params=["char", "byte", "bpe", "word"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return made(request.param)


@pytest.fixture
def byte_run(random_run: Callable[..., Any]) -> Callable[..., Any]:
    """A run with random weights and a byte tokenizer, of one of ``SHAPES``."""
    return lambda shape: random_run(made("byte"), context_length=256, **SHAPES[shape])


def made(kind: str) -> Tokenizer:
    size = 333 if kind == "bpe" else None
    library = build_tokenizer(kind, [TEXT], alphabet="".join(sorted(set(TEXT))), vocab_size=size)
    return Tokenizer(library)
