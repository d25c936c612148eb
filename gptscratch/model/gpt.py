"""A decoder-only GPT: tokens in, logits out. Read this file first.

Here is the shape of the whole: embedding, blocks, final norm, lm_head, and how they are
initialised. The loss, the optimizer and devices live elsewhere; the KV cache is an argument.

Shapes: B batch, T positions, S positions with those in the cache, D d_model, V vocab, H heads.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from gptscratch.config import ModelConfig
from gptscratch.model.attention import Attention, attention, attention_bias
from gptscratch.model.cache import KVCache, LayerCache
from gptscratch.model.documents import document_positions
from gptscratch.model.dropout import Dropout
from gptscratch.model.head import build_head
from gptscratch.model.mlp import build_mlp
from gptscratch.model.norm import NORMS, RMSNorm
from gptscratch.model.position import ADDED, Alibi, Rotary, Rotate


class GPT(nn.Module):
    """The model that a config describes; ``model.config`` has every size filled in.

    With ``reference`` it computes by the written-out equations instead of torch's fused kernels:
    slower, the same numbers, the same parameters.
    """

    def __init__(self, config: ModelConfig, *, reference: bool = False) -> None:
        super().__init__()
        config = config.resolved()
        self.config = config
        added, position = ADDED.get(config.position), config.position
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        deviation = embedding_deviation(config)
        self.position_embedding = added(config.context_length, config.d_model, deviation) if added else None
        self.rotary = (
            Rotary(config.head_dim, config.rope_theta, reference=reference) if position == "rope" else None
        )
        self.alibi = Alibi(config.n_head) if position == "alibi" else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, reference=reference) for _ in range(config.n_layer))
        self.final_norm = NORMS[config.norm](
            config.d_model, config.norm_eps, bias=config.bias, reference=reference
        )
        self.lm_head = build_head(
            config.d_model, config.vocab_size, config.adaptive_cutoffs, bias=config.output_bias
        )
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embedding.weight
        initialise(self)

    def forward(
        self, token_ids: Tensor, *, mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Logits of the next token at each position: (B, T) integers -> (B, T, V). See ``hidden``."""
        logits: Tensor = self.lm_head(self.hidden(token_ids, mask=mask, cache=cache))  # (B, T, V)
        return logits

    def hidden(
        self,
        token_ids: Tensor,
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """What lm_head reads: (B, T) integers -> (B, T, D), after the final norm.

        ``mask`` (B, T) is True at real tokens; pads, left or right, change nothing at the real
        ones and are not counted as positions. With ``cache`` the tokens go on where it ends, and
        it takes them in. ``documents`` (B, T) numbers the documents packed into each row: none sees
        another, and positions begin anew in each.

        Raises:
            ValueError: more tokens than the cache or the learned positions have room for, or
                ``documents`` together with one of the others.
        """
        if documents is not None and (mask is not None or cache is not None):
            raise ValueError("documents are for whole rows: they go with neither a mask nor a cache.")
        n_new = token_ids.size(1)
        layers = [None] * len(self.blocks) if cache is None else cache.layers(n_new)
        n_past = 0 if cache is None else cache.length
        real = mask if cache is None else cache.remember(mask, n_new)  # (B, S)
        alone = n_new == 1 and real is None and documents is None and self.alibi is None
        first = n_past if alone else 0  # one new token sees all there is: only its own position matters
        positions = _positions(real, documents, first, n_past + n_new, token_ids.device)  # (B or 1, S)
        new_positions = positions[:, -n_new:]  # (B or 1, T)

        x = self.token_embedding(token_ids)  # (B, T, D)
        if self.position_embedding is not None:
            x = x + self.position_embedding(new_positions).to(x.dtype)
        x = self.dropout(x)
        rotary = None if self.rotary is None else self.rotary(new_positions, x.dtype)
        bias = attention_bias(
            positions, n_new, real=real, documents=documents, alibi=self.alibi, dtype=x.dtype
        )
        for block, layer in zip(self.blocks, layers, strict=True):
            x = block(x, rotary, bias, layer)  # (B, T, D)
        if cache is not None:
            cache.advance(n_new)
        hidden: Tensor = self.final_norm(x)
        return hidden


class Block(nn.Module):
    """One layer: what attention and then the MLP have to say is added to the residual stream."""

    def __init__(self, config: ModelConfig, *, reference: bool) -> None:
        super().__init__()
        norm = partial(
            NORMS[config.norm], config.d_model, config.norm_eps, bias=config.bias, reference=reference
        )
        head_norm = partial(RMSNorm, config.head_dim, config.norm_eps, reference=reference)
        self.norm_attention = norm()
        self.attention = Attention(
            config.d_model,
            config.n_head,
            n_kv_head=config.n_kv_head,
            head_dim=config.head_dim,
            bias=config.bias,
            dropout=config.dropout,
            norm_q=head_norm() if config.qk_norm else nn.Identity(),
            norm_k=head_norm() if config.qk_norm else nn.Identity(),
            reference=reference,
        )
        self.norm_mlp = norm()
        self.mlp = build_mlp(
            config.activation,
            config.d_model,
            config.d_ff,
            bias=config.bias,
            dropout=config.dropout,
            reference=reference,
        )

    def forward(
        self, x: Tensor, rotary: Rotate | None, bias: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        x = x + self.attention(self.norm_attention(x), rotary, bias, cache)
        x = x + self.mlp(self.norm_mlp(x))
        return x  # noqa: RET504 - two lines of mathematics


def initialise(model: GPT) -> None:
    """Set every parameter afresh, from torch's global generator: the scheme of GPT-2.

    Normal numbers of deviation 0.02; the outputs of residual branches, of which 2 n_layer are
    summed, start smaller by the root of that (Radford et al. 2019, section 2.3). Norms start as
    the identity. Embeddings that no lm_head shares start larger: see ``embedding_deviation``.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 1:
            nn.init.ones_(parameter)
        elif "embedding" in name:
            nn.init.normal_(parameter, std=embedding_deviation(model.config))
        else:
            ends_branch = name.endswith(("attention.out.weight", "mlp.down.weight"))
            branches = 2 * model.config.n_layer if ends_branch else 1
            nn.init.normal_(parameter, std=0.02 / math.sqrt(branches))


def embedding_deviation(config: ModelConfig) -> float:
    """Of token and position embeddings at the start.

    Logits through a shared matrix must start small. Else the residual stream does better to start as
    large as what the blocks will add to it: docs/decisions/planner.md has the comparison.
    """
    return 0.02 if config.tie_embeddings else 0.5


@torch.no_grad()
def attention_weights(model: GPT, token_ids: Tensor, *, mask: Tensor | None = None) -> list[Tensor]:
    """How much each token attends to each other, per layer: (B, T) integers -> n_layer of (B, H, T, T).

    Computed by a reference twin that shares the model's parameters, without dropout.
    """
    with torch.device("meta"):
        twin = GPT(model.config, reference=True)
    twin.load_state_dict(model.state_dict(), assign=True)
    seen: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        out, weights = attention(q, k, v, bias, dropout)
        seen.append(weights)
        return out

    for part in twin.modules():
        if isinstance(part, Attention):
            part.attend = attend
    twin.eval().hidden(token_ids, mask=mask)
    return seen


def _positions(
    real: Tensor | None, documents: Tensor | None, first: int, end: int, device: torch.device
) -> Tensor:
    """Each position's number among the real tokens of its row, or of its document: (B or 1, S)."""
    if documents is not None:
        return document_positions(documents)  # (B, S)
    if real is None:
        return torch.arange(first, end, device=device)[None]  # (1, S)
    return (real.cumsum(dim=1) - 1).clamp(min=0)  # (B, S)
