"""Other libraries that sample_speed.py measures, each holding the weights of one of our models.

transformers takes any shape; CTranslate2 and llama.cpp are shown GPT-2's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gptscratch.interop.hf_export import to_hf
from gptscratch.model.gpt import GPT

Run = Callable[[int], None]  # generates N tokens of each sequence


def twin_of(model: GPT) -> Any:
    """The same model in transformers."""
    import transformers

    values, state = to_hf(model)
    maker = getattr(transformers, values["architectures"][0])
    twin = maker(maker.config_class(**values)).eval()
    twin.load_state_dict(state | {"lm_head.weight": model.lm_head.weight.detach()})
    return twin


def transformers(model: GPT, kind: str, prompt: list[int], rows: int) -> Run:
    start = torch.tensor([prompt] * rows)
    twin = twin_of(model).to(getattr(torch, kind))

    def run(count: int) -> None:
        with torch.inference_mode():
            twin.generate(start, attention_mask=torch.ones_like(start), do_sample=False, pad_token_id=0,
                          max_new_tokens=count, min_new_tokens=count)  # fmt: skip

    return run


def ctranslate2(model: GPT, kind: str, prompt: list[int], rows: int, threads: int) -> Run:
    import ctranslate2
    from ctranslate2.converters.transformers import GPT2Loader

    words = [str(number) for number in range(model.config.vocab_size)]
    spec = GPT2Loader().get_model_spec(twin_of(model))
    spec.register_vocabulary(words)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = words[-1]
    spec.validate()
    spec.optimize(quantization=kind)
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        engine = ctranslate2.Generator(folder, device="cpu", intra_threads=threads, compute_type=kind)
    start = [[words[token_id] for token_id in prompt]] * rows

    def run(count: int) -> None:
        length = len(prompt) + count
        engine.generate_batch(start, max_length=length, min_length=length, sampling_topk=1)

    return run


LLAMA_KINDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "Q8_0", "int4": "Q4_0"}


def llama_cpp(model: GPT, kind: str, prompt: list[int], threads: int) -> Run:
    import llama_cpp

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(model, file, LLAMA_KINDS[kind])
        engine = llama_cpp.Llama(
            str(file), n_threads=threads, n_threads_batch=threads, n_ctx=512, use_mmap=False, verbose=False
        )

    def run(count: int) -> None:
        engine.reset()
        for number, _ in enumerate(engine.generate(prompt, temp=0.0), start=1):
            if number == count:
                return

    return run


def write_gguf(model: GPT, file: Path, kind: str) -> None:
    """GPT-2's layout of llama.cpp (its ``convert_hf_to_gguf.py`` names the parts), without a tokenizer."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_tokenizer_model("no_vocab")
    wanted = gguf.GGMLQuantizationType[kind]
    for name, tensor in _gguf_tensors(model):
        array = tensor.detach().float().numpy()
        is_matrix = tensor.dim() > 1 and "position" not in name
        type_ = wanted if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(array, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_tensors(model: GPT) -> Iterator[tuple[str, torch.Tensor]]:
    parts = {"token_embd": model.token_embedding, "position_embd": model.position_embedding,
             "output_norm": model.final_norm}  # fmt: skip
    for number, block in enumerate(model.blocks):
        own = {"attn_norm": block.norm_attention, "attn_output": block.attention.out,
               "ffn_norm": block.norm_mlp, "ffn_up": block.mlp.up, "ffn_down": block.mlp.down}  # fmt: skip
        parts |= {f"blk.{number}.{name}": part for name, part in own.items()}
        heads = (block.attention.q, block.attention.k, block.attention.v)
        yield f"blk.{number}.attn_qkv.weight", torch.cat([head.weight for head in heads])
        yield f"blk.{number}.attn_qkv.bias", torch.cat([head.bias for head in heads])
    for name, part in parts.items():
        yield from ((f"{name}.{own}", tensor) for own, tensor in part.named_parameters())
