"""The whole model: what holds for every option."""

import copy
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from gptscratch.config import POSITIONS, ModelConfig
from gptscratch.config.presets import PRESETS
from gptscratch.model import equations
from gptscratch.model.attention import Attention, needs_repeated_keys
from gptscratch.model.equations import attention_weights
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import Layout, padded_layout
from gptscratch.model.mlp import MLP
from gptscratch.model.position import Rotary, rotary_angles

FAMILIES = {
    "modern": {"n_kv_head": 2},
    "gpt2": {"position": "learned", "norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False,
             "bias": True, "tie_embeddings": True},
    "2017": {"position": "sinusoidal", "norm": "layernorm", "activation": "relu", "qk_norm": False},
    "alibi": {"position": "alibi", "activation": "gelu", "n_kv_head": 1, "n_head": 3, "head_dim": 10},
    "plain": {"position": "none", "activation": "relu2", "bias": True},
}  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
def test_grouped_queries_may_be_computed_with_repeated_keys(monkeypatch, masked):
    model, token_ids = lively(tiny(n_kv_head=2)), tokens(2, 9)
    mask = torch.arange(9) >= torch.tensor([[0], [3]])
    layout, real = (padded_layout(mask), mask) if masked else (None, slice(None))
    wanted = model(token_ids, layout=layout)[real]
    monkeypatch.setattr("gptscratch.model.attention.needs_repeated_keys", lambda *_, **_more: True)
    torch.testing.assert_close(model(token_ids, layout=layout)[real], wanted)


def test_keys_are_repeated_where_cuda_would_hold_all_attention_weights():
    for device, dtype, masked, wanted in (
        ("cuda", torch.float32, False, True),
        ("cuda", torch.bfloat16, True, True),
        ("cuda", torch.bfloat16, False, False),
        ("cpu", torch.float32, True, False),
        ("mps", torch.float32, True, False),
    ):
        assert needs_repeated_keys(device, dtype, masked=masked) == wanted


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tiny(**changes):
    base = {"vocab_size": 31, "context_length": 16, "n_layer": 2, "n_head": 4, "d_model": 32}
    return ModelConfig(**base | changes)


def lively(config, **options):
    """A model with weights large enough that everything in it matters, in evaluation mode."""
    model = GPT(config, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch, length):
    return torch.randint(31, (batch, length))


def loss_of(model, token_ids):
    return F.cross_entropy(model(token_ids[:, :-1]).flatten(0, 1), token_ids[:, 1:].flatten())


