"""Known answers for Philox and the dropout mask, and the linear operation."""
import numpy as np
import torch

from philox import keep_mask, named_integers, philox4x32
from store import as_input, expected

ONES, PI = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)


def solve_philox():
    """Answers go in the json itself; keep masks (BOOL [B, H, Sq, Skv], true = kept) in the safetensors."""
    draws = named_integers("philox/random", (20, 6), 32) & ONES
    points = [((0, 0, 0, 0), (0, 0)), ((ONES,) * 4, (ONES,) * 2), (PI[:4], PI[4:])]
    problems = [(*point, rounds) for rounds in (7, 10) for point in points]
    problems += [(row[:4], row[4:], 7) for row in draws.tolist()]
    answers = [{"rounds": rounds, "counter": list(counter), "key": list(key), "words": philox4x32(counter, key, rounds).tolist()} for counter, key, rounds in problems]

    metas, tensors = [], {}
    for name, shape, dropout in [
        ("half", (2, 3, 5, 17), {"p": 0.5, "seed": 1}),
        ("few_dropped", (1, 2, 9, 64), {"p": 0.01, "seed": 2024}),
        ("few_kept", (1, 2, 9, 31), {"p": 0.97, "seed": 2024, "offset": 1}),
        ("one_key", (3, 2, 4, 1), {"p": 0.4, "seed": 2**32 + 5, "offset": ONES}),
        ("seed_as_string", (1, 4, 6, 23), {"p": 0.3, "seed": str(2**64 - 2), "offset": 9}),
        ("smallest_p", (1, 1, 64, 128), {"p": 2.0**-16, "seed": 6}),
        ("below_smallest_p", (1, 1, 8, 16), {"p": 2.0**-18, "seed": 6}),
        ("everything", (1, 1, 8, 16), {"p": 1, "seed": 6}),
        ("nothing", (1, 1, 8, 16), {"p": 0, "seed": 6}),
    ]:
        keep = keep_mask(*shape, **dropout)
        tensors[f"{name}/keep"] = keep
        metas.append({"name": name, "capability": "dropout", "shape": dict(zip(("B", "H", "Sq", "Skv"), shape)), "dropout": dropout, "kept": int(keep.sum()), "tensors": ["keep"]})
    return answers, metas, tensors


def solve_linear():
    """y = x weight^T + bias. x [..., K], weight [N, K], bias [N]; `splits` cuts the N columns of y into contiguous outputs, in order."""
    metas, tensors = [], {}
    for name, rows, K, N, bias, splits, about in [
        ("scalar", (1,), 1, 1, True, [1], "one number of each"),
        ("odd", (5,), 7, 3, False, [3], "no bias, nothing a multiple of anything"),
        ("one_row", (1,), 65, 67, True, [67], "a vector times a matrix"),
        ("tall", (131,), 5, 9, True, [9], "many rows, short dot products"),
        ("long_dot", (3,), 515, 9, True, [9], "a long dot product with a tail"),
        ("fused_qkv", (2, 9), 24, 72, True, [24, 24, 24], "q, k, v of equal width"),
        ("fused_qkv_gqa", (3, 7), 40, 80, True, [40, 20, 20], "grouped heads: k and v narrower than q"),
        ("uneven_split", (2, 3, 5), 33, 31, False, [1, 23, 7], "odd splits of an odd width, three leading axes"),
    ]:
        assert sum(splits) == N
        shapes = {"x": (*rows, K), "weight": (N, K), **({"bias": (N,)} if bias else {}), "dy": (*rows, N)}
        inputs = {key: as_input(named_integers(f"linear/{name}/{key}", shape) * 2.0**-6) for key, shape in shapes.items()}
        leaf = {key: torch.tensor(np.asarray(x, np.float64), requires_grad=True) for key, x in inputs.items() if key != "dy"}
        y = leaf["x"] @ leaf["weight"].T + leaf.get("bias", 0)
        y.backward(torch.tensor(np.asarray(inputs["dy"], np.float64)))
        own = {**inputs, "y": expected(y.detach().numpy()), **{f"d{key}": expected(x.grad.numpy()) for key, x in leaf.items()}}
        metas.append({"name": name, "capability": "linear", "about": about, "options": {"bias": bias, "splits": splits}, "shape": {"rows": list(rows), "K": K, "N": N}, "tensors": list(own)})
        tensors.update({f"{name}/{key}": x for key, x in own.items()})
    return metas, tensors
