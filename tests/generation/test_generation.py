"""Generation: the cache, windows, batches and stop rules change no text; half a character never shows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptscratch.accelerate.decode_step import decoding_step
from gptscratch.config import POSITIONS, ModelConfig, SampleConfig
from gptscratch.errors import ConfigError, RunError
from gptscratch.generation.context import Context
from gptscratch.generation.generate import generate, generate_batch, random_numbers
from gptscratch.generation.generator import Generator, load, sample_text
from gptscratch.interop.hf_export import to_hf
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import Layout, causal_layout
from gptscratch.model.position import Rotate

Reciter = Callable[..., Generator]
PROMPT = [3, 14, 15, 9, 2]


def greedy(max_tokens: int) -> SampleConfig:
    return SampleConfig(max_tokens=max_tokens, temperature=0)


def samples(generator: Generator, *arguments: Any, **options: Any) -> list[str]:
    return [completion.text for completion in generator.sample(*arguments, **options)]


def lively(position: str = "rope", **changes: object) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32}
    model = GPT(ModelConfig(position=position, **shape | changes))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def naive(model: GPT, prompt: list[int], max_tokens: int) -> list[int]:
    """Greedy without a cache: all that counts is read again for each token."""
    context = model.config.context_length
    if model.config.position == "rope":
        ids = prompt[-context:]
        for _ in range(max_tokens):
            ids = [*ids, int(banded(model, ids)[-1].argmax())]
        return ids[-max_tokens:]
    window, new = prompt[-context:], []
    for _ in range(max_tokens):
        if len(window) > context:
            window = window[-max(1, context // 2) :]
        new.append(int(model(torch.tensor([window]))[0, -1].argmax()))
        window = [*window, new[-1]]
    return new


def banded(model: GPT, ids: list[int]) -> torch.Tensor:
    """Logits (T, V) of a text of any length, in each layer of which a token sees one context back."""
    positions = torch.arange(len(ids))
    distance = positions[:, None] - positions
    visible = (distance >= 0) & (distance < model.config.context_length)  # (T, T)
    token_ids = torch.tensor([ids])
    x = model.token_embedding(token_ids)
    rotate = model.position_embedding.rotation(causal_layout(token_ids), x.dtype)
    for block in model.blocks:
        x = block(x, rotate, visible[None, None], None)
    logits: torch.Tensor = model.lm_head(model.final_norm(x))[0]
    return logits


@pytest.mark.parametrize("position", POSITIONS)
def test_greedy_equals_recomputing_everything_also_past_the_context(position: str) -> None:
    model = lively(position)
    for length in (1, 5, 16, 40):
        prompt = [(7 * i + 3) % 31 for i in range(length)]
        assert list(generate(model, prompt, max_tokens=40, temperature=0)) == naive(model, prompt, 40)


def test_a_context_of_one_token_is_enough() -> None:
    model = lively(context_length=1)
    assert list(generate(model, PROMPT, max_tokens=9, temperature=0)) == naive(model, PROMPT, 9)


@pytest.mark.parametrize("penalty", [1.0, 1.8])
@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_greedy_equals_transformers_generate(family: str, penalty: float) -> None:
    transformers = pytest.importorskip("transformers")
    gpt2 = {"norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False, "bias": True, "n_kv_head": 4}
    model = lively("learned", **gpt2) if family == "gpt2" else lively()
    values, state = to_hf(model)
    kind = getattr(transformers, values["architectures"][0])
    twin = kind(kind.config_class(**values)).eval()
    twin.load_state_dict(state | {"lm_head.weight": model.lm_head.weight})
    prompt = torch.tensor([PROMPT])
    wanted = twin.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=11,
        pad_token_id=0,
        repetition_penalty=penalty,
    )
    found = list(generate(model, PROMPT, max_tokens=11, temperature=0, repetition_penalty=penalty))
    assert found == wanted[0, 5:].tolist()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("max_tokens", [8, 50])
def test_prompts_of_different_length_continue_together_as_each_alone(position: str, max_tokens: int) -> None:
    model = lively(position)
    prompts = [[1], PROMPT, [4] * 16, PROMPT, [0] * 7 + [1]]
    for decoder in (None, decoding_step(model)):
        rows = generate_batch(model, prompts, greedy(max_tokens), decoder=decoder)
        together = [list(row) for row in zip(*rows, strict=True)]
        assert together == [naive(model, prompt, max_tokens) for prompt in prompts]


@torch.inference_mode()
@pytest.mark.parametrize("position", POSITIONS)
def test_rows_that_join_and_leave_a_batch_continue_as_each_alone(position: str) -> None:
    model, prompts = lively(position), [PROMPT, [4] * 16, [1], [2] * 30, [6, 5]]
    for decoder in (None, decoding_step(model)):
        context = Context(model, len(prompts), 100, decoder)
        found: list[list[int]] = []
        members: list[list[int]] = []
        for step in range(40):
            if step % 5 == 0 and len(found) < len(prompts):  # a row joins
                context.add([prompts[len(found)]])
                found.append([])
                members.append(found[-1])
            chosen = context.read().argmax(-1)
            for row, token_id in zip(members, chosen.tolist(), strict=True):
                row.append(token_id)
            context.append(chosen, chosen.tolist())
            if step in (12, 33):  # a row leaves
                context.remove(0)
                members[0] = members[-1]
                members.pop()
        assert found == [naive(model, prompt, len(row)) for prompt, row in zip(prompts, found, strict=True)]


def test_a_row_that_has_ended_yields_none_while_the_others_continue() -> None:
    model = lively()
    first, second = naive(model, PROMPT, 8), naive(model, [1], 8)
    end = next(i for i in first if i not in second)
    rows = list(generate_batch(model, [PROMPT, [1]], greedy(8), stop_ids=frozenset((end,))))
    cut = first.index(end)
    assert [row[0] for row in rows] == first[:cut] + [None] * (8 - cut)
    assert [row[1] for row in rows] == second


def test_decoding_ends_with_its_last_row() -> None:
    model = lively()
    text = naive(model, PROMPT, 8)
    assert (
        list(generate(model, PROMPT, max_tokens=8, temperature=0, stop_ids=[text[3]]))
        == text[: text.index(text[3])]
    )


def test_nothing_repeats_where_it_may_not_and_a_row_is_never_left_without_a_token() -> None:
    model = lively()
    found = PROMPT + list(generate(model, PROMPT, max_tokens=60, temperature=0, no_repeat_ngram=2))
    pairs = list(itertools.pairwise(found))
    assert len(set(pairs)) == len(pairs)
    assert len(list(generate(model, PROMPT, max_tokens=60, temperature=0, no_repeat_ngram=1))) == 60


def test_penalties_count_the_new_tokens() -> None:
    model = lively()
    found = list(generate(model, PROMPT, max_tokens=20, temperature=0, presence_penalty=1e4))
    assert len(set(found)) == 20
    found = list(generate(model, PROMPT, max_tokens=62, temperature=0, frequency_penalty=1e4))
    assert sorted(found) == sorted(2 * list(range(31)))


def test_a_banned_token_is_never_chosen() -> None:
    model = lively()
    first = naive(model, PROMPT, 12)[0]
    found = list(generate(model, PROMPT, max_tokens=200, temperature=2.0, seed=0, banned_ids=[first, 5]))
    assert not {first, 5} & set(found)


def test_the_same_seed_gives_the_same_tokens_and_none_gives_fresh_ones() -> None:
    model = lively()
    texts = [
        tuple(generate(model, PROMPT, max_tokens=20, temperature=2.0, seed=s)) for s in (1, 1, 2, None, None)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_a_seed_gives_one_text_alone_in_a_batch_and_as_a_stream(reciter: Reciter) -> None:
    gpt = reciter("abcdefgh", kind="char")
    config = {"max_tokens": 40, "temperature": 2.0, "seed": 5}
    alone = gpt.generate("ab", **config)
    assert "".join(gpt.stream("ab", SampleConfig(**config))) == alone
    assert samples(gpt, "ab", SampleConfig(**config)) == [alone]
    several = samples(gpt, "ab", SampleConfig(num_samples=3, **config))
    assert several[0] == alone
    assert len(set(several)) == 3


def test_a_recited_text_comes_out_as_it_is(reciter: Reciter) -> None:
    assert reciter("hear, my loud dinosaurs!"[:8]).generate("h", max_tokens=7, temperature=0) == "ear, my"


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_half_a_character_never_comes_out(reciter: Reciter, max_tokens: int) -> None:
    text = "a🦊bç漢"  # 1, 4, 1, 2 and 3 bytes
    gpt = reciter(text)
    texts = list(gpt.stream("a", SampleConfig(max_tokens=max_tokens, temperature=0)))
    whole = text.encode()[1 : 1 + max_tokens].decode(errors="ignore") + ("a" if max_tokens == 11 else "")
    assert "".join(texts) == whole
    assert all(texts)
    assert samples(gpt, "a", SampleConfig(max_tokens=max_tokens, temperature=0)) == [whole]


@pytest.mark.parametrize(
    ("stop", "wanted"),
    [
        (("def",), "bc"),
        (("d",), "bc"),
        (("xyz", "efg", "gh"), "bcd"),
        (("hab", "gha"), "bcdef"),
        (("bcd",), ""),
        (("defx", "fgx"), "bcdefghabcdefghabcde"),
        (("deg", "habcdefgha"), "bcdefg"),
    ],
)
def test_a_text_ends_before_the_first_stop_string(
    reciter: Reciter, stop: tuple[str, ...], wanted: str
) -> None:
    gpt = reciter("abcdefgh")
    config = SampleConfig(max_tokens=20, temperature=0, stop=stop)
    texts = list(gpt.stream("a", config))
    assert "".join(texts) == wanted
    assert samples(gpt, "a", config) == [wanted]


def test_what_may_begin_a_stop_string_waits_and_is_shown_if_it_does_not(reciter: Reciter) -> None:
    config = SampleConfig(max_tokens=6, temperature=0, stop=("cdX", "fg?"))
    assert list(reciter("abcdefgh").stream("a", config)) == ["b", "cde", "fg"]


def test_a_stop_string_may_hold_characters_of_several_tokens(reciter: Reciter) -> None:
    assert reciter("a🦊bç漢").generate("a", max_tokens=20, temperature=0, stop=("🦊b",)) == ""
    assert reciter("a🦊bç漢").generate("a", max_tokens=20, temperature=0, stop=("ç漢a",)) == "🦊b"


def test_the_end_of_a_document_ends_the_text(reciter: Reciter) -> None:
    gpt = reciter("abcd", then_end=True)
    assert gpt.generate("a", max_tokens=50, temperature=0) == "bcd"
    assert samples(gpt, "a", SampleConfig(max_tokens=50, temperature=0, num_samples=2)) == ["bcd", "bcd"]


def test_an_empty_prompt_begins_a_document(reciter: Reciter) -> None:
    assert reciter("abcd", then_end=True).generate("", max_tokens=50, temperature=0) == "abcd"


@pytest.mark.parametrize("text", ["abcdefg", "\nabcdef"])
def test_an_empty_prompt_needs_neither_documents_nor_lines(reciter: Reciter, text: str) -> None:
    gpt = reciter(text, kind="char")
    (first,) = gpt.prompt_ids("")
    assert gpt.tokenizer.decode([first]) == text[0]
    assert gpt.generate("", max_tokens=6, temperature=0) == text[1:]


WORDS = "this movie (was) written by one, two"


@pytest.mark.parametrize("prompt", [WORDS[: place.start()] for place in re.finditer(r"\b| ", WORDS)][1:-1])
def test_a_reply_joins_its_prompt_as_inside_one_text(reciter: Reciter, prompt: str) -> None:
    gpt = reciter(WORDS, kind="word")
    rest = WORDS.removeprefix(prompt)
    config = SampleConfig(max_tokens=len(gpt.tokenizer.encode(rest)), temperature=0)
    assert gpt.generate(prompt, **vars(config)) == rest
    for n_best in (None, 0):
        assert next(gpt.complete([prompt, "this"], config, n_best=n_best)).text == rest
        assert "".join(token.text for token in gpt.tokens(prompt, config, n_best=n_best)) == rest


def test_a_reply_to_a_prompt_that_ends_with_an_unknown_word_follows_it(reciter: Reciter) -> None:
    gpt = reciter(WORDS, kind="word")
    assert gpt.generate("this movie xyzzy", max_tokens=2, temperature=0) == " (was"
    assert gpt.generate("written xyzzy", max_tokens=2, temperature=0) == " by one"


def test_a_reply_to_nothing_begins_with_no_space(reciter: Reciter) -> None:
    for gpt in (
        reciter("\nthis movie was", kind="word"),
        reciter("this movie was", kind="word", then_end=True),
    ):
        assert gpt.generate("", max_tokens=3, temperature=0) == "this movie was"


def test_characters_that_the_model_never_saw_are_left_out_of_the_prompt(reciter: Reciter) -> None:
    gpt = reciter("abcdefg", kind="char")
    assert gpt.prompt_ids("☃a☃") == gpt.tokenizer.encode("a")
    assert gpt.generate("☃a☃", max_tokens=3, temperature=0) == "bcd"


def test_the_unknown_token_never_comes_out(reciter: Reciter) -> None:
    gpt = reciter("abcdefg", kind="char")
    with torch.no_grad():
        gpt.model.lm_head.weight[[gpt.tokenizer.unk_id, gpt.tokenizer.eot_id]] = 9.0
    assert gpt.generate("a", max_tokens=3, temperature=0) == "bcd"


def test_a_sample_of_training_is_always_the_same_and_leaves_the_model_in_its_mode(tale: Path) -> None:
    model = load(tale, device="cpu").model.train()
    first, second = (sample_text(model, tale) for _ in range(2))
    assert first == second != ""
    assert model.training


def test_generation_leaves_the_model_in_its_mode_also_when_left_early() -> None:
    model = lively().train()
    tokens = generate(model, PROMPT, max_tokens=5)
    next(tokens)
    assert not model.training
    tokens.close()
    assert model.training


@pytest.mark.parametrize("config", [{"top_k": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 0}])
def test_an_option_out_of_range_is_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        next(generate(lively(), PROMPT, **config))


def test_an_empty_prompt_of_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        next(generate(lively(), []))


@pytest.mark.parametrize("method", ["generate", "stream"])
def test_a_misspelt_option_is_refused_with_the_nearest_name(reciter: Reciter, method: str) -> None:
    with pytest.raises(ConfigError, match=r"no sampling option 'max_token'. Did you mean max_tokens\?"):
        getattr(reciter("abc"), method)("a", max_token=5)
    with pytest.raises(ConfigError, match="Did you mean temperature"):
        next(generate(lively(), PROMPT, temprature=5))


def test_several_samples_are_refused_where_one_text_is_given(reciter: Reciter) -> None:
    gpt = reciter("abcdefgh")
    for call in (gpt.generate, gpt.stream):
        with pytest.raises(ConfigError, match=r"num_samples is 3.*sample\(\)"):
            call("a", num_samples=3)
    with pytest.raises(ConfigError, match="num_samples"):
        next(generate(lively(), PROMPT, num_samples=3))
    assert samples(gpt, "a", num_samples=3, max_tokens=2, temperature=0) == ["bc"] * 3
    with pytest.raises(ConfigError, match=r'load\("my-run"\)'):
        next(generate(lively(), PROMPT, stop="x"))


def test_options_change_a_config_and_a_stop_string_may_be_given_alone(reciter: Reciter) -> None:
    gpt, config = reciter("abcdefgh"), SampleConfig(max_tokens=6, temperature=0)
    assert "".join(gpt.stream("a", config, max_tokens=2)) == "bc"
    assert gpt.generate("a", config, stop="ef") == "bcd"
    assert gpt.generate("a", config, stop=["x", "ef"]) == "bcd"


def test_many_samples_are_decoded_in_groups_that_change_no_text(
    reciter: Reciter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt, config = reciter("abcdefgh"), SampleConfig(max_tokens=9, temperature=3.0, seed=2, num_samples=5)
    at_once = samples(gpt, "a", config)
    for name, limit in (("_BATCH_BYTES", 100_000), ("_BATCH_ROWS", 2)):
        monkeypatch.setattr(f"gptscratch.generation.generator.{name}", limit)
        assert samples(gpt, "a", config) == at_once


def test_logits_that_are_not_numbers_are_refused(reciter: Reciter) -> None:
    gpt = reciter("abc")
    with torch.no_grad():
        gpt.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="not numbers"):
        gpt.generate("a")


@torch.inference_mode()
def test_past_the_context_a_sliding_cache_keeps_no_more_than_before() -> None:
    model = lively()
    context = Context(model, 1, 100, None)
    context.add([PROMPT])
    seen: list[torch.Tensor] = []
    rotation = model.position_embedding.rotation

    def rotated(layout: Layout, dtype: torch.dtype) -> Rotate:
        seen.append(layout.queries)
        return rotation(layout, dtype)

    model.position_embedding.rotation = rotated  # type: ignore[method-assign]
    for _ in range(100):
        context.read()
        context.append(torch.tensor([3]), [3])
    assert [len(row) for row in context.rows] == [len(PROMPT)]
    assert {tuple(positions.shape) for positions in seen[1:]} == {(1, 1)}
    assert [int(positions) for positions in seen[1:3]] == [5, 6]


def testrandom_numbers_made_together_are_those_made_one_by_one() -> None:
    together = random_numbers(7, [0, 3], torch.device("cpu"))
    rows = [np.random.default_rng([7, stream]) for stream in (0, 3)]
    for _ in range(150):
        assert next(together).tolist() == [row.random(dtype=np.float32) for row in rows]
