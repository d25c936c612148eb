"""From logits to tokens: the distributions are Hugging Face's, and the draws follow them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gptscratch.config import SampleConfig
from gptscratch.generation.logits_processors import NoRepeatNgram, TokenPenalties
from gptscratch.generation.sampling import choose, make_sampler

V = 23
GRID = 4096
CONFIGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.05},
    {"top_p": 0.6},
    {"top_p": 1.0},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 0.7},
    {"temperature": 0.7, "top_k": 9, "top_p": 0.8},
    {"temperature": 1.4, "top_p": 0.7, "min_p": 0.15},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.3},
]


def frequencies(logits: Tensor, seen: Tensor, **config: Any) -> Tensor:
    """The distribution that a sampler draws from, read off an even grid of its random numbers: (V,)."""
    grid = (torch.arange(GRID) + 0.5) / GRID
    rows = logits.expand(GRID, V)
    config = SampleConfig(**{"temperature": 1.0, **config})
    penalties = TokenPenalties(config, [seen.nonzero()[:, 0].tolist()] * GRID, torch.empty(V, 1))
    token_ids = make_sampler(config)(penalties(rows), grid)
    return torch.bincount(token_ids, minlength=V) / GRID


def theirs(logits: Tensor, token_ids: Tensor, **config: Any) -> Tensor:
    transformers = pytest.importorskip("transformers")
    makers = {
        "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    scores = logits[None]
    for name, maker in makers.items():  # in the order of transformers' generate
        if name in config:
            scores = maker(config[name])(token_ids[None], scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_draws_have_the_distribution_of_transformers(config: dict[str, Any]) -> None:
    chance = torch.Generator().manual_seed(0)
    for _ in range(4):
        logits = 3 * torch.randn(V, generator=chance)
        token_ids = torch.randint(V, (6,), generator=chance)
        seen = torch.zeros(V, dtype=torch.bool).index_fill_(0, token_ids, True)
        difference = frequencies(logits, seen, **config) - theirs(logits, token_ids, **config)
        assert difference.abs().max() <= 1.01 / GRID


def test_temperature_zero_takes_the_most_likely_whatever_the_random_number() -> None:
    logits = torch.randn(50, V)
    token_ids = make_sampler(SampleConfig(temperature=0.0))(logits, torch.rand(50))
    assert torch.equal(token_ids, logits.argmax(-1))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-40}, {"temperature": 1e-6}, {"top_p": 1e-46}, {"top_p": 1e-40}, {"min_p": 1e-46},
        {"temperature": 1e-6, "repetition_penalty": 0.001}, {"temperature": 1e6, "repetition_penalty": 1000},
        {"temperature": 1e-6, "presence_penalty": 1e6}, {"temperature": 1e6, "frequency_penalty": -1e6},
    ],
)  # fmt: skip
def test_extreme_values_sample_tokens_that_are_possible(options: dict[str, float]) -> None:
    logits = 100 * torch.randn(1, V)
    logits[:, :3] = -torch.inf
    config = SampleConfig(**options)
    penalties = TokenPenalties(config, [[5]], torch.empty(V, 1))
    penalties.append(torch.tensor([6]))
    for uniform in (0.0, 0.5, 1 - 2**-24):
        token_id = make_sampler(config)(penalties(logits), torch.tensor([uniform])).item()
        assert token_id >= 3
        if options.keys() == {"temperature"} or "top_p" in options:
            assert token_id == logits.argmax()


def test_greedy_heeds_the_repetition_penalty() -> None:
    logits = torch.tensor([[2.0, 1.9, -5.0]])
    config = SampleConfig(temperature=0.0, repetition_penalty=1.2)
    penalized = TokenPenalties(config, [[0]], torch.empty(3, 1))(logits)
    assert make_sampler(config)(penalized, torch.zeros(1)).item() == 1


def test_a_row_gets_the_same_token_in_a_batch_of_any_size() -> None:
    logits, uniform = 4 * torch.randn(16, 500), torch.rand(16)
    sampler = make_sampler(SampleConfig(temperature=0.9, top_k=100, top_p=0.95, min_p=0.01))
    together = sampler(logits, uniform)
    alone = [sampler(logits[i : i + 1], uniform[i : i + 1]) for i in range(16)]
    assert torch.equal(together, torch.cat(alone))


def test_a_token_without_probability_is_never_choose() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]).expand(4, 5)
    uniform = torch.tensor([0.0, 0.25 - 1e-7, 0.25, 1 - 2**-24])
    assert choose(probabilities, uniform).tolist() == [1, 1, 3, 3]


def test_half_precision_logits_are_filtered_in_full_precision() -> None:
    logits = torch.randn(8, V).bfloat16()
    uniform = torch.rand(8)
    sampler = make_sampler(SampleConfig(top_p=0.8))
    assert torch.equal(sampler(logits, uniform), sampler(logits.float(), uniform))


def test_frequency_and_presence_penalties_follow_their_definition() -> None:
    logits = torch.randn(4, V)
    config = SampleConfig(frequency_penalty=0.7, presence_penalty=0.4)
    penalties = TokenPenalties(config, [[5]] * 4, torch.empty(V, 1))  # of new tokens only
    counts = torch.zeros(4, V)
    for token_ids in torch.randint(4, (9, 4)):
        penalties.append(token_ids)
        counts += torch.nn.functional.one_hot(token_ids, V)
    torch.testing.assert_close(penalties(logits), logits - 0.7 * counts - 0.4 * (counts > 0))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_what_may_not_repeat_is_what_transformers_forbids(n: int) -> None:
    transformers = pytest.importorskip("transformers")
    theirs_ = transformers.NoRepeatNGramLogitsProcessor(n)
    chance = torch.Generator().manual_seed(0)
    for length in (1, 2, 7, 40):
        token_ids = torch.randint(4, (1, length), generator=chance)
        wanted = theirs_(token_ids, torch.zeros(1, V))[0].isinf().nonzero()[:, 0].tolist()
        found = NoRepeatNgram(n, token_ids.tolist())(torch.zeros(1, V))
        assert found[0].isinf().nonzero()[:, 0].tolist() == wanted