def written_out(model):
    """A copy that computes by model/equations.py."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, Attention):
            part.attend = lambda q, k, v, bias: equations.attention(q, k, v, bias)[0]
        elif isinstance(part, torch.nn.RMSNorm):
            part.forward = lambda x, n=part: equations.rms_norm(x, n.weight, n.eps)
        elif isinstance(part, torch.nn.LayerNorm):
            part.forward = lambda x, n=part: equations.layer_norm(x, n.weight, n.bias, n.eps)
        elif isinstance(part, MLP):
            part.activation = equations.ACTIVATIONS[model.config.activation]
        elif isinstance(part, Rotary):
            part.rotation = lambda layout, dtype, r=part: (
                lambda x: equations.rotary(x, rotary_angles(layout.queries.to(dtype), r.head_dim, r.theta))
            )
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_and_its_equations_agree_in_logits_and_gradients(family):
    config, token_ids = tiny(**FAMILIES[family]), tokens(2, 12)
    fused = lively(config).double()
    reference = written_out(fused)
    torch.testing.assert_close(reference(token_ids), fused(token_ids), rtol=1e-10, atol=1e-10)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :5] = False
    found, wanted = (model(token_ids, layout=padded_layout(mask)) for model in (reference, fused))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    for model in (fused, reference):
        loss_of(model, token_ids).backward()
    for (name, a), b in zip(fused.named_parameters(), reference.parameters(), strict=True):
        assert a.grad.abs().max() > 1e-9 or name.endswith("attention.k.bias"), name  # softmax ignores a shift
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_later_token_changes_no_earlier_logit(position):
    model, token_ids = lively(tiny(position=position)), tokens(2, 12)
    changed = token_ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 31
    before, after = model(token_ids), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-6)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=(0, 2)).min() > 1e-3


@pytest.mark.parametrize("position", sorted(set(POSITIONS) - {"none"}))
def test_logits_depend_on_the_order_of_earlier_tokens(position):
    model, token_ids = lively(tiny(position=position)), torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]])
    logits = model(token_ids)
    assert (logits[0, -1] - logits[1, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("position", POSITIONS)
def test_pads_change_no_logit_of_a_real_token(position, side):
    model = lively(tiny(position=position, n_kv_head=2))
    short, long = tokens(1, 5), tokens(1, 9)
    pads = torch.full((1, 4), 3)
    padded = torch.cat((pads, short) if side == "left" else (short, pads), dim=1)
    real = slice(4, 9) if side == "left" else slice(0, 5)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, real], mask[1] = True, True
    logits = model(torch.cat((padded, long)), layout=padded_layout(mask))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:1, real], model(short), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[1:], model(long), rtol=1e-5, atol=1e-5)


def test_alibi_weights_fall_off_by_the_slope_of_their_head():
    model = GPT(tiny(position="alibi", n_head=2, n_layer=1))
    with torch.no_grad():
        model.blocks[0].attention.q.weight.zero_()
    (weights,) = attention_weights(model, tokens(1, 6))
    for head, slope in enumerate((2**-4, 2**-8)):
        steps = weights[0, head, -1].log().diff()
        torch.testing.assert_close(steps, torch.full((5,), slope), rtol=1e-3, atol=1e-6)


def test_a_tied_head_is_the_embedding():
    model = GPT(tiny(tie_embeddings=True))
    assert model.lm_head.weight is model.token_embedding.weight
    assert "lm_head.weight" not in dict(model.named_parameters())
    loss_of(model, tokens(2, 8)).backward()
    with torch.no_grad():
        model.token_embedding.weight.zero_()
    assert model(tokens(1, 4)).abs().max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_state_dict_holds_parameters_alone(family):
    model = GPT(tiny(**FAMILIES[family], context_length=16))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert set(model.state_dict()) == parameters
    assert not list(model.buffers())


def test_rotary_positions_continue_past_the_context_length():
    model, token_ids = lively(tiny()), tokens(1, 40)
    assert model(token_ids).shape == (1, 40, 31)
    longer = GPT(tiny(context_length=40))
    longer.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(token_ids), longer(token_ids))


def test_learned_positions_refuse_more_tokens_than_they_have():
    with pytest.raises(ValueError, match="17 tokens are more than the 16 learned positions"):
        GPT(tiny(position="learned"))(tokens(1, 17))


def test_sinusoids_and_fresh_embeddings_have_the_proportion_of_the_paper():
    model = GPT(tiny(position="sinusoidal", d_model=128, vocab_size=1000))
    positions = torch.arange(1000)[None]
    waves = model.position_embedding.embed(torch.zeros(1, 1000, 128), Layout(positions, positions, None))
    ratio = model.token_embedding.weight.square().mean().sqrt() / waves.square().mean().sqrt()
    assert ratio.item() == pytest.approx(math.sqrt(2), rel=0.03)


def test_initial_weights_follow_gpt2():
    shape = {"d_model": 256, "n_layer": 8, "bias": True, "norm": "layernorm", "position": "learned"}
    model = GPT(tiny(tie_embeddings=True, **shape))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        elif parameter.dim() == 1:
            assert (parameter == 1).all()
        else:
            std = 0.02 / 4 if name.endswith(("attention.out.weight", "mlp.down.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.1 * std, name


def test_embeddings_that_no_head_shares_start_larger():
    model = GPT(tiny(d_model=256, vocab_size=500))
    assert model.token_embedding.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_initial_loss_is_that_of_guessing():
    loss = loss_of(GPT(tiny(vocab_size=31)), tokens(16, 16))
    assert loss.item() == pytest.approx(math.log(31), abs=0.1)


def test_dropout_follows_the_global_generator_and_training_mode():
    model, token_ids = lively(tiny(dropout=0.2)), tokens(1, 8)
    torch.testing.assert_close(model(token_ids), model(token_ids), rtol=0, atol=0)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = model(token_ids)
        torch.manual_seed(1)
        torch.testing.assert_close(model(token_ids), first, rtol=0, atol=0)
        assert not torch.equal(model(token_ids), first)


def test_dropout_falls_on_embedding_attention_weights_and_both_branches(monkeypatch):
    model, x = lively(tiny(dropout=0.2)).train(), torch.randn(2, 8, 32)
    block, shares = model.blocks[0], []

    def attend(q, *_, dropout_p, **_more):
        shares.append(dropout_p)
        return q

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    for branch in (lambda: block.attention(x, lambda x: x, None, None), lambda: block.mlp(x)):
        assert (branch() == 0).double().mean().item() == pytest.approx(0.2, abs=0.06)
    model.eval()
    block.attention(x, lambda x: x, None, None)
    assert shares == [0.2, 0.0]
    model.train().blocks = torch.nn.ModuleList()
    model.final_norm = torch.nn.Identity()
    assert (model.hidden(tokens(2, 8)) == 0).double().mean().item() == pytest.approx(0.2, abs=0.06)


def test_a_large_preset_costs_no_memory_on_the_meta_device():
    with torch.device("meta"):
        model = GPT(PRESETS["gpt2-xl"])
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_557_611_200


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch's RMSNorm under autocast is not fused
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_and_autocast_stay_near_float32(family):
    config, token_ids = tiny(**FAMILIES[family]), tokens(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 9:] = False
    model = GPT(config).eval()
    half = GPT(config).eval()
    half.load_state_dict(model.state_dict())
    half.bfloat16()
    for given in (None, padded_layout(mask)):
        wanted = model(token_ids, layout=given)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(token_ids, layout=given)
        biases = []
        hook = half.blocks[0].register_forward_pre_hook(lambda _, args: biases.append(args[2]))  # noqa: B023
        answers = (mixed, half(token_ids, layout=given))
        hook.remove()
        # A float32 bias on bfloat16 queries passes on a CPU and nowhere else.
        assert biases[0] is None or biases[0].dtype in (torch.bool, torch.bfloat16)
        for found in answers:
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("family", ["modern", "gpt2", "alibi"])
def test_torch_compile_traces_the_model_as_one_graph(family):
    model, token_ids = lively(tiny(**FAMILIES[family])), tokens(2, 12)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(token_ids), model(token_ids))


def test_importing_the_model_leaves_the_compiler_alone():
    check = "import gptscratch.model.gpt, sys; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_small_batch_is_memorized():
    for family in ("modern", "gpt2"):
        model, token_ids = GPT(tiny(**FAMILIES[family])), tokens(4, 16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss_of(model, token_ids).backward()
            optimizer.step()
        assert loss_of(model, token_ids).item() < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_weights_are_those_the_model_uses(family):
    model, token_ids = lively(tiny(**FAMILIES[family], dropout=0.5)), tokens(2, 12)
    heads = model.config.n_head
    weights = attention_weights(model, token_ids)
    assert [tuple(w.shape) for w in weights] == [(2, heads, 12, 12)] * 2
    for w in weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(2, heads, 12))
        assert w.triu(1).abs().max() == 0
    seen = []
    first = model.blocks[0].attention
    first.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
    model(token_ids)
    v = first.v(seen[0]).unflatten(2, (-1, first.head_dim)).transpose(1, 2)
    mixed = weights[0] @ v.repeat_interleave(heads // v.size(1), dim=1)
    torch.testing.assert_close(first.out(mixed.transpose(1, 2).flatten(2)), seen[1], rtol=1e-4, atol=1e-5)


def test_attention_weights_on_pads_are_zero():
    model, mask = lively(tiny()), torch.tensor([[False, False, True, True, True]])
    for weights in attention_weights(model, tokens(1, 5), layout=padded_layout(mask)):
        assert weights[:, :, 2:, :2].abs().max() == 0
