"""Scores runs on the whole validation set with overlapping windows.

python examples/reviews/score.py RUN...

The evaluation at the end of training uses adjacent windows, so that the first words of a window have no
context. Here windows overlap: each word except the first ones has at least half a context before it. As in
the older project, unknown words are counted, and the ends of reviews are not.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from gptscratch import load

ROWS = 4  # windows at a time: the logits of 37,000 words for each of their positions are in memory
IGNORE = -100  # a target that is not counted, the default of F.cross_entropy


def overlapping(
    tokens: np.ndarray, context: int, end_of_text: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets, (B, context) each; a target that an earlier window scored is left out."""
    last = len(tokens) - 1 - context
    starts = np.append(np.arange(0, last, context // 2), last)
    scored = np.append(0, starts[:-1] + context)  # targets before this one belong to earlier windows
    for first in range(0, len(starts), ROWS):
        places = starts[first : first + ROWS, None] + np.arange(context)  # (B, context)
        inputs, targets = tokens[places].astype(np.int64), tokens[places + 1].astype(np.int64)
        targets[places < scored[first : first + ROWS, None]] = IGNORE
        if end_of_text is not None:
            targets[targets == end_of_text] = IGNORE
        yield inputs, targets


@torch.no_grad()
def main(names: list[str]) -> None:
    for name in names:
        gpt = load(name)
        config = json.loads((gpt.run / "config.json").read_text(encoding="utf-8"))
        folder = Path(config["tokens"])
        dtype = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["dtype"]
        val = np.memmap(folder / "val.bin", dtype=dtype, mode="r")
        loss, right, count = 0.0, 0, 0
        for batch in overlapping(val, config["model"]["context_length"], config["end_of_text"]):
            inputs, targets = map(torch.from_numpy, batch)
            logits = gpt.model(inputs).float().flatten(0, 1)  # (B·T, V)
            wanted = targets.flatten()
            loss += F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum").item()
            right += int((logits.argmax(dim=-1) == wanted).sum())
            count += int((wanted != IGNORE).sum())
        loss /= count
        print(
            f"{gpt.run.name}: loss {loss:.4f}, accuracy {right / count:.2%}, "
            f"perplexity {math.exp(loss):.1f} over {count:,} words"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
