"""Evaluation of a trained model by EleutherAI's evaluation harness (lm-eval), with tasks of the user.

Texts become tokens and windows as in the harness's own model ``hf``, so that the log-likelihoods are those of
the exported folder.

Shapes: B requests at once, T tokens, V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptscratch.errors import ConfigError, MissingExtraError, RunError, UserError, did_you_mean, require

try:
    from lm_eval import simple_evaluate, utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError:
    raise MissingExtraError("lm-eval", "eval") from None

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator

_LOGITS = 1 << 25  # numbers at once
_BOOTSTRAP = 1000  # samples for a standard error: the default of 100,000 takes longer than the tasks
_NEW_TOKENS = 256  # where a task does not say how many

Request = tuple[Any, list[int], list[int]]  # a key, the ids of the context, the ids to be scored


def evaluate(
    generator: Generator,
    tasks: Sequence[str],
    *,
    task_dir: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """The results of tasks, as ``lm_eval.simple_evaluate`` returns them.

    Args:
        tasks: names or patterns of tasks and groups.
        task_dir: a folder with task files (YAML) of the user; tasks of the harness need their data sets.
        num_fewshot: examples in front of each question; None: as the task says.
        limit: questions of each task; None: all.

    Raises:
        ConfigError: there is no such task, or its data cannot be loaded.
        MissingExtraError: lm-eval is not installed.
    """
    try:
        manager = _task_manager(tasks, task_dir)
        found = simple_evaluate(
            HarnessModel(generator),
            tasks=manager.match_tasks(list(tasks)),
            num_fewshot=num_fewshot,
            limit=limit,
            task_manager=manager,
            bootstrap_iters=_BOOTSTRAP,
            log_samples=False,
        )
    except (UserError, RuntimeError):  # what torch raises is not about a task
        raise
    except Exception as error:  # of any type: a task's file has templates and functions, its data any values
        raise ConfigError(
            f"A task cannot be evaluated: {_cause(error)}.",
            "Check the task's file and its data; data sets on the hub need --download.",
        ) from None
    return dict(found)


def _cause(error: BaseException) -> str:
    """In one line; datasets says only that there was an error, and what it is in the one before."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _task_manager(tasks: Sequence[str], task_dir: str | Path | None) -> Any:
    """With the thousands of tasks of the harness only where the folder does not have all that are named."""
    if task_dir is not None:
        require(Path(task_dir).is_dir(), f"{task_dir} is not a folder.")
        manager = TaskManager(include_path=str(task_dir), include_defaults=False)
        if all(manager.match_tasks([task]) for task in tasks):
            return manager
    manager = TaskManager(include_path=None if task_dir is None else str(task_dir))
    for task in tasks:
        hint = did_you_mean(task, manager.all_tasks) or "Name a folder of task files with --task-dir."
        require(bool(manager.match_tasks([task])), f"There is no task {task!r}.", hint)
    return manager


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A trained model as the harness calls it."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.max_length = generator.model.config.context_length

    @property
    def eot_token_id(self) -> int:
        return self.prefix_token_id

    @property
    def prefix_token_id(self) -> int:
        """The id that a text begins with."""
        return self.generator.prompt_ids("")[0]

    @property
    def tokenizer_name(self) -> str:
        return self.generator.run.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        tokenizer = self.generator.tokenizer
        prefix = [] if add_special_tokens is False else tokenizer.prefix_ids
        return [*prefix, *tokenizer.encode(string, specials=True)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows of which each token is in one."""
        del disable_tqdm
        sums = []
        for request in requests:
            windows = utils.get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            parts: list[Request] = [(None, *utils.make_disjoint_window(window)) for window in windows]
            sums.append(sum(value for value, _ in self._loglikelihood_tokens(parts)))
        return sums

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        """For each request the sum of log p of the ids to be scored, and whether all are the most likely."""
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        device = self.generator.model.token_embedding.weight.device
        for numbers in self._batches(requests):
            rows = [self._row(*requests[number][1:]) for number in numbers]
            width = max(map(len, rows)) - 1
            padded = torch.tensor([row + [0] * (width + 1 - len(row)) for row in rows], device=device)
            logits = self.generator.model(padded[:, :-1]).float()  # (B, T, V): what is padded comes later
            targets = padded[:, 1:]  # (B, T)
            log_p = logits.log_softmax(-1).gather(2, targets[:, :, None]).squeeze(2)  # (B, T)
            is_best = logits.argmax(-1) == targets  # (B, T)
            for number, row, values, best in zip(numbers, rows, log_p, is_best, strict=True):
                scored = slice(len(row) - 1 - len(requests[number][2]), len(row) - 1)
                found[number] = values[scored].sum().item(), bool(best[scored].all())
        return found

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """The numbers of requests, long ones first, as many at once as fit into memory."""
        lengths = [min(len(context) + len(ids), self.max_length + 1) for _, context, ids in requests]
        order = sorted(range(len(requests)), key=lambda number: -lengths[number])
        while order:
            each = lengths[order[0]] * self.generator.model.config.vocab_size
            rows = max(1, _LOGITS // each)
            yield order[:rows]
            del order[:rows]

    def _row(self, context: list[int], scored: list[int]) -> list[int]:
        """The ids of a request without those before the context that the model can attend to."""
        if not 0 < len(scored) <= self.max_length:
            raise RunError(
                f"A text of {len(scored)} tokens is to be scored at once; the context is {self.max_length}.",
                "Leave this task out.",
            )
        return (context + scored)[-(self.max_length + 1) :]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each prompt up to a stop string; greedy unless the task says otherwise."""
        del disable_tqdm
        texts = []
        for request in requests:
            prompt, options = request.args
            stop = options.get("until") or ()
            temperature = options.get("temperature", 1.0) if options.get("do_sample") else 0.0
            texts.append(
                self.generator.generate(
                    prompt,
                    max_tokens=options.get("max_gen_toks", _NEW_TOKENS),
                    stop=[stop] if isinstance(stop, str) else [text for text in stop if text],
                    temperature=temperature,
                    seed=0,
                )
            )
        return texts
