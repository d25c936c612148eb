"""``gptscratch eval``: tasks of EleutherAI's evaluation harness."""

from __future__ import annotations

from typing import Annotated

from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.config.setting import DATA, RUN, setting
from gptscratch.errors import ConfigError

EXAMPLES = """Examples:
  gptscratch eval tales --tasks rhymes --task-dir my-tasks
  gptscratch eval tales --tasks lambada_openai --download"""


@o.command()
def eval_(
    run: Annotated[str | None, o.Run] = None,
    tasks: str | None = setting(None, RUN, "Tasks or groups of lm-eval: arc_easy,piqa.", metavar="NAMES"),
    task_dir: str | None = setting(None, DATA, "Folder with custom task files.", metavar="DIR"),
    fewshot: int | None = setting(
        None, RUN, "Examples in front of each question.", at_least=0, default_is="as the task says"
    ),
    limit: int | None = setting(None, RUN, "Questions of each task.", at_least=1, default_is="all"),
    download: bool = setting(False, DATA, "Download the data sets of the tasks from the Hugging Face hub."),
    json: bool = o.JSON,
    device: str = o.DEVICE,
    dtype: str = o.DTYPE,
) -> None:  # fmt: skip
    """Evaluate a run on tasks of EleutherAI's evaluation harness (lm-eval).

    Task files are YAML, as lm-eval describes them. Without --download no connection is opened: the data of a
    task must be local files.
    """
    names = [name for each in (tasks or "").split(",") if (name := each.strip())]
    if not names:
        raise ConfigError("No task is named.", "Give --tasks, for example --tasks lambada_openai --download.")
    process.passive_openmp_if_busy()
    if not download:
        process.stay_offline()
    from gptscratch.cli import loading, render_eval
    from gptscratch.interop.lm_eval import evaluate

    generator = loading.load(run, quantize=None, device=device, dtype=dtype, exact=True)
    found = evaluate(generator, names, task_dir=task_dir, num_fewshot=fewshot, limit=limit)
    render_eval.results(generator.run.name, found, json=json)
