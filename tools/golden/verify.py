"""--verify: is the definition right, are the committed files its answers, and can float32 reach them?

Each check compares with something that shares no code with `definition.attention`: published Philox vectors, PyTorch's oracle
cases, PyTorch's scaled_dot_product_attention, a scalar loop written from the contract's text, and a tiled float32 implementation.
"""
import json
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

import attention_cases
import mha_cases
import other_cases
from definition import attention, scores, to_bhsd, visibility
from philox import keep_mask, philox4x32
from store import read_safetensors

EXPECTED = ["out", "lse", "dq", "dk", "dv", "dbias", "dsinks"]


class Report:
    def __init__(self):
        self.failures = 0

    def __call__(self, ok, text):
        self.failures += not ok
        print(("ok    " if ok else "FAIL  ") + text, flush=True)


def difference(got, want):
    """Largest error relative to max(1, |want|); Infinity where NaN or Infinity disagree."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return math.inf
    fine = np.isfinite(want)
    if not np.array_equal(got[~fine], want[~fine], equal_nan=True) or not np.isfinite(got[fine]).all():
        return math.inf
    got, want = got[fine], want[fine]
    return float((np.abs(got - want) / np.maximum(1, np.abs(want))).max(initial=0))


def load_cases(folder, part="attention"):
    """Yields (case, its inputs, its expected values)."""
    with open(os.path.join(folder, f"{part}.json")) as file:
        meta = json.load(file)
    tensors = read_safetensors(os.path.join(folder, f"{part}.safetensors"))
    for case in meta["cases"]:
        own = {name: tensors[f"{case['name']}/{name}"] for name in case["tensors"]}
        yield case, {n: x for n, x in own.items() if n not in EXPECTED}, {n: x for n, x in own.items() if n in EXPECTED}


# ---- 1. Philox ----
def check_philox(report):
    ones, pi = other_cases.ONES, other_cases.PI
    for rounds, counter, key, want in [  # the contract's two and Random123's own kat_vectors
        (7, (0,) * 4, (0, 0), "5f6fb709 0d893f64 4f121f81 4f730a48"),
        (10, (0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (7, (ones,) * 4, (ones, ones), "5207ddc2 45165e59 4d8ee751 8c52f662"),
        (10, (ones,) * 4, (ones, ones), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (7, pi[:4], pi[4:], "4dfccaba 190a87f0 c47362ba b6b5242a"),
        (10, pi[:4], pi[4:], "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]:
        got = " ".join(f"{word:08x}" for word in philox4x32(counter, key, rounds))
        report(got == want, f"philox, {rounds} rounds: {got}")


# ---- 2. PyTorch's oracle cases ----
def check_oracle(report, folder):
    if not os.path.exists(os.path.join(folder, "attention.json")):
        print(f"skip  oracle: nothing at {folder}")
        return
    worst, count = 0, 0
    for case, inputs, want in load_cases(folder):
        got = attention(inputs, case["options"])
        for name in want:
            one = difference(got[name], want[name])
            worst, count = max(worst, one), count + 1
            if one > 1e-7:
                report(False, f"oracle {case['name']}/{name}: {one:.1e}")
    report(worst <= 1e-7, f"oracle: {count} tensors agree, worst {worst:.1e} (float32 rounding is 6e-8)")


# ---- 3. scaled_dot_product_attention ----
def sdpa(q, k, v, mask, scale):
    """Public from PyTorch 2.0 on; the private one of 1.13 is the same. Takes its default scale, so ours goes into q."""
    q = q * (scale * math.sqrt(q.shape[-1]))
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F._scaled_dot_product_attention(q, k, v, attn_mask=mask)[0]


def check_sdpa(report, folder):
    worst, forward, gradients = 0, 0, 0
    for case, inputs, want in load_cases(folder):
        options = case["options"]
        if options.get("softcap") or "sinks" in inputs or options.get("dropout") or case["capability"] == "nan":
            continue
        layout = options.get("layout", "bhsd")
        leaf = {n: torch.tensor(np.asarray(inputs[n], np.float64), requires_grad=True) for n in ("q", "k", "v", "bias") if n in inputs}
        q, k, v = (to_bhsd(leaf[n], layout) for n in ("q", "k", "v"))
        (B, H, Sq, D), Skv = q.shape, k.shape[2]
        k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))
        see = torch.from_numpy(visibility(B, H, Sq, Skv, options, inputs.get("mask")))
        slopes = torch.tensor(np.asarray(inputs["alibiSlopes"], np.float64)) if "alibiSlopes" in inputs else None
        added = scores(torch.zeros_like(q), torch.zeros_like(k), {}, leaf.get("bias"), slopes)
        added = torch.where(see, added, torch.tensor(-math.inf, dtype=added.dtype))
        alive = (added.detach() > -math.inf).any(-1)  # empty rows are NaN or 0 there, depending on the version
        out = sdpa(q, k, v, added, options.get("scale", 1 / math.sqrt(D)))
        ours = to_bhsd(torch.from_numpy(np.array(want["out"], np.float64)), layout)
        worst = max(worst, difference(out.detach()[alive].numpy(), ours[alive].numpy()))
        forward += 1
        if alive.all() and "dq" in want:
            out.backward(to_bhsd(torch.tensor(np.asarray(inputs["dout"], np.float64)), layout))
            worst = max([worst] + [difference(x.grad.numpy(), want["d" + n]) for n, x in leaf.items()])
            gradients += 1
    report(worst <= 1e-7, f"scaled_dot_product_attention: {forward} cases forward, {gradients} of them backward, worst {worst:.1e}")


# ---- 4. the contract's text, one score at a time ----
def scalar_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(7):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def scalar_attention(inputs, o, shape):
    """out [B, H, Sq, Dv] and lse [B, H, Sq], by loops."""
    B, H, Hkv, Sq, Skv, D, Dv = (shape[n] for n in ("B", "H", "Hkv", "Sq", "Skv", "D", "Dv"))
    bshd = o.get("layout") == "bshd"

    def row(name, b, h, s):
        x = inputs[name]
        return np.asarray(x[b, s] if shape["rank"] == 3 else x[b, s, h] if bshd else x[b, h, s], np.float64)

    def broadcast(name, b, h, i, j):
        x = inputs[name]
        return x[tuple(at if size > 1 else 0 for at, size in zip((b, h, i, j), x.shape))]

    drop = o.get("dropout") or {"p": 0, "seed": 0}
    seed = int(drop["seed"])
    out, lse = np.zeros((B, H, Sq, Dv)), np.full((B, H, Sq), -math.inf)
    for b in range(B):
        for h in range(H):
            kv = h // (H // Hkv)
            keys, vals = [row("k", b, kv, j) for j in range(Skv)], [row("v", b, kv, j) for j in range(Skv)]
            for i in range(Sq):
                at = i + Skv - Sq
                query, seen = row("q", b, h, i), []
                for j in range(Skv):
                    if o.get("causal") in (True, "bottom-right") and j > at or o.get("causal") == "top-left" and j > i:
                        continue
                    left, right = o.get("window", [-1, -1])
                    if left != -1 and j < at - left or right != -1 and j > at + right:
                        continue
                    if "mask" in inputs and not broadcast("mask", b, h, i, j):
                        continue
                    s = o.get("scale", 1 / math.sqrt(D)) * float(query @ keys[j])
                    if o.get("softcap"):
                        s = o["softcap"] * math.tanh(s / o["softcap"])
                    if "bias" in inputs:
                        s += float(broadcast("bias", b, h, i, j))
                    if "alibiSlopes" in inputs:
                        slopes = inputs["alibiSlopes"]
                        s -= float(slopes[h] if slopes.ndim == 1 else slopes[b, h]) * abs(at - j)
                    seen.append((j, s))
                logits = [s for _, s in seen] + ([float(inputs["sinks"][h])] if "sinks" in inputs else [])
                if not logits or max(logits) == -math.inf:
                    continue
                if any(math.isnan(s) for s in logits):
                    out[b, h, i], lse[b, h, i] = math.nan, math.nan
                    continue
                top = max(logits)
                lse[b, h, i] = top + math.log(math.fsum(math.exp(s - top) for s in logits))
                for j, s in seen:
                    word = scalar_philox((j // 8, i, b * H + h, drop.get("offset", 0)), (seed % 2**32, seed // 2**32))[j % 8 >> 1] if drop["p"] else 0
                    draw = word >> 16 if j % 2 else word & 0xFFFF
                    if draw >= math.floor(drop["p"] * 65536 + 0.5):
                        out[b, h, i] += math.exp(s - lse[b, h, i]) / (1 - drop["p"]) * vals[j]
    return out, lse


def check_scalar(report, folder):
    worst, count = 0, 0
    for case, inputs, want in load_cases(folder):
        out, lse = scalar_attention(inputs, case["options"], case["shape"])
        ours = to_bhsd(torch.from_numpy(np.array(want["out"])), case["options"].get("layout")).numpy()
        one = max(difference(out, ours), difference(lse, want["lse"]))
        worst, count = max(worst, one), count + 1
        if one > 1e-7:
            report(False, f"scalar loop {case['name']}: {one:.1e}")
    report(worst <= 1e-7, f"scalar loop: out and lse of {count} cases agree, worst {worst:.1e}")


# ---- 5. can float32 reach it? The contract's section 6, tile by tile, and its usual backward pass ----
def float32_tiled(inputs, options, backward, Bc=16):
    f32 = np.float32
    layout, rank = options.get("layout", "bhsd"), inputs["q"].ndim

    def load(name):
        x = np.where(np.isfinite(inputs[name]), inputs[name], 0).astype(f32)
        return to_bhsd(torch.from_numpy(x), layout).numpy()

    q, k, v = load("q"), load("k"), load("v")
    (B, H, Sq, D), (_, Hkv, Skv, _) = q.shape, k.shape
    k, v = (np.repeat(x, H // Hkv, axis=1) for x in (k, v))
    see = visibility(B, H, Sq, Skv, options, inputs.get("mask"))
    scale, cap = f32(options.get("scale", 1 / math.sqrt(D))), f32(options.get("softcap", 0))
    added = np.zeros((B, H, Sq, Skv), f32)
    if "bias" in inputs:
        added = added + np.asarray(inputs["bias"])
    if "alibiSlopes" in inputs:
        distance = np.abs(np.arange(Sq)[:, None] + Skv - Sq - np.arange(Skv)).astype(f32)
        added = added - np.asarray(inputs["alibiSlopes"]).reshape(-1, H, 1, 1) * distance
    drop = options.get("dropout")
    factor = np.ones((B, H, Sq, Skv), f32)
    if drop and drop["p"] > 0:
        factor = keep_mask(B, H, Sq, Skv, **drop) * f32(1 / (1 - drop["p"]) if drop["p"] < 1 else 0)

    def tile(at):
        raw = (q @ k[:, :, at].swapaxes(-1, -2)) * scale
        s = cap * np.tanh(raw / cap) if cap else raw
        slope = 1 - np.tanh(raw / cap) ** 2 if cap else f32(1)
        return np.where(see[..., at], s + added[..., at], f32(-np.inf)), slope

    sinks = np.asarray(inputs["sinks"]).reshape(1, H, 1, 1) if "sinks" in inputs else None
    m = np.full((B, H, Sq, 1), -np.inf, f32) if sinks is None else np.broadcast_to(sinks, (B, H, Sq, 1)).astype(f32)
    l, acc = np.where(m > -np.inf, f32(1), f32(0)), np.zeros((B, H, Sq, v.shape[-1]), f32)
    tiles = [slice(at, min(at + Bc, Skv)) for at in range(0, Skv, Bc)]
    for at in tiles:
        s, _ = tile(at)
        higher = np.maximum(m, s.max(-1, keepdims=True))
        base = np.where(higher == -np.inf, f32(0), higher)
        alpha, p = np.exp(m - base), np.exp(s - base)
        l, acc, m = alpha * l + p.sum(-1, keepdims=True), alpha * acc + (p * factor[..., at]) @ v[:, :, at], higher
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(l > 0, acc / l, f32(0))
        lse = np.where(l > 0, m + np.log(l), f32(-np.inf))
    result = {"out": out, "lse": lse[..., 0]}
    if backward:
        dout = load("dout")
        delta = (dout * out).sum(-1, keepdims=True)
        base = np.where(lse == -np.inf, f32(0), lse)
        dq, dk, dv, ds = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros((B, H, Sq, Skv), f32)
        for at in tiles:
            s, slope = tile(at)
            p = np.exp(s - base)
            dv[:, :, at] = (p * factor[..., at]).swapaxes(-1, -2) @ dout
            ds[..., at] = p * ((dout @ v[:, :, at].swapaxes(-1, -2)) * factor[..., at] - delta)
            inner = ds[..., at] * slope * scale
            dq += inner @ k[:, :, at]
            dk[:, :, at] = inner.swapaxes(-1, -2) @ q
        grouped = lambda x: x.reshape(B, Hkv, H // Hkv, Skv, -1).sum(2)
        result.update(dq=dq, dk=grouped(dk), dv=grouped(dv))
        if "bias" in inputs:
            axes = tuple(n for n, size in enumerate(inputs["bias"].shape) if size == 1)
            result["dbias"] = ds.sum(axes, keepdims=True, dtype=f32)
        if sinks is not None:
            with np.errstate(invalid="ignore"):
                result["dsinks"] = -np.where(sinks > -np.inf, np.exp(sinks - lse), f32(0)) * delta
            result["dsinks"] = result["dsinks"].sum((0, 2, 3))
    for name in result:
        if name in ("out", "dq", "dk", "dv"):
            x = result[name]
            result[name] = x[:, 0] if rank == 3 else x.swapaxes(1, 2) if layout == "bshd" else x
    return result


def check_float32(report, folder):
    """The strict gate is testing.md's (1e-5 relative + 1e-6 absolute); the other adds 1e-6 (gradients 4e-6) of the tensor's largest value."""
    strict, loose, nmse = {}, 0, 0
    for case, inputs, want in load_cases(folder):
        if any(np.isnan(x).any() for x in want.values()):
            continue
        got = float32_tiled(inputs, case["options"], case["backward"])
        for name in want:
            w, g = np.asarray(want[name], np.float64), np.asarray(got[name], np.float64)
            fine = np.isfinite(w)
            if g.shape != w.shape or not np.array_equal(w[~fine], g[~fine]):
                report(False, f"float32 {case['name']}/{name}: shape or Infinity differs")
                continue
            error, size = np.abs(g[fine] - w[fine]), np.abs(w[fine])
            top = size.max(initial=0)
            gate = 1e-5 * size + 1e-6
            ratio = (error / gate).max(initial=0)
            if ratio > 0.5:
                strict[f"{case['name']}/{name}"] = ratio
            ratio = (error / (gate + (1e-6 if name in ("out", "lse") else 4e-6) * top)).max(initial=0)
            loose = max(loose, ratio)
            if top > 1e-6:
                nmse = max(nmse, (error**2).sum() / (size**2).sum())
            if ratio > 1:
                report(False, f"float32 {case['name']}/{name}: {ratio:.1f} times the tolerance")
    report(loose <= 1, f"float32, tiled by 16: every case within {loose:.2f} of the tolerance, normalised mean square error at most {nmse:.0e}")
    if strict:
        print("note  float32 uses more than half of the strict gate in: " + ", ".join(f"{name} {ratio:.1f}x" for name, ratio in strict.items()))


# ---- 6. linear, by its formulas in numpy ----
def check_linear(report, folder):
    tensors = read_safetensors(os.path.join(folder, "linear.safetensors"))
    t = {name: np.asarray(x, np.float64) for name, x in tensors.items()}
    worst, names = 0, sorted({name.split("/")[0] for name in t})
    for name in names:
        x, w, dy = t[f"{name}/x"], t[f"{name}/weight"], t[f"{name}/dy"]
        rows = lambda a: a.reshape(-1, a.shape[-1])
        worst = max(worst, difference(np.einsum("...k,nk->...n", x, w) + t.get(f"{name}/bias", 0), t[f"{name}/y"]), difference(np.einsum("...n,nk->...k", dy, w), t[f"{name}/dx"]),
                    difference(np.einsum("mn,mk->nk", rows(dy), rows(x)), t[f"{name}/dweight"]))
        if f"{name}/bias" in t:
            worst = max(worst, difference(rows(dy).sum(0), t[f"{name}/dbias"]))
    report(worst <= 1e-7, f"linear: {len(names)} cases agree with numpy, worst {worst:.1e}")


# ---- 7. multi-head attention: the module against plain operations ----
def check_mha(report, folder):
    worst = 0
    for row in mha_cases.SMALL:
        name, B, S, E, heads, heads_kv, bias, causal, by, _ = row
        if by == "nn.MultiheadAttention":
            weights, x, dout = mha_cases.small_problem(row)
            a, b = mha_cases.torch_module(weights, x, dout, heads, causal), mha_cases.plain_module(weights, x, dout, heads, heads, causal)
            worst = max([worst] + [difference(a[key], b[key]) for key in a])
    report(worst <= 1e-12, f"mha: nn.MultiheadAttention equals plain operations, worst {worst:.1e}")

    # Grouped heads: the module itself with every key and value head written out once a query head; its gradients summed over the group.
    worst = 0
    for row in mha_cases.SMALL:
        name, B, S, E, heads, heads_kv, bias, causal, *_ = row
        if heads_kv < heads:
            weights, x, dout = mha_cases.small_problem(row)
            D, group = E // heads, heads // heads_kv
            source = np.concatenate([np.arange(E)] + [E + part * heads_kv * D + (h // group) * D + np.arange(D) for part in range(2) for h in range(heads)])
            wide = {key: w[source] if key.startswith("Wqkv") else w for key, w in weights.items()}
            a, b = mha_cases.plain_module(weights, x, dout, heads, heads_kv, causal), mha_cases.torch_module(wide, x, dout, heads, causal)
            for key in a:
                if key.startswith("grad.Wqkv"):
                    summed = np.zeros_like(a[key])
                    np.add.at(summed, source, b[key])
                    b[key] = summed
                worst = max(worst, difference(a[key], b[key]))
    report(worst <= 1e-12, f"mha: grouped heads equal nn.MultiheadAttention with repeated weights, worst {worst:.1e}")

    with open(os.path.join(folder, "mha.json")) as file:
        big = next(case for case in json.load(file)["cases"] if case["name"] == "big")
    tensors = read_safetensors(os.path.join(folder, "mha.safetensors"))
    weights, x, _ = mha_cases.big_problem()
    batch = 3
    out = mha_cases.plain_module(weights, x[batch : batch + 1], None, 8, 8)["out"][0]
    worst = difference(out.sum(-1), tensors["big/out.sums"][batch])
    for (b, s), stored in zip(big["samples"]["out.rows"], tensors["big/out.rows"]):
        if b == batch:
            worst = max(worst, difference(out[s], stored))
    report(worst <= 1e-7, f"mha big: batch {batch} by plain operations agrees with the sample, worst {worst:.1e}")
    for entry in big["generated"]["tensors"]:  # the formula once more, one element at a time
        size, key = math.prod(entry["shape"]), big["generated"]["key"]
        for n, stored in [*enumerate(entry["first"]), (size - 1, entry["last"])]:
            word = philox4x32((n // 4, entry["stream"], 0, 0), key)[n % 4].view(np.int32)
            report.failures += (int(word) >> 23) / 256 * entry["factor"] != stored
    flash = read_safetensors(os.path.join(folder, "mha-flash-attn.safetensors"))
    pytorch = read_safetensors(os.path.join(folder, "mha-pytorch.safetensors"))
    same = all(np.array_equal(flash[a].astype(np.float32), pytorch[b]) and np.array_equal(pytorch[b], np.asarray(tensors[f"module/{a}"])) for a, b in mha_cases.NAMING.items())
    report(same and len(flash) == len(pytorch) == 4, "mha: both weight files hold the weights of case `module`")


# ---- 8. the committed files are what this machine makes ----
def check_files(report, folder):
    made = {
        "attention": attention_cases.solve(),
        "linear": other_cases.solve_linear(),
        "philox": other_cases.solve_philox()[1:],
        "mha": mha_cases.solve(big=False)[:2],
    }
    for part, (cases, tensors) in made.items():
        with open(os.path.join(folder, f"{part}.json")) as file:
            meta = json.load(file)
        stored = read_safetensors(os.path.join(folder, f"{part}.safetensors"))
        listed = [case for case in meta["cases"] if case["name"] != "big"]
        same = json.loads(json.dumps(cases)) == listed and {n for n in stored if not n.startswith("big/")} == set(tensors)
        worst = 0
        for name, x in tensors.items():
            if x.dtype == bool or type(x) is not np.ndarray:  # masks and inputs: to the bit
                same &= np.array_equal(np.asarray(x), np.asarray(stored[name]), equal_nan=x.dtype != bool)
            else:
                worst = max(worst, difference(x, stored[name]))
        if part == "philox":
            same &= other_cases.solve_philox()[0] == meta["answers"]
        report(same and worst <= 1.2e-7, f"{part}: committed inputs are the same bits, {len(tensors)} tensors, expected values worst {worst:.1e}; made by torch {meta['torch']}, here {torch.__version__}")


def run(folder, oracle):
    report = Report()
    check_philox(report)
    check_oracle(report, oracle)
    check_sdpa(report, folder)
    check_scalar(report, folder)
    check_float32(report, folder)
    check_linear(report, folder)
    check_mha(report, folder)
    check_files(report, folder)
    print("verified" if not report.failures else f"{report.failures} failures")
    return 1 if report.failures else 0
