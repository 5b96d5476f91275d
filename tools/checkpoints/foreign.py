r"""One small matrix as AutoGPTQ, AutoAWQ and compressed-tensors store it, and as they read it back.

    pip install --no-deps --target DIRECTORY auto-gptq==0.7.1 autoawq==0.2.9 compressed-tensors==0.20.0 \
        loguru accelerate
    PYTHONPATH=DIRECTORY python -m tools.checkpoints.foreign tests/checkpoints/foreign.safetensors

The programs are not among the requirements: two of them are no longer maintained. The file that they made is.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OUT, INTO, GROUP = 32, 64, 32


def matrix() -> torch.Tensor:
    """(OUT, INTO), with columns and rows of different sizes."""
    generator = torch.Generator().manual_seed(11)
    sizes = torch.linspace(0.5, 2.0, OUT)[:, None] * torch.linspace(0.7, 1.3, INTO)
    return torch.randn(OUT, INTO, generator=generator) * sizes * 0.05 + 0.01


def module(package: str, path: str) -> Any:
    """A module of a package whose own beginnings import too much."""
    found = importlib.util.find_spec(package)
    assert found is not None, f"{package} is not installed"
    assert found.submodule_search_locations
    file = Path(found.submodule_search_locations[0]) / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def grouped(weight: torch.Tensor, bits: int, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zeros (OUT, groups) that cover every group."""
    scales, zeros = [], []
    for group in range(int(order.max()) + 1):
        part = weight[:, order == group]
        low, high = part.min(dim=1).values.clamp(max=0), part.max(dim=1).values.clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).half().float()
        scales.append(scale)
        zeros.append(torch.round(-low / scale).clamp(0, 2**bits - 1))
    return torch.stack(scales, dim=1), torch.stack(zeros, dim=1)


def gptq(bits: int, act_order: bool) -> dict[str, torch.Tensor]:
    """What AutoGPTQ packs, and what its layer multiplies the unit matrix to."""
    name = "qlinear_cuda" if act_order else "qlinear_cuda_old"
    quant_linear = module("auto_gptq", f"nn_modules/qlinear/{name}.py").QuantLinear
    weight = matrix()
    order = torch.arange(INTO) // GROUP
    if act_order:
        order = order[torch.randperm(INTO, generator=torch.Generator().manual_seed(5))]
    scales, zeros = grouped(weight, bits, order)
    linear = torch.nn.Linear(INTO, OUT, bias=False)
    linear.weight.data = weight
    layer = quant_linear(bits, GROUP, INTO, OUT, bias=False, weight_dtype=torch.float32)
    layer.pack(linear, scales, zeros.clone(), g_idx=order.to(torch.int32))
    layer.scales = layer.scales.float()
    read = layer(torch.eye(INTO)).t().contiguous()
    return {
        "qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales.half(),
        "g_idx": order.to(torch.int32), "read": read,
    }  # fmt: skip


def awq() -> dict[str, torch.Tensor]:
    """What AutoAWQ packs, and what it dequantises."""
    weight = matrix()
    scales, zeros = grouped(weight, 4, torch.arange(INTO) // GROUP)
    linear = torch.nn.Linear(INTO, OUT, bias=False)
    linear.weight.data = weight
    quant_linear = module("awq", "modules/linear/gemm.py").WQLinear_GEMM
    layer = quant_linear.from_linear(linear, 4, GROUP, scales=scales.t().contiguous(), zeros=zeros.t().contiguous())
    packing = module("awq", "utils/packing_utils.py")
    # Its scales have half precision; the products are compared in single.
    read = packing.dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, GROUP)
    return {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales, "read": read.t().contiguous()}


def compressed(form: str, **settings: Any) -> dict[str, torch.Tensor]:
    """What compressed-tensors stores in one of its formats, and what it decompresses."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args = QuantizationArgs(**settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    weight = matrix()
    small = weight.reshape(OUT, -1, args.group_size or 1)
    groups = {"channel": weight, "tensor": weight.reshape(1, -1), "tensor_group": small, "group": small}
    state = {"weight": weight}
    if settings["strategy"] == "block":
        rows, columns = settings["block_structure"]
        blocks = weight.reshape(OUT // rows, rows, INTO // columns, columns).transpose(1, 2).flatten(2)
        low, high = blocks.amin(-1), blocks.amax(-1)
    else:
        low, high = groups[settings["strategy"]].amin(-1), groups[settings["strategy"]].amax(-1)
    extra = {}
    if settings["strategy"] == "tensor_group":
        state["weight_global_scale"] = generate_gparam(weight.min(), weight.max())
        extra = {"global_scale": state["weight_global_scale"]}
    scale, zero = calculate_qparams(low, high, args, **extra)
    state["weight_scale"] = scale.reshape(OUT, -1) if settings["strategy"] in ("channel", "group") else scale
    if not args.symmetric:
        state["weight_zero_point"] = zero.reshape(state["weight_scale"].shape)
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress(state, scheme)
    read = compressor.decompress(stored, scheme)["weight"]
    return {name: value for name, value in stored.items() if value is not None} | {"read": read}


def cases() -> dict[str, dict[str, torch.Tensor]]:
    """Everything, by the name of the case."""
    integers = {"type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
    floats = {"type": "float", "num_bits": 8, "symmetric": True}
    found = {f"gptq-{bits}": gptq(bits, act_order=False) for bits in (2, 3, 4, 8)}
    found["gptq-4-act-order"] = gptq(4, act_order=True)
    found["awq-4"] = awq()
    for bits in (3, 4, 8):
        found[f"packed-{bits}"] = compressed("pack-quantized", num_bits=bits, **integers)
    found["packed-4-zeros"] = compressed("pack-quantized", num_bits=4, **integers | {"symmetric": False})
    rows = {"type": "int", "strategy": "channel"}
    found["packed-4-rows"] = compressed("pack-quantized", num_bits=4, symmetric=True, **rows)
    found["packed-4-small-groups"] = compressed("pack-quantized", num_bits=4, **integers | {"group_size": 16})
    found["int-8-rows"] = compressed("int-quantized", num_bits=8, symmetric=True, **rows)
    found["int-8-zeros"] = compressed("int-quantized", num_bits=8, symmetric=False, **rows)
    found["float-8-rows"] = compressed("float-quantized", strategy="channel", **floats)
    found["float-8-tensor"] = compressed("float-quantized", strategy="tensor", **floats)
    found["float-8-blocks"] = compressed("float-quantized", strategy="block", block_structure=[16, 32], **floats)
    four = {"type": "float", "num_bits": 4, "symmetric": True}
    found["nvfp4"] = compressed("nvfp4-pack-quantized", strategy="tensor_group", group_size=16, **four)
    micro = {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
    found["mxfp4"] = compressed("mxfp4-pack-quantized", **four, **micro)
    found["mxfp8"] = compressed("mxfp8-quantized", **floats, **micro)
    return found


if __name__ == "__main__":
    everything = {f"{case}/{name}": value for case, parts in cases().items() for name, value in parts.items()}
    save_file({name: value.contiguous() for name, value in everything.items()}, sys.argv[1])
