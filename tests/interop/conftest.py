"""Texts and tokenizers for exports; models as other programs publish them, for imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

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


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Any]:
    """A tiny random model of one of transformers' classes, and its folder as save_pretrained writes it."""
    transformers = pytest.importorskip("transformers")

    def make(kind: str, *, dtype: torch.dtype = torch.float32, shards: str = "1GB", **changes: Any) -> Any:
        torch.manual_seed(0)
        tokenizer = made("byte")
        sizes: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eot_id}
        sizes |= {"bos_token_id": tokenizer.eot_id}
        if kind == "GPT2":
            sizes |= {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
        else:
            sizes |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
            sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
        config = getattr(transformers, f"{kind}Config")(**sizes | changes)
        head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
        model = getattr(transformers, f"{kind}{head}")(config).to(dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path / kind.lower()
        model.save_pretrained(folder, max_shard_size=shards)
        tokenizer.save(folder / "tokenizer.json")
        return model, folder

    return make
