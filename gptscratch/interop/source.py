"""What is exported: a trained model with its tokenizer and what its run's folder records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gptscratch import paths
from gptscratch.config import ModelConfig
from gptscratch.model.gpt import GPT
from gptscratch.runs.checkpoint import load_model
from gptscratch.runs.run import RunRecord, read_run
from gptscratch.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """A checkpoint of a run."""

    tokenizer: Tokenizer
    record: RunRecord
    run: Path
    checkpoint: Path

    @classmethod
    def load(cls, name_or_path: str | Path | None = None) -> Source:
        """The best checkpoint of a run, by run name, run folder or checkpoint folder; None: the newest run.

        Raises:
            CheckpointError, TokenizerError: it is missing, damaged or of a newer format.
        """
        run, checkpoint = paths.find_checkpoint(name_or_path)
        return cls(Tokenizer.load(run), read_run(run), run, checkpoint)

    @cached_property
    def model(self) -> GPT:
        """In float32, on the CPU, in evaluation mode.

        Raises:
            CheckpointError: as ``load_model``.
        """
        return load_model(self.run, self.checkpoint, device="cpu", dtype="float32")

    @property
    def config(self) -> ModelConfig:
        return self.record.config.model

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a text; None: the corpus was one text."""
        return next(iter(self.stop_ids), None)

    @property
    def begin_of_text(self) -> int | None:
        """The id in front of each text: that of the tokenizer, or the one that ended the document before."""
        return next(iter(self.tokenizer.prefix_ids), self.end_of_text)

    @property
    def stop_ids(self) -> list[int]:
        """The ids that end a text; an imported model may have several."""
        return list(self.record.ending_ids)

    @property
    def padding(self) -> int | None:
        """An id for padding, which no model reads."""
        return self.tokenizer.eot_id

    @property
    def untrained_ids(self) -> list[int]:
        """Ids that must not be generated: special ones that were not in training, those without a token."""
        special = {self.tokenizer.unk_id, self.tokenizer.eot_id} - {*self.stop_ids, None}
        without = range(self.tokenizer.vocab_size, self.config.vocab_size)
        return sorted(i for i in (*special, *without) if i is not None)
