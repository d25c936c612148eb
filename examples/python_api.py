"""The library without its command line: train, load, sample, compute logits, and a custom training loop.

python examples/python_api.py TEXT            a few minutes on a laptop
python examples/python_api.py --small TEXT    a few seconds, to check that everything works
"""

import argparse

import torch
import torch.nn.functional as F

from gptscratch import GPT, PRESETS, DataConfig, ModelConfig, generate, load, train
from gptscratch.config import TrainConfig
from gptscratch.data.batches import Batches
from gptscratch.data.prepare import prepare
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.schedule import schedule_of


def train_and_sample(text: str, steps: int, width: int) -> None:
    """What the command line does, in two calls; docs/config.md lists all settings."""
    result = train(text, tokenizer="char", n_layer=2, d_model=width, n_head=2, steps=steps)
    gpt = load(result.run)
    print(f"{result.run}: validation loss {result.evaluation.val_loss:.3f} after {result.step} steps")
    print(gpt.generate("The ", max_tokens=100, temperature=0.8, top_k=40, seed=1))


def logits_of(preset: str) -> None:
    """Build a model from a config and call it: token ids in, logits out."""
    model = GPT(PRESETS[preset]).eval()
    token_ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        print(f"{preset}: token ids {tuple(token_ids.shape)} -> logits {tuple(model(token_ids).shape)}")


def own_loop(text: str, steps: int, width: int) -> None:
    """The same training, written out: data, model, optimizer, loss, update."""
    prepared = prepare(DataConfig(corpus=(text,), tokenizer="char"))
    tokenizer = prepared.tokenizer
    batches = Batches(prepared.tokens.train, context_length=32, batch_size=16, seed=0)
    torch.manual_seed(0)
    model = GPT(
        ModelConfig(vocab_size=tokenizer.vocab_size, context_length=32, n_layer=2, n_head=2, d_model=width)
    )
    settings = TrainConfig(
        learning_rate=0.05,  # of Muon, for the matrices of the blocks
        adamw_learning_rate=0.01,  # for all other parameters
        weight_decay=0.01,
        warmup_steps=steps // 20,
    )
    optimizer = make_optimizer(model, settings)
    schedule = schedule_of(settings)
    for step in range(steps):
        inputs, targets = map(torch.from_numpy, batches.batch(step))  # (B, T) each
        logits = model(inputs)  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        optimizer.step(schedule(step, step / steps), finite=loss.isfinite())
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    prompt = tokenizer.encode("The ")
    print(tokenizer.decode(generate(model, prompt, max_tokens=100, temperature=0.8, seed=1)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", help="a file of plain text")
    parser.add_argument("--small", action="store_true", help="use small numbers, for a quick check")
    given = parser.parse_args()
    steps, width = (10, 32) if given.small else (1000, 128)
    train_and_sample(given.text, steps, width)
    logits_of("nano" if given.small else "gpt2")
    own_loop(given.text, steps, width)
