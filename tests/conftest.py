"""What many tests share: their own home folder, a small corpus, tiny runs, a model with known output."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch.config import ModelConfig, RunConfig, TrainConfig
from gptscratch.generation.generator import Generator
from gptscratch.model.gpt import GPT
from gptscratch.runs.checkpoint import save_checkpoint
from gptscratch.runs.folder import create_run
from gptscratch.runs.run import RunRecord
from gptscratch.sizing import count_parameters
from gptscratch.tokenizer import Tokenizer, build_tokenizer
from gptscratch.training.trainer import TrainResult, train

torch.set_num_threads(1)  # the models here are so small that a second thread costs more than it gives

TINY: dict[str, Any] = {
    "n_layer": 1, "n_head": 2, "d_model": 32, "context_length": 16, "batch_size": 8, "micro_batch_size": 4,
    "steps": 24, "log_interval": 3, "eval_interval": 8, "save_interval": 4, "sample_interval": 0,
    "tokenizer": "char", "device": "cpu", "dtype": "float32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's runs."""
    monkeypatch.setenv("GPTSCRATCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def _torch() -> Iterator[None]:
    """Each test starts from the same seed, and without the flushing of denormals that training turns on."""
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five thousand characters of sentences that have something to learn in them."""
    chance = random.Random(0)
    names, verbs, places = (
        ("the fox", "a dog", "my cat"),
        ("runs", "sleeps", "sings"),
        ("home", "here", "far"),
    )
    lines = [" ".join(map(chance.choice, (names, verbs, places))) + ".\n" for _ in range(300)]
    file = tmp_path_factory.mktemp("corpus") / "tale.txt"
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def fit(corpus: Path) -> Callable[..., TrainResult]:
    """``train`` on the corpus with tiny settings; any of them can be changed."""

    def run(**settings: Any) -> TrainResult:
        return train(corpus, **TINY | settings)

    return run


@pytest.fixture(scope="session")
def _finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTSCRATCH_HOME", str(home))
        train(corpus, name="tale", **TINY)
    return home


@pytest.fixture
def tale(_finished: Path, home: Path) -> Path:
    """A finished run named ``tale`` and its token files: a fresh copy for each test."""
    run = shutil.copytree(_finished, home) / "runs" / "tale"
    config = run / "config.json"
    config.write_text(config.read_text().replace(str(_finished), str(home)))
    return run


@pytest.fixture
def reciter() -> Callable[..., Generator]:
    return reciting


def reciting(text: str, *, kind: str = "byte", then_end: bool = False, **shape: Any) -> Generator:
    """A real GPT whose weights were set by hand: each token of the text leads to the next one, without end.

    No token may occur twice in the text. The residual stream is the token's one-hot vector.
    """
    library = build_tokenizer(kind, [text], alphabet="".join(sorted(set(text))), min_frequency=1)
    tokenizer = Tokenizer(library)
    chain = tokenizer.encode(text)
    assert len(set(chain)) == len(chain)
    if then_end:
        chain.append(tokenizer.eot_id)
    size = -(-tokenizer.vocab_size // 4) * 4
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=32, n_layer=1, n_head=2, d_model=size, **shape
    )
    model = GPT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        model.token_embedding.weight.fill_diagonal_(1.0)
        for this, following in zip(chain, [*chain[1:], chain[0]], strict=True):
            model.lm_head.weight[following, this] = 1.0
    end = tokenizer.eot_id if then_end else None
    return Generator(model=model, tokenizer=tokenizer, end_of_text=end, run=Path("by-hand"))


@pytest.fixture
def random_run(home: Path) -> Callable[..., Path]:
    """A run folder named ``random`` with a tokenizer and weights that no training has seen."""

    def make(tokenizer: Tokenizer, *, end_of_text: int | None = None, **shape: Any) -> Path:
        torch.manual_seed(0)
        sizes = {"vocab_size": tokenizer.vocab_size, "n_layer": 2, "n_head": 4, "d_model": 32}
        model = GPT(ModelConfig(**sizes | shape))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        config = RunConfig(model=model.config, train=TrainConfig(steps=1))
        record = RunRecord(config, "hash", "tokens", end_of_text, count_parameters(model.config).total)
        run = home / "runs" / "random"
        create_run(run, record, tokenizer, {})
        best = {"val_loss": 1.0, "val_accuracy": 0.5, "val_bits_per_byte": 2.0}
        save_checkpoint(run, model, {}, {"step": 1, "best_step": 1, "tokens": 8}, best=best, keep=1)
        return run

    return make
