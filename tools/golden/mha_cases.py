"""Multi-head self-attention: PyTorch's own nn.MultiheadAttention in float64, and grouped heads by plain torch operations.

Stored under flash-attn's weight names. PyTorch's names hold the same numbers in the same order, except grouped heads, which
nn.MultiheadAttention does not have: there the rows of Wqkv.weight are all query heads, then all key heads, then all value heads.
"""
import itertools

import numpy as np
import torch

from philox import named_integers, words
from store import as_input, expected

NAMING = {"Wqkv.weight": "in_proj_weight", "Wqkv.bias": "in_proj_bias", "out_proj.weight": "out_proj.weight", "out_proj.bias": "out_proj.bias"}

# The big case is made from a formula on both sides instead of being stored.
BIG_KEY = (0x46413031, 0x9D2C5680)
BIG_SHAPE = {"B": 8, "S": 512, "E": 512}
BIG_TENSORS = [  # (name, stream, shape, factor)
    ("x", 0, (8, 512, 512), 1.0),
    ("Wqkv.weight", 1, (1536, 512), 2.0**-3),
    ("Wqkv.bias", 2, (1536,), 2.0**-2),
    ("out_proj.weight", 3, (512, 512), 2.0**-4),
    ("out_proj.bias", 4, (512,), 2.0**-2),
    ("dout", 5, (8, 512, 512), 1.0),
]
FORMULA = (
    "element n (row-major) of a tensor = (int32(word) >> 23) * 2^-8 * factor, a multiple of 2^-8 in [-1, 1) times the factor; "
    "word = word (n mod 4) of philox4x32 with 7 rounds, counter = (floor(n / 4), stream, 0, 0), key = `key`; >> keeps the sign"
)


def weights_of(name, E, Ekv, bias):
    """Weights small enough that scores stay within a few units: multiples of 2^-9 in [-1/4, 1/4)."""
    shapes = {"Wqkv.weight": (E + 2 * Ekv, E), "Wqkv.bias": (E + 2 * Ekv,), "out_proj.weight": (E, E), "out_proj.bias": (E,)}
    return {key: as_input(named_integers(f"mha/{name}/{key}", shape) * 2.0**-9) for key, shape in shapes.items() if bias or "weight" in key}


def torch_module(weights, x, dout, heads, causal=False):
    """nn.MultiheadAttention(x, x, x). Returns out and the gradient of x and of every parameter, float64."""
    S, E = x.shape[1:]
    module = torch.nn.MultiheadAttention(E, heads, dropout=0.0, bias="Wqkv.bias" in weights, batch_first=True).double()
    state = {NAMING[key]: torch.tensor(np.asarray(w, np.float64)) for key, w in weights.items()}
    module.load_state_dict(state, strict=True)
    x = torch.tensor(np.asarray(x, np.float64), requires_grad=True)
    hidden = torch.triu(torch.ones(S, S, dtype=torch.bool), 1) if causal else None  # true = may not attend
    out, _ = module(x, x, x, need_weights=False, attn_mask=hidden)
    out.backward(torch.tensor(np.asarray(dout, np.float64)))
    grads = {key: dict(module.named_parameters())[NAMING[key]].grad.numpy() for key in weights}
    return {"out": out.detach().numpy(), "dx": x.grad.numpy(), **{f"grad.{key}": g for key, g in grads.items()}}


