"""Scores runs on the whole validation set with overlapping windows.

python examples/reviews/score.py RUN...

The evaluation at the end of training uses adjacent windows, so that the first words of a window have no
context. Here windows overlap: each word except the first ones has at least half a context before it. The ends
of reviews are not counted, because the older project did not predict them.
"""

import sys
from collections.abc import Iterator

import numpy as np

from gptscratch import load
from gptscratch.data.token_files import TokenArray, open_tokens
from gptscratch.runs.checkpoint import read_run
from gptscratch.training.evaluate import evaluate
from gptscratch.training.loss import IGNORE

ROWS = 32


def overlapping(
    tokens: TokenArray, context: int, end_of_text: int | None
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


def main(names: list[str]) -> None:
    for name in names:
        gpt = load(name)
        record = read_run(gpt.run)
        val = open_tokens(record.tokens).val
        windows = overlapping(val, record.config.model.context_length, record.end_of_text)
        found = evaluate(gpt.model, windows, bytes_per_token=1.0)
        print(
            f"{gpt.run.name}: loss {found.loss:.4f}, accuracy {found.accuracy:.2%}, "
            f"perplexity {found.perplexity:.1f} over {found.tokens:,} words"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
