"""Smaller weights for a finished model: each linear layer is replaced from outside, in place.

Only what is read for every token shrinks; embeddings, norms and the arithmetic between stay as they are.
docs/decisions/decoding-kernels.md lists the kernels that were compared.

Shapes: B rows, N outputs, K inputs, G groups of a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.accelerate.weight_packing import join, replace
from gptscratch.errors import ConfigError

_GROUP = 32  # weights that share a scale and an offset in int4
_TILE = 16  # int4 packs this many outputs together
_FEW = 2_000_000  # weights of linear layers: fewer stay in a processor's cache, where reading them is cheap


def quantize(model: nn.Module, how: str) -> None:
    """Replace the linear layers of a model on a CPU; ``how`` is a name in ``QUANTIZERS``.

    Raises:
        ConfigError: the name is unknown, the model is elsewhere, or this torch has no such kernel.
    """
    if how not in QUANTIZERS:
        raise ConfigError(f"quantize is {how!r}: it must be one of {', '.join(QUANTIZERS)}.")
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        raise ConfigError("Quantized weights are for a CPU.", "Choose the device cpu, or do not quantize.")
    join(model)
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
        # The last matrix turns small errors into other tokens: never below eight bits.
        own = "int8" if how == "int4" and name.startswith("lm_head") else how
        try:
            replace(model, name, quantized(layer, own))
        except (AttributeError, RuntimeError) as error:  # of fbgemm, or an operator that torch has dropped
            raise ConfigError(
                f"This build of PyTorch has no {how} kernels for this processor ({error}).",
                "Leave --quantize out.",
            ) from None


def slower_notice(model: nn.Module, how: str, *, reads_text: bool) -> str | None:
    """A note for the user if quantization makes this model slower.

    ``reads_text``: many tokens at once, as for a score; else one after the other.
    """
    if reads_text:
        return f"{how} weights make scoring slower, not faster." if how == "int4" else None
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return f"{how} weights make a model this small slower, not faster." if weights < _FEW else None


def quantized(layer: nn.Linear, how: str) -> nn.Module:
    """A layer with smaller weights."""
    bias = None if layer.bias is None else layer.bias.detach().float()
    return QuantizedLinear(QUANTIZERS[how](layer.weight.detach().float(), bias))


class QuantizedLinear(nn.Module):
    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x).to(x.dtype)  # (..., K) -> (..., N)


def _float16(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Weights of 16 bits, products and sums of 32 (fbgemm)."""
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    return lambda x: torch.ops.quantized.linear_dynamic_fp16(x.float(), packed)


def _int8(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """int8 weights with a scale per output; inputs are rounded to 8 bits as they come (fbgemm, qnnpack)."""
    scales = weight.abs().amax(1).clamp(min=1e-8) / 127  # (N,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch means to drop quantized tensors
        zeros = torch.zeros(len(scales), dtype=torch.long)
        whole = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(whole, bias)
    # Without VNNI the sums of two products are of 16 bits: 8 by 8 bits would saturate them.
    narrow = not getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return lambda x: torch.ops.quantized.linear_dynamic(x.float(), packed, narrow)


def _int4(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """int4 weights, a bfloat16 scale and offset for each 32 of them; products in bfloat16."""
    n_out, n_in = weight.shape
    if n_in % _GROUP:
        return _int8(weight, bias)
    padded = F.pad(weight, (0, 0, 0, -n_out % _TILE))
    groups = padded.view(-1, n_in // _GROUP, _GROUP)  # (N, G, 32)
    low, high = groups.amin(-1), groups.amax(-1)  # (N, G)
    scale = ((high - low) / 15).clamp(min=1e-8).bfloat16().float()
    middle = (low + 8 * scale).bfloat16().float()  # the kernel reads (q - 8) scale + middle
    whole = ((groups - middle[..., None]) / scale[..., None]).round().add(8).clamp(0, 15)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole.flatten(1).int(), 1)
    scales = torch.stack((scale.T, middle.T), dim=-1).bfloat16().contiguous()  # (G, N, 2)

    def product(x: Tensor) -> Tensor:
        rows = x.reshape(-1, n_in).bfloat16().contiguous()  # (B, K)
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, _GROUP, scales)
        y = y[:, :n_out].to(x.dtype).view(*x.shape[:-1], n_out)
        return y if bias is None else y + bias

    return product


QUANTIZERS: Mapping[str, Callable[[Tensor, Tensor | None], Callable[[Tensor], Tensor]]] = MappingProxyType(
    {"float16": _float16, "int8": _int8, "int4": _int4}
)  # from the float32 weight (N, K) and bias of a layer to its product
