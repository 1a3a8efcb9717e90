"""Attention by its definition, in float64, differentiated by torch autograd. No tiling, no online softmax, no tricks.

Names as in the glossary: B batch, H query heads, Hkv key/value heads, Sq and Skv lengths, D and Dv head dims.
"""
import math

import numpy as np
import torch

from philox import keep_mask

GRADIENTS = {"q": "dq", "k": "dk", "v": "dv", "bias": "dbias", "sinks": "dsinks"}


def to_bhsd(x, layout):
    """[B, S, D] (one head), [B, S, H, D] or [B, H, S, D] to [B, H, S, D]."""
    if x.ndim == 3:
        return x.unsqueeze(1)
    return x.transpose(1, 2) if layout == "bshd" else x


def from_bhsd(x, rank, layout):
    if rank == 3:
        return x.squeeze(1)
    return x.transpose(1, 2) if layout == "bshd" else x


def visibility(B, H, Sq, Skv, options, mask=None):
    """Which key each row sees: causal, window and mask together. bool [B, H, Sq, Skv]."""
    i, j = np.arange(Sq)[:, None], np.arange(Skv)[None, :]
    aligned = i + Skv - Sq  # i' of the contract
    see = np.ones((Sq, Skv), bool)
    causal = options.get("causal", False)
    if causal in (True, "bottom-right"):
        see &= j <= aligned
    elif causal == "top-left":
        see &= j <= i
    left, right = options.get("window", (-1, -1))
    if left >= 0:
        see &= j >= aligned - left
    if right >= 0:
        see &= j <= aligned + right
    see = np.broadcast_to(see, (B, H, Sq, Skv)).copy()
    return see if mask is None else see & np.broadcast_to(np.asarray(mask), see.shape)


def scores(q, k, options, bias=None, slopes=None):
    """The score program up to visibility: scale, softcap, bias, ALiBi. q [B,H,Sq,D], k [B,H,Skv,D] to [B,H,Sq,Skv]."""
    B, H, Sq, D = q.shape
    Skv = k.shape[2]
    s = (q @ k.transpose(-1, -2)) * options.get("scale", 1 / math.sqrt(D))
    if options.get("softcap"):
        s = options["softcap"] * torch.tanh(s / options["softcap"])
    if bias is not None:
        s = s + bias
    if slopes is not None:
        i, j = torch.arange(Sq)[:, None], torch.arange(Skv)[None, :]
        distance = (i + Skv - Sq - j).abs().to(s.dtype)
        s = s - slopes.reshape(-1, H, 1, 1) * distance
    return s


def attention(inputs, options, backward=True):
    """inputs: name -> numpy array (q k v, optional bias alibiSlopes mask sinks, and dout when backward). Returns name -> float64.

    Keys and values that are not finite are legal where no row sees them, and count for nothing there. Where a row does
    see one, that row is NaN (contract, section 4); gradients of such problems are not defined here.
    """
    layout, rank = options.get("layout", "bhsd"), inputs["q"].ndim
    leaf = {}
    for name, array in inputs.items():
        if name in GRADIENTS:
            clean = np.asarray(array, np.float64)
            if name in ("q", "k", "v"):
                clean = np.where(np.isfinite(clean), clean, 0)
            leaf[name] = torch.tensor(clean, requires_grad=backward)
    q, k, v = (to_bhsd(leaf[name], layout) for name in ("q", "k", "v"))
    (B, H, Sq, _), (_, Hkv, Skv, _) = q.shape, k.shape
    assert H % Hkv == 0
    k, v = (x.repeat_interleave(H // Hkv, dim=1) for x in (k, v))  # query head h reads key head floor(h / (H / Hkv))

    slopes = inputs.get("alibiSlopes")
    if slopes is not None:
        slopes = torch.tensor(np.asarray(slopes, np.float64))
    see = visibility(B, H, Sq, Skv, options, inputs.get("mask"))
    s = scores(q, k, options, leaf.get("bias"), slopes)
    s = torch.where(torch.from_numpy(see), s, torch.tensor(-math.inf, dtype=s.dtype))  # [B, H, Sq, Skv]

    # softmax, with the sink as one more logit that has no value row
    m = s.detach().amax(-1, keepdim=True)  # [B, H, Sq, 1]
    sink = leaf["sinks"].reshape(1, H, 1, 1) if "sinks" in leaf else None
    if sink is not None:
        m = torch.maximum(m, sink.detach())
    m = torch.where(m == -math.inf, torch.zeros_like(m), m)
    e = torch.exp(s - m)
    l = e.sum(-1, keepdim=True)
    if sink is not None:
        l = l + torch.exp(sink - m)
    empty = l == 0
    p = e / torch.where(empty, torch.ones_like(l), l)
    lse = torch.where(empty, torch.tensor(-math.inf, dtype=l.dtype), m + torch.log(torch.where(empty, torch.ones_like(l), l)))

    dropout = options.get("dropout")
    if dropout and dropout["p"] > 0:
        keep = keep_mask(B, H, Sq, Skv, **dropout)
        p = p * torch.from_numpy(keep) * (1 / (1 - dropout["p"]) if dropout["p"] < 1 else 0)
    out = from_bhsd(p @ v, rank, layout)

    result = {"out": out.detach().numpy().copy(), "lse": lse.detach().squeeze(-1).numpy().copy()}
    if backward:
        out.backward(torch.tensor(np.asarray(inputs["dout"], np.float64)))
        result.update({GRADIENTS[name]: x.grad.numpy() for name, x in leaf.items()})
    spoil(result, inputs, see, rank, layout, backward)
    return result


def spoil(result, inputs, see, rank, layout, backward):
    """Writes NaN into the rows that see a key, a value or a query that is not finite."""
    H = see.shape[1]
    rotten = {}
    for name in ("q", "k", "v"):
        x = to_bhsd(torch.from_numpy(np.array(inputs[name], np.float64)), layout).numpy()
        x = np.repeat(x, H // x.shape[1], axis=1)
        rotten[name] = ~np.isfinite(x).all(-1)  # [B, H, S]
    by_score = (see & rotten["k"][:, :, None, :]).any(-1) | (rotten["q"] & see.any(-1))  # [B, H, Sq]
    by_value = (see & rotten["v"][:, :, None, :]).any(-1)
    if not (by_score | by_value).any():
        return
    assert not backward, "a visible NaN has no agreed gradient"
    out = to_bhsd(torch.from_numpy(result["out"]), layout)
    out[torch.from_numpy(by_score | by_value)] = math.nan
    result["out"] = from_bhsd(out, rank, layout).numpy()
    result["lse"][by_score] = math.nan
