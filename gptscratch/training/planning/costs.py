"""What a run costs on a machine: seconds and bytes, expected from what was measured there."""

from __future__ import annotations

from dataclasses import dataclass

from gptscratch import sizing
from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.training.planning import heuristics
from gptscratch.training.planning.heuristics import Facts

CHECKPOINT_SECONDS, SAMPLE_SECONDS = 0.05, 0.15  # with each evaluation
TRAINING_SHARE = 0.95  # of the time; the rest is for evaluations, checkpoints and samples
PROCESS_BYTES = 370_000_000  # of Python with torch and an evaluation
COMPILER_BYTES = 150_000_000  # of torch.compile in this process
MEMORY_SHARE = 0.75  # of what is free: what is held for a moment is not counted
CPU_ACTIVATIONS = 2 << 30  # bytes, at most, for those of a micro-batch on a CPU
GPU_ACTIVATIONS = 16 << 30  # the same on a GPU whose memory is not known
GPU_RESERVE = 1 << 30  # bytes of a GPU's memory for logits, kernels and fragments


@dataclass(frozen=True)
class Costs:
    """The costs of training any model with these settings."""

    train: TrainConfig
    facts: Facts

    def tokens_per_second(self, model: ModelConfig) -> float:
        """Tokens of the text: R-Drop computes each of them twice."""
        return heuristics.tokens_per_second(model, self.facts) / self.train.passes

    def tokens_in_time(self, model: ModelConfig) -> float:
        """Tokens that the model is trained on in ``train.minutes``."""
        seconds = max(1.0, 60 * (self.train.minutes or 0) - self._start_up())
        return TRAINING_SHARE * seconds * self.tokens_per_second(model)

    def seconds(self, model: ModelConfig, tokens: float, step_tokens: float) -> float:
        """The whole command: its start, its steps, and its evaluations with what goes with each."""
        along = tokens / (self.train.eval_interval * step_tokens)
        scored = max(1.0, along) * self.train.eval_tokens + self.train.final_eval_tokens
        work = (tokens + self.facts.evaluation_cost * scored) / self.tokens_per_second(model)
        pause = CHECKPOINT_SECONDS + (SAMPLE_SECONDS if self.train.sample_interval != 0 else 0.0)
        return self._start_up() + work + along * pause

    def training_bytes(self, model: ModelConfig, rows: int = 1) -> int:
        """Memory of the training itself, with this number of sequences in a micro-batch."""
        return self._memory(model, rows).total

    def peak_bytes(self, model: ModelConfig) -> int:
        """Memory at the peak: that of the process on a CPU, that of the device elsewhere."""
        process = PROCESS_BYTES + bool(self.train.compile) * COMPILER_BYTES
        training = self.training_bytes(model, self.train.micro_batch_size)
        peak = 1.2 * training + (process if self.facts.device == "cpu" else 0)
        return max(self.facts.peak_bytes, int(peak))

    def fits(self, model: ModelConfig) -> bool:
        """Whether a single sequence leaves a part of the memory free."""
        free = self.facts.memory_bytes
        return not free or self.training_bytes(model) <= MEMORY_SHARE * free

    def rows_at_once(self, model: ModelConfig) -> int:
        """Sequences of one forward and backward pass whose activations the memory holds."""
        one, two = (self._memory(model, rows) for rows in (1, 2))
        each, on_cpu = two.activations - one.activations, self.facts.device == "cpu"
        rooms = [CPU_ACTIVATIONS] if on_cpu else [] if self.facts.memory_bytes else [GPU_ACTIVATIONS]
        if self.facts.memory_bytes:
            held = one.weights + one.gradients + one.optimizer + one.activations - each
            rooms.append(int(MEMORY_SHARE * self.facts.memory_bytes) - held - (0 if on_cpu else GPU_RESERVE))
        return max(1, min(rooms) // each)

    def _start_up(self) -> float:
        compiles = heuristics.COMPILE_SECONDS[self.facts.device] if self.train.compile else 0.0
        return self.facts.start_up_seconds + compiles

    def _memory(self, model: ModelConfig, rows: int) -> sizing.TrainingMemory:
        return sizing.memory_of_run(
            model,
            self.train,
            rows=rows,
            dtype=self.facts.dtype,
            device=self.facts.device,
            shards=self.facts.world_size if self.train.parallel == "fsdp" else 1,
        )
