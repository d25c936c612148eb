"""The KV cache: remembering changes no logit."""

import pytest
import torch

from gptscratch.config import POSITIONS, ModelConfig
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import causal_layout

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def lively(position="rope"):
    config = ModelConfig(
        vocab_size=31, context_length=16, n_layer=2, n_head=4, n_kv_head=2, d_model=32, position=position
    )
    model = GPT(config)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch, length):
    return torch.randint(31, (batch, length))


def in_parts(model, token_ids, cache, lengths):
    return torch.cat([model(part, cache=cache) for part in token_ids.split(lengths, dim=1)], dim=1)


@pytest.mark.parametrize("position", POSITIONS)
def test_cached_logits_equal_uncached(position):
    model, token_ids = lively(position), tokens(2, 16)
    whole = model(token_ids)
    for lengths in ([16], [1] * 16, [5, 1, 1, 1, 4, 3, 1]):
        cache = KVCache(model.config, 2)
        torch.testing.assert_close(in_parts(model, token_ids, cache, lengths), whole, **CLOSE)
        assert cache.length == 16


@pytest.mark.parametrize("position", POSITIONS)
def test_rows_of_different_length_continue_as_if_alone(position):
    model, texts = lively(position), [tokens(1, 13), tokens(1, 16), tokens(1, 10)]
    cache = KVCache(model.config, 3)
    for row, (text, length) in enumerate(zip(texts, (3, 6, 0), strict=True)):
        alone = KVCache(model.config, 1)
        if length:
            model(text[:, :length], cache=alone)
        cache.copy_row(row, alone, 0)
    steps = [torch.cat([text[:, t - 10, None] for text in texts]) for t in range(10)]
    found = torch.cat([model(step, cache=cache) for step in steps], dim=1)
    assert cache.lengths == [13, 16, 10]
    for text, logits in zip(texts, found, strict=True):
        torch.testing.assert_close(logits, model(text)[0, -10:], **CLOSE)


def test_rows_of_different_length_take_one_token_at_a_time():
    model, cache = lively(), KVCache(lively().config, 2)
    cache.lengths = [3, 4]
    with pytest.raises(ValueError, match="one token at a time"):
        model(tokens(2, 2), cache=cache)


def test_the_last_row_takes_the_place_of_one_that_is_removed():
    model, token_ids = lively(), tokens(3, 9)
    cache = KVCache(model.config, 3)
    model(token_ids[:, :5], cache=cache)
    cache.remove_row(0)
    found = in_parts(model, token_ids[[2, 1], 5:], cache, [3, 1])
    torch.testing.assert_close(found, model(token_ids)[[2, 1], 5:], **CLOSE)
    cache.resize(3)
    assert cache.lengths == [9, 9, 0]


def test_more_tokens_than_the_cache_has_room_for_are_refused_whole():
    model, cache = lively(), KVCache(lively().config, 1, max_length=5)
    model(tokens(1, 4), cache=cache)
    with pytest.raises(ValueError, match="2 tokens after 4 exceed the cache's max_length of 5"):
        model(tokens(1, 2), cache=cache)
    assert cache.length == 4
    model(tokens(1, 1), cache=cache)


def test_a_cache_may_be_longer_than_the_context_unless_positions_are_learned():
    model, token_ids = lively(), tokens(1, 30)
    found = in_parts(model, token_ids, KVCache(model.config, 1, max_length=30), [20, 10])
    torch.testing.assert_close(found, model(token_ids), **CLOSE)
    with pytest.raises(ValueError, match="16 learned positions"):
        KVCache(lively("learned").config, 1, max_length=17)


def test_a_full_cache_slides_by_one_token_at_a_time():
    model, token_ids = lively(), tokens(2, 40)
    cache = KVCache(model.config, 2, sliding=True)
    found = in_parts(model, token_ids, cache, [16, *[1] * 24])
    assert cache.length == 40
    distance = torch.arange(40)[:, None] - torch.arange(40)
    visible = ((distance >= 0) & (distance < 16))[None, None]
    x = model.token_embedding(token_ids)
    rotate = model.position_embedding.rotation(causal_layout(token_ids), torch.float32)
    for block in model.blocks:
        x = block(x, rotate, visible, None)
    torch.testing.assert_close(found, model.lm_head(model.final_norm(x)), **CLOSE)
    with pytest.raises(ValueError, match="2 tokens after 40"):
        model(tokens(2, 2), cache=cache)


@pytest.mark.parametrize("position", [name for name in POSITIONS if name != "rope"])
def test_only_rotary_positions_slide(position):
    with pytest.raises(ValueError, match="rotary positions only"):
        KVCache(lively(position).config, 1, sliding=True)


def test_an_interrupted_forward_leaves_the_cache_as_it_was():
    model, token_ids = lively(), tokens(1, 9)
    cache = KVCache(model.config, 1)
    model(token_ids[:, :5], cache=cache)

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = model.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(tokens(1, 3), cache=cache)
    hook.remove()
    torch.testing.assert_close(model(token_ids[:, 5:], cache=cache), model(token_ids)[:, 5:], **CLOSE)


def test_decoding_makes_no_memory_of_the_caches_size():
    model = lively()
    cache = KVCache(model.config, 1)
    before = [tensor.data_ptr() for layer in cache.layers(0) for tensor in layer[:2]]
    in_parts(model, tokens(1, 16), cache, [4, *[1] * 12])
    layer = cache.layers(0)[0]
    k, v = (torch.zeros(1, 2, 0, 8) for _ in range(2))
    assert layer.append(k, v)[0].data_ptr() == before[0]
    assert [tensor.data_ptr() for layer in cache.layers(0) for tensor in layer[:2]] == before
