"""The lm_head in its two shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gptscratch.config import ModelConfig
from gptscratch.errors import ConfigError
from gptscratch.interop.hf_export import config_to_hf
from gptscratch.model.gpt import GPT
from gptscratch.model.head import AdaptiveHead, build_head, unigram_bias


def adaptive(**changes: object) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "d_model": 32, "n_layer": 1, "n_head": 2, "context_length": 16}
    return GPT(ModelConfig(**{**shape, "adaptive_cutoffs": (10, 25), **changes}))  # type: ignore[arg-type]


def head_of(cutoffs: tuple[int, ...]) -> nn.Module:
    return build_head(ModelConfig(vocab_size=60, d_model=32, adaptive_cutoffs=cutoffs, output_bias=True))


def test_logits_of_an_adaptive_head_are_log_probabilities_over_the_whole_vocabulary() -> None:
    logits = adaptive()(torch.randint(60, (3, 7)))
    assert logits.shape == (3, 7, 60)
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(3, 7))


def test_an_adaptive_head_says_what_torchs_own_says() -> None:
    head = head_of((10, 25))
    reference = nn.AdaptiveLogSoftmaxWithLoss(32, 60, [10, 25], div_value=4.0, head_bias=True)
    reference.load_state_dict(head.state_dict())
    hidden = torch.randn(5, 32)
    torch.testing.assert_close(head(hidden), reference.log_prob(hidden))


@pytest.mark.parametrize("cutoffs", [(), (10, 25)])
def test_the_first_guess_is_each_tokens_share(cutoffs: tuple[int, ...]) -> None:
    counts = torch.arange(60, 0, -1)
    head = head_of(cutoffs)
    head.load_state_dict(unigram_bias(head, counts), strict=False)
    probabilities = head(torch.zeros(1, 32)).softmax(-1)[0]
    shares = counts / counts.sum()
    known = cutoffs[0] if cutoffs else 60
    torch.testing.assert_close(probabilities[:known], shares[:known])
    torch.testing.assert_close(probabilities[known:].sum(), shares[known:].sum())


def test_a_token_that_never_occurs_still_has_a_finite_logit() -> None:
    head = head_of(())
    counts = torch.zeros(60).index_fill(0, torch.tensor([3]), 9.0)
    head.load_state_dict(unigram_bias(head, counts), strict=False)
    assert isinstance(head.bias, torch.Tensor)
    assert head.bias.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adaptive_cutoffs": (20, 20)}, "must increase"),
        ({"adaptive_cutoffs": (0, 20)}, "must be at least 1"),
        ({"adaptive_cutoffs": (10, 60)}, "ends at 60"),
        ({"adaptive_cutoffs": (1, 2, 3)}, "too many for d_model"),
        ({"tie_embeddings": True}, "cannot be combined"),
        ({"adaptive_cutoffs": (), "output_bias": True, "tie_embeddings": True}, "cannot be combined"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        adaptive(**changes)


def test_other_programs_models_have_no_such_head() -> None:
    with pytest.raises(ConfigError, match="adaptive_cutoffs"):
        config_to_hf(adaptive().config)


def test_it_is_an_adaptive_head_only_where_cutoffs_are_given() -> None:
    assert isinstance(adaptive().lm_head, AdaptiveHead)
    assert isinstance(adaptive(adaptive_cutoffs=()).lm_head, nn.Linear)
