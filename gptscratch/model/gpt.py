"""A decoder-only GPT: tokens in, logits out. Read this file first.

Embedding, blocks, final norm, lm_head, and how they are initialized. The loss, the optimizer, devices and
faster kernels are in other packages; positions and visibility are a ``Layout``; the cache is an argument.

Shapes: B batch, T positions, S positions with those in the cache, D d_model, V vocab.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from gptscratch.config import ModelConfig, require_cutoffs
from gptscratch.model.attention import Attention
from gptscratch.model.cache import KVCache, LayerCache
from gptscratch.model.head import build_head
from gptscratch.model.layout import Layout, causal_layout
from gptscratch.model.mlp import build_mlp
from gptscratch.model.position import Rotate, build_position


class GPT(nn.Module):
    """The model that a config describes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        require_cutoffs(config.adaptive_cutoffs, config.vocab_size)
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = build_position(config, embedding_std(config))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.final_norm = build_norm(config)
        self.lm_head = build_head(config)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embedding.weight
        init_weights(self)

    def forward(
        self, token_ids: Tensor, *, layout: Layout | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Logits of the next token at each position: (B, T) integers -> (B, T, V). See ``hidden``."""
        logits: Tensor = self.lm_head(self.hidden(token_ids, layout=layout, cache=cache))  # (B, T, V)
        return logits

    def hidden(
        self, token_ids: Tensor, *, layout: Layout | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """The input of lm_head: (B, T) integers -> (B, T, D), after the final norm.

        Args:
            layout: positions and visibility where rows hold padding or several documents; None: each token
                attends to all tokens before it.
            cache: continues where it ends, and stores the keys and values of these tokens.

        Raises:
            ValueError: more tokens than the cache or the learned positions have room for.
        """
        layout = layout or causal_layout(token_ids, cache)
        past = [None] * len(self.blocks) if cache is None else cache.layers(token_ids.size(1))
        x = self.dropout(self.position_embedding.embed(self.token_embedding(token_ids), layout))  # (B, T, D)
        rotate = self.position_embedding.rotation(layout, x.dtype)
        bias = self.position_embedding.bias(layout, x.dtype)  # (B or 1, H or 1, T, S)
        for block, layer in zip(self.blocks, past, strict=True):
            x = block(x, rotate, bias, layer)  # (B, T, D)
        if cache is not None:
            cache.advance(token_ids.size(1))
        hidden: Tensor = self.final_norm(x)
        return hidden


class Block(nn.Module):
    """One layer: the outputs of attention and of the MLP are added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = build_norm(config)
        self.attention = Attention(
            config.d_model,
            config.n_head,
            n_kv_head=config.n_kv_head,
            head_dim=config.head_dim,
            bias=config.bias,
            dropout=config.dropout,
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.norm_mlp = build_norm(config)
        self.mlp = build_mlp(
            config.activation, config.d_model, config.d_ff, bias=config.bias, dropout=config.dropout
        )

    def forward(self, x: Tensor, rotate: Rotate, bias: Tensor | None, past: LayerCache | None) -> Tensor:
        x = x + self.attention(self.norm_attention(x), rotate, bias, past)
        x = x + self.mlp(self.norm_mlp(x))
        return x  # noqa: RET504 - two lines of mathematics


def build_norm(config: ModelConfig) -> nn.Module:
    """RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) or LayerNorm (Ba et al. 2016, arXiv:1607.06450)."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.d_model, eps=config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)


def init_weights(model: GPT) -> None:
    """Set every parameter, from torch's global generator: the scheme of GPT-2.

    Normal numbers with a standard deviation of 0.02; the outputs of residual branches, of which 2 n_layer are
    summed, start smaller by the root of that (Radford et al. 2019, section 2.3). Norms start as the
    identity. Embeddings that no lm_head shares start larger: see ``embedding_std``.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 1:
            nn.init.ones_(parameter)
        elif "embedding" in name:
            nn.init.normal_(parameter, std=embedding_std(model.config))
        else:
            ends_branch = name.endswith(("attention.out.weight", "mlp.down.weight"))
            branches = 2 * model.config.n_layer if ends_branch else 1
            nn.init.normal_(parameter, std=0.02 / math.sqrt(branches))


def embedding_std(config: ModelConfig) -> float:
    """Standard deviation of token and position embeddings at the start.

    Logits through a shared matrix must start small. Otherwise the residual stream does better if it starts as
    large as what the blocks will add to it: docs/decisions/planner.md has the comparison.
    """
    return 0.02 if config.tie_embeddings else 0.5
