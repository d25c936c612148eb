"""The real files that ``mutate.py`` damages: runs, token files, tokenizers, corpora, models of others."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 16, "batch_size": 4, "micro_batch_size": 2,
    "steps": 24, "log_interval": 3, "eval_interval": 8, "save_interval": 8, "sample_interval": 12,
    "eval_tokens": 200, "final_eval_tokens": 400, "device": "cpu", "dtype": "float32",
}  # fmt: skip


def make(folder: Path) -> None:
    """``folder`` becomes the current folder of the commands; its ``home`` is that of the runs."""
    import torch

    from gptscratch.training.trainer import train

    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    os.chdir(folder)
    text = _text()
    Path("tale.txt").write_text(text)
    Path("in.txt").write_text(text[:800])
    train("tale.txt", name="tale", tokenizer="char", **SIZES)
    train(
        "tale.txt",
        name="tuned",
        **{"steps": 8, "batch_size": 4, "micro_batch_size": 4, "eval_tokens": 200},
        init_from="tale",
        lora_rank=2,
    )
    _corpora(Path("corpora"), text)
    _tokenizers(Path("tokenizers"), text)
    _foreign(Path("foreign"))
    Path("settings").mkdir()
    config = json.loads(Path("home/runs/tale/config.json").read_text())
    for name in ("tokens", "split", "corpus_hash"):
        config.pop(name, None)
    Path("settings/run.json").write_text(json.dumps(config))
    Path("settings/bare.json").write_text(json.dumps(SIZES | {"tokenizer": "char", "steps": 1}))
    Path("settings/sections.json").write_text(
        json.dumps(
            {
                "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "rope_theta": 1e4},
                "train": {
                    "learning_rate": 0.01,
                    "lr_schedule": "wsd",
                    "batch_size": 2,
                    "seed": 5,
                    "minutes": None,
                },
                "data": {"tokenizer": "bpe", "vocab_size": 300, "clean": ["html"]},
            }
        )
    )
    Path("requests").mkdir()
    Path("requests/one.json").write_text(
        json.dumps(
            {
                "prompt": "the",
                "max_tokens": 3,
                "temperature": 0.5,
                "stop": ["."],
                "n": 2,
                "logprobs": 2,
                "seed": 1,
                "echo": True,
            }
        )
    )
    Path("requests/two.json").write_text(
        json.dumps(
            {
                "model": "tale",
                "prompt": ["the", [1, 2]],
                "max_tokens": 2,
                "top_k": 3,
                "top_p": 0.9,
                "min_p": 0.1,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
    )
    shutil.copytree("home/runs/tale", "outside")
    shutil.copytree(next(Path("home/tokens").iterdir()), "outside/tokens")
    shutil.rmtree("tmp", ignore_errors=True)


def client() -> Any:
    """An HTTP client of a server with the run, in this process."""
    from starlette.testclient import TestClient

    from gptscratch.generation.generator import Generator
    from gptscratch.serve.app import make_app
    from gptscratch.serve.models import Limits

    app = make_app(
        {"tale": Generator.load("tale", device="cpu", dtype="float32")}, limits=Limits(max_tokens=20)
    )
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=True)
    client.__enter__()
    return client


def _text() -> str:
    chance = random.Random(0)
    parts = (("the fox", "a dog", "my cat"), ("runs", "sleeps", "sings"), ("home", "here", "far"))
    return "".join(" ".join(map(chance.choice, parts)) + ".\n" for _ in range(200))


def _corpora(folder: Path, text: str) -> None:
    import pyarrow
    import pyarrow.parquet
    from backports import zstd

    folder.mkdir()
    rows = [{"text": line, "n": len(line)} for line in text[:1500].split("\n")]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    plain = {
        "a.txt": (text[:1200] + "<|endoftext|>" + text[:300]).encode(),
        "utf16.txt": text[:500].encode("utf-16"),
        "latin.txt": "caf\u00e9 na\u00efve \u00fcber\n".encode("latin-1") * 30,
        "a.jsonl": lines.encode(),
        "a.txt.gz": gzip.compress(text[:900].encode()),
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "a.txt.zst": zstd.compress(text[:900].encode()),
        "page.html": b"<html><body><p>the fox &amp; a dog</p></body></html>" * 20,
    }
    for name, data in plain.items():
        (folder / name).write_bytes(data)
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "n"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    table = pyarrow.table({"text": [row["text"] for row in rows], "n": [row["n"] for row in rows]})
    for compression in ("none", "snappy", "zstd"):
        pyarrow.parquet.write_table(table, folder / f"{compression}.parquet", compression=compression)
    dictionary = pyarrow.table({"text": table["text"].dictionary_encode()})
    pyarrow.parquet.write_table(dictionary, folder / "dictionary.parquet")


def _tokenizers(folder: Path, text: str) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    from gptscratch.tokenizer import build_tokenizer

    folder.mkdir()
    for kind in ("char", "byte", "word", "bpe"):
        size = 300 if kind == "bpe" else None
        library = build_tokenizer(kind, [text], alphabet="".join(sorted(set(text))), vocab_size=size)
        library.save(str(folder / f"{kind}.json"))
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    unigram.train_from_iterator(
        [text],
        trainers.UnigramTrainer(
            vocab_size=60, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
        ),
    )
    unigram.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    unigram.save(str(folder / "unigram.json"))
    wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer, wordpiece.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    wordpiece.train_from_iterator(
        [text],
        trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]", "[SEP]"], show_progress=False),
    )
    wordpiece.decoder = decoders.WordPiece()
    wordpiece.save(str(folder / "wordpiece.json"))


def _foreign(folder: Path) -> None:
    """Models of transformers with random weights, and one of nanoGPT."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()

    sizes = {"vocab_size": 257, "eos_token_id": 256, "bos_token_id": 256}
    llama = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
    }
    gpt2 = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    made = (
        ("llama", transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **llama)), "1GB"),
        ("gpt2", transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **gpt2)), "1GB"),
        ("sharded", transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **llama)), "8KB"),
    )
    for name, model, shard in made:
        model.save_pretrained(folder / name, max_shard_size=shard)
        shutil.copy("tokenizers/byte.json", folder / name / "tokenizer.json")
    state = {}
    vocab = json.loads(Path("tokenizers/char.json").read_text())["model"]["vocab"]
    arguments = {
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 16,
        "block_size": 16,
        "bias": False,
        "vocab_size": len(vocab),
        "dropout": 0.0,
    }
    shapes = {
        "wte": (len(vocab), 16),
        "wpe": (16, 16),
        "h.0.ln_1": (16,),
        "h.0.attn.c_attn": (48, 16),
        "h.0.attn.c_proj": (16, 16),
        "h.0.ln_2": (16,),
        "h.0.mlp.c_fc": (64, 16),
        "h.0.mlp.c_proj": (16, 64),
        "ln_f": (16,),
    }
    for name, shape in shapes.items():
        state[f"transformer.{name}.weight"] = torch.randn(shape)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    torch.save({"model": state, "model_args": arguments, "iter_num": 5, "config": {}}, folder / "ckpt.pt")
