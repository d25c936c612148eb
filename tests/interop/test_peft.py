"""LoRA against PEFT: the same losses while training, and folders that it loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.generation.generator import load
from gptscratch.interop.export import export
from gptscratch.interop.hf_export import to_hf
from gptscratch.model.gpt import GPT
from gptscratch.model.lora import LoraLinear, add_adapters
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import take_step
from gptscratch.training.trainer import TrainResult

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of PEFT
STEPS, RANK, ALPHA = 50, 4, 8.0
MODULES = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj",
    "up": "up_proj", "gate": "gate_proj", "down": "down_proj",
}  # fmt: skip
GPT2: dict[str, Any] = {
    "position": "learned", "norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False, "bias": True,
    "tie_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("targets", [("q", "v"), tuple(MODULES)])
def test_the_losses_are_those_of_peft(targets: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=50, context_length=16, n_layer=2, n_head=4, n_kv_head=2, d_model=32))
    model.lm_head.weight.data.mul_(10.0)  # so that adapters alone can lower the loss
    values, state = to_hf(model)
    theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**values))
    theirs.load_state_dict(state)
    add_adapters(model, rank=RANK, alpha=ALPHA, targets=targets)
    modules = [MODULES[name] for name in targets]
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules))
    _start_equal(model, theirs)
    adapters = [p for p in theirs.parameters() if p.requires_grad]
    train = TrainConfig(steps=STEPS, optimizer="adamw", learning_rate=0.005)
    betas = train.beta1, train.beta2
    their_optimizer = torch.optim.AdamW(adapters, lr=0.005, betas=betas, weight_decay=train.weight_decay)
    replica = LowPrecisionReplica(accelerate_training(model), torch.float32)
    optimizer = make_optimizer(model, train)
    assert len(optimizer.state) == 3 * len(adapters)
    losses: list[tuple[float, float]] = []
    for _ in range(STEPS):
        ids = torch.randint(0, 25, (4, 17)) * 2  # something to learn: no odd token
        inputs, targets_ = ids[:, :-1], ids[:, 1:]
        loss = F.cross_entropy(theirs(inputs).logits.flatten(0, 1), targets_.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        their_optimizer.step()
        their_optimizer.zero_grad()
        batch = inputs.numpy(), targets_.numpy()
        result = take_step(replica, optimizer, *batch, micro_batch_size=2, grad_clip=1.0, lr_scale=1.0)
        losses.append((result.loss.item(), loss.item()))
    assert losses[-1][1] < losses[0][1] - 0.1
    assert max(abs(own - their) for own, their in losses) < 1e-4


def _start_equal(model: GPT, theirs: torch.nn.Module) -> None:
    """Their A becomes the model's; both start with B = 0."""
    for layer, block in enumerate(model.blocks):
        for name, module in block.named_modules():
            if isinstance(module, LoraLinear):
                their_name = name.replace("attention", "self_attn")
                their_name = their_name.rpartition(".")[0] + "." + MODULES[name.rpartition(".")[2]]
                their = theirs.get_submodule(f"base_model.model.model.layers.{layer}.{their_name}")
                bound = module.in_features**-0.5
                for a in (module.lora_a.weight, their.lora_A["default"].weight):  # the same distribution
                    assert 0.8 * bound < a.abs().max() <= bound
                assert not module.lora_b.weight.any()
                assert not their.lora_B["default"].weight.any()
                module.lora_a.weight.data.copy_(their.lora_A["default"].weight)


@pytest.mark.parametrize("family", [{}, GPT2], ids=["qwen3", "gpt2"])
@pytest.mark.parametrize("targets", [(), ("q", "v"), ("k", "out", "down")])
def test_peft_loads_the_exported_adapters(
    fit: Callable[..., TrainResult], tmp_path: Path, family: dict[str, Any], targets: tuple[str, ...]
) -> None:
    fit(name="base", steps=2, **family)
    options: dict[str, Any] = {"lora_rank": 3, "lora_targets": targets, "learning_rate": 0.05}
    fit(name="tuned", init_from="base", tokenizer=None, steps=4, **options)
    folder = Path(export("tuned", tmp_path / "tuned", format="peft").folder)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    model = load("tuned").model
    ids = torch.randint(0, model.config.vocab_size, (2, model.config.context_length))
    with torch.no_grad():  # 1e-4 of logits of about 10
        assert (theirs(ids).logits - model(ids)).abs().max() < 1e-4
        with theirs.disable_adapter():
            before = theirs(ids).logits
    assert (before - load("base").model(ids)).abs().max() < 1e-4
    assert (before - model(ids)).abs().max() > 1e-3
