"""Downloads a model from the Hugging Face hub, because the user asked for it by ``hf:``."""

from __future__ import annotations

from pathlib import Path

from gptscratch.errors import ConfigError, MissingExtraError, RunError, require

HUB = "hf:"
_FILES = [
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "vocab.json", "merges.txt",
]  # fmt: skip


def download(name: str) -> Path:
    """A folder with the files of ``owner/model`` or ``owner/model@revision``, in huggingface_hub's cache.

    The environment variables of huggingface_hub count, such as HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.

    Raises:
        ConfigError: there is no such model, or the user may not read it.
        RunError: the download failed.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface-hub", "hub") from None
    model, _, revision = name.partition("@")
    require(
        model.count("/") == 1 and all(model.split("/")),
        f"{model!r} is not the name of a model on the hub.",
        "As in hf:HuggingFaceTB/SmolLM2-135M",
    )
    try:
        return Path(snapshot_download(model, revision=revision or None, allow_patterns=_FILES))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"The hub has no model {name} that can be read: {_line(error)}.",
            "Is the name right? For a model that needs a login, set HF_TOKEN.",
        ) from None
    except Exception as error:  # the HTTP library and its errors differ between versions of huggingface_hub
        raise RunError(f"The download of {name} failed: {_line(error)}.", "Try again later.") from None


def _line(error: Exception) -> str:
    return next((line.rstrip(". ") for line in str(error).splitlines() if line), type(error).__name__)
