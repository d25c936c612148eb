"""How fast text is sampled: gptscratch, transformers, and llama.cpp and CTranslate2 where installed.

    python tests/benchmarks/sample_speed.py [--shape gpt2|small] [--rows 1] [--rounds 3] [--threads 2]

The same shape, random weights, greedy, a prompt of 32 tokens. The contestants take turns; medians are shown,
and what share of the machine's measured bandwidth the weights were read at. ``--only`` takes some of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gptscratch.config import ModelConfig
from gptscratch.decoder import Decoder
from gptscratch.generation import decode
from gptscratch.interop.hf import to_hf
from gptscratch.model.gpt import GPT
from gptscratch.presets import PRESETS
from gptscratch.quantize import quantize
from gptscratch.sampling import make_sampler

Run = Callable[[int], None]  # generate so many tokens of each row
SMALL = ModelConfig(vocab_size=67, context_length=64)
PROMPT = [(7 * i + 3) % 61 for i in range(32)]
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.625}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=("gpt2", "small"), default="gpt2")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=0, help="new ones; 0: 128, or 32 of a small model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="a part of a contestant's name")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    config = PRESETS["gpt2"] if asked.shape == "gpt2" else SMALL
    count = asked.tokens or (128 if asked.shape == "gpt2" else 32)
    torch.manual_seed(0)
    runs = {
        name: run
        for name, run in contestants(config, asked.rows, asked.threads)
        if not asked.only or any(part in name for part in asked.only)
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(asked.rounds + 1):
        for name, run in runs.items():
            rate = asked.rows * count / seconds(run, 4 if round_ == 0 else count) if round_ else 0.0
            if round_ == 0:
                run(4)  # warm
            else:
                rates[name].append(rate)
    limit = bandwidth(asked.threads)
    matrices = sum(
        p.numel() for n, p in GPT(config).named_parameters() if "embedding" not in n and p.dim() > 1
    )
    matrices += config.vocab_size * config.d_model if config.tie_embeddings else 0
    print(f"{asked.shape}, {asked.rows} rows, {asked.threads} threads, {limit / 1e9:.1f} GB/s, "
          f"median of {asked.rounds}\n")  # fmt: skip
    print(f"| {'':28} | {'tokens/s':>9} | {'us/token':>9} | {'of bandwidth':>12} |")
    print(f"|{'-' * 30}|{'-' * 10}:|{'-' * 10}:|{'-' * 13}:|")
    for name, found in rates.items():
        rate = statistics.median(found)
        read = rate / asked.rows * matrices * next(b for kind, b in BYTES.items() if kind in name)
        print(f"| {name:28} | {rate:9.1f} | {1e6 / rate:9.0f} | {read / limit:12.0%} |")


def seconds(run: Run, count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def bandwidth(threads: int) -> float:
    """Bytes a second of the best of several sums over memory that no cache holds."""
    numbers = torch.ones(threads, 1 << 25)
    return max(numbers.numel() * 4 / seconds(lambda _: numbers.sum().item() and None, 0) for _ in range(5))


def contestants(config: ModelConfig, rows: int, threads: int) -> Iterator[tuple[str, Run]]:
    for kind in ("plain float32", "float32", "bfloat16", "float16", "int8", "int4"):
        yield f"gptscratch {kind}", ours(GPT(config).eval(), kind, rows)
    if importlib.util.find_spec("transformers"):
        for kind in ("float32", "bfloat16"):
            yield f"transformers {kind}", theirs(GPT(config), kind, rows)
    with tempfile.TemporaryDirectory() as folder:
        if rows == 1 and all(map(importlib.util.find_spec, ("llama_cpp", "gptscratch.interop.gguf"))):
            yield from llama(GPT(config), Path(folder), threads)
        if importlib.util.find_spec("ctranslate2"):
            yield from ctranslate(GPT(config), Path(folder), rows, threads)


def ours(model: GPT, kind: str, rows: int) -> Run:
    if kind == "bfloat16":
        model.bfloat16()
    elif kind in ("float16", "int8", "int4"):
        quantize(model, kind)
    decoder = None if kind.startswith("plain") else Decoder(model)
    sampler = make_sampler(temperature=0.0)

    def run(count: int) -> None:
        # Without a decoder one would be made: fifteen tokens at a time are below that.
        for _ in decode(model, [PROMPT] * rows, sampler, max_tokens=count, decoder=decoder or _Never(model)):
            pass

    return run


class _Never(Decoder):
    """The model's own forward, where a decoder is asked for."""

    def __init__(self, model: GPT) -> None:
        self.model = model

    def step(self, token_ids, cache):  # type: ignore[no-untyped-def]
        return self.model(token_ids[:, None], cache=cache)[:, -1]


def theirs(model: GPT, kind: str, rows: int) -> Run:
    import transformers

    values, state = to_hf(model)
    maker = getattr(transformers, values["architectures"][0])
    twin = maker(maker.config_class(**values)).eval()
    twin.load_state_dict(state | {"lm_head.weight": model.lm_head.weight.detach()})
    twin = twin.to(getattr(torch, kind))
    prompt = torch.tensor([PROMPT] * rows)

    def run(count: int) -> None:
        with torch.inference_mode():
            twin.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0,
                          max_new_tokens=count, min_new_tokens=count)  # fmt: skip

    return run


def llama(model: GPT, folder: Path, threads: int) -> Iterator[tuple[str, Run]]:
    import llama_cpp

    from gptscratch.interop import gguf

    for kind, name in (("float32", "f32"), ("float16", "f16"), ("int8", "q8_0")):
        gguf.export(model, folder / f"{name}.gguf", kind=name)
        engine = llama_cpp.Llama(str(folder / f"{name}.gguf"), n_threads=threads, n_ctx=256, verbose=False)

        def run(count: int, engine: llama_cpp.Llama = engine) -> None:
            for number, _ in enumerate(engine.generate(PROMPT, temp=0.0)):
                if number == count:
                    return

        yield f"llama.cpp {kind}", run


def ctranslate(model: GPT, folder: Path, rows: int, threads: int) -> Iterator[tuple[str, Run]]:
    import ctranslate2

    values, state = to_hf(model)
    import transformers

    maker = getattr(transformers, values["architectures"][0])
    twin = maker(maker.config_class(**values))
    twin.load_state_dict(state | {"lm_head.weight": model.lm_head.weight.detach()})
    twin.save_pretrained(folder / "hf")
    for kind in ("float32", "int8"):
        ctranslate2.converters.TransformersConverter(str(folder / "hf")).convert(
            str(folder / kind), quantization=kind
        )
        engine = ctranslate2.Generator(str(folder / kind), device="cpu", intra_threads=threads)

        def run(count: int, engine: ctranslate2.Generator = engine) -> None:
            start = [[str(i) for i in PROMPT]] * rows
            engine.generate_batch(start, max_length=count, min_length=count, sampling_topk=1)

        yield f"CTranslate2 {kind}", run


if __name__ == "__main__":
    main()