def plain_module(weights, x, dout, heads, heads_kv, causal=False):
    """The same by plain operations, with grouped heads."""
    B, S, E = x.shape
    D = E // heads
    parts = [heads * D, heads_kv * D, heads_kv * D]
    leaf = {key: torch.tensor(np.asarray(w, np.float64), requires_grad=True) for key, w in {"x": x, **weights}.items()}
    qkv = (leaf["x"] @ leaf["Wqkv.weight"].T + leaf.get("Wqkv.bias", 0)).split(parts, dim=-1)
    q, k, v = (part.reshape(B, S, -1, D).transpose(1, 2) for part in qkv)  # [B, H or Hkv, S, D]
    k, v = (part.repeat_interleave(heads // heads_kv, dim=1) for part in (k, v))
    s = q @ k.transpose(-1, -2) / D**0.5
    if causal:
        s = s + torch.full((S, S), float("-inf"), dtype=s.dtype).triu(1)
    out = (torch.softmax(s, -1) @ v).transpose(1, 2).reshape(B, S, E) @ leaf["out_proj.weight"].T + leaf.get("out_proj.bias", 0)
    result = {"out": out.detach().numpy()}
    if dout is not None:
        out.backward(torch.tensor(np.asarray(dout, np.float64)))
        result["dx"] = leaf["x"].grad.numpy()
        result.update({f"grad.{key}": leaf[key].grad.numpy() for key in weights})
    return result


SMALL = [  # (name, B, S, E, heads, heads_kv, bias, causal, by, about)
    ("module", 2, 17, 48, 4, 4, True, False, "nn.MultiheadAttention", "the weights of the two weight files"),
    ("module_no_bias", 2, 9, 40, 5, 5, False, False, "nn.MultiheadAttention", "no bias in either projection, head dim 8"),
    ("module_causal", 1, 33, 36, 3, 3, True, True, "nn.MultiheadAttention", "causal, head dim 12"),
    ("one_head", 3, 5, 20, 1, 1, True, False, "nn.MultiheadAttention", "one head as wide as the model"),
    ("gqa", 2, 13, 48, 6, 2, True, False, "plain operations", "three query heads share a key head"),
    ("mqa_causal_no_bias", 1, 21, 32, 4, 1, False, True, "plain operations", "one key head, causal, no bias"),
]


def small_problem(row):
    name, B, S, E, heads, heads_kv, bias, *_ = row
    weights = weights_of(name, E, E // heads * heads_kv, bias)
    x, dout = (as_input(named_integers(f"mha/{name}/{key}", (B, S, E)) * 2.0**-6) for key in ("x", "dout"))
    return weights, x, dout


def big_problem():
    made = {}
    for name, stream, shape, factor in BIG_TENSORS:
        integers = words(int(np.prod(shape)), BIG_KEY, stream).astype(np.int32) >> np.int32(23)
        made[name] = as_input(integers.reshape(shape) * (2.0**-8 * factor))
    return {key: made[key] for key in NAMING}, made["x"], made["dout"]


def solve_big():
    """x [8, 512, 512], 8 heads. Kept: a sample of rows, every row sum, both bias gradients."""
    weights, x, dout = big_problem()
    result = torch_module(weights, x, dout, heads=8)
    B, S, E = x.shape
    out_rows = [[b, s] for b in range(B) for s in (0, (37 * b + 101) % 510 + 1, S - 1)]  # 24
    dx_rows = [[b, s] for b in (0, 2, 5, 7) for s in (0, (53 * b + 7) % 510 + 1, S - 1)]  # 12
    wqkv_rows = [part * E + row for part, row in itertools.product(range(3), (0, 63, 64, 511))]
    proj_rows = [0, 1, 100, 255, 256, 511]
    own = {
        "out.rows": np.stack([result["out"][b, s] for b, s in out_rows]),
        "out.sums": result["out"].sum(-1),
        "dx.rows": np.stack([result["dx"][b, s] for b, s in dx_rows]),
        "dx.sums": result["dx"].sum(-1),
        "grad.Wqkv.weight.rows": result["grad.Wqkv.weight"][wqkv_rows],
        "grad.Wqkv.weight.sums": result["grad.Wqkv.weight"].sum(-1),
        "grad.out_proj.weight.rows": result["grad.out_proj.weight"][proj_rows],
        "grad.out_proj.weight.sums": result["grad.out_proj.weight"].sum(-1),
        "grad.Wqkv.bias": result["grad.Wqkv.bias"],
        "grad.out_proj.bias": result["grad.out_proj.bias"],
    }
    generated = []
    for name, stream, shape, factor in BIG_TENSORS:
        made = {**weights, "x": x, "dout": dout}[name].reshape(-1).astype(np.float64)
        generated.append({"name": name, "stream": stream, "shape": list(shape), "factor": factor, "first": made[:6].tolist(), "last": float(made[-1]), "sum": float(made.sum())})
    meta = {
        "name": "big", "capability": "mha", "about": "the issue's case; rows and sums only", "by": "nn.MultiheadAttention",
        "options": {"embedDim": E, "numHeads": 8, "numHeadsKv": 8, "bias": True, "causal": False}, "shape": BIG_SHAPE,
        "generated": {"formula": FORMULA, "key": list(BIG_KEY), "tensors": generated},
        "samples": {"out.rows": out_rows, "dx.rows": dx_rows, "grad.Wqkv.weight.rows": wqkv_rows, "grad.out_proj.weight.rows": proj_rows},
        "tensors": list(own),
    }
    return meta, {f"big/{key}": expected(value) for key, value in own.items()}


def solve(big=True):
    """(json cases, safetensors tensors, weights of the two weight files)"""
    metas, tensors = [], {}
    for row in SMALL:
        name, B, S, E, heads, heads_kv, bias, causal, by, about = row
        weights, x, dout = small_problem(row)
        if by == "nn.MultiheadAttention":
            result = torch_module(weights, x, dout, heads, causal)
        else:
            result = plain_module(weights, x, dout, heads, heads_kv, causal)
        own = {"x": x, **weights, "dout": dout, **{key: expected(value) for key, value in result.items()}}
        metas.append({"name": name, "capability": "mha", "about": about, "by": by,
                      "options": {"embedDim": E, "numHeads": heads, "numHeadsKv": heads_kv, "bias": bias, "causal": causal},
                      "shape": {"B": B, "S": S, "E": E}, "tensors": list(own)})
        tensors.update({f"{name}/{key}": value for key, value in own.items()})
    if big:
        meta, own = solve_big()
        metas.append(meta)
        tensors.update(own)
    flash = {key: np.asarray(value).astype(np.float16) for key, value in small_problem(SMALL[0])[0].items()}
    pytorch = {NAMING[key]: value.astype(np.float32) for key, value in flash.items()}
    return metas, tensors, flash, pytorch
