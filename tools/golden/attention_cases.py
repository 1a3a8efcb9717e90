"""The attention problems: small shapes chosen to break kernels, each option alone and in company.

They complement the 35 cases of ../shared/oracle/torch and repeat none of them.
"""
import itertools

import numpy as np

from definition import attention
from philox import named_integers
from store import as_input, expected

CASES = []
INF, NAN = np.inf, np.nan


def values(case, tensor, shape, step=2.0**-6, bits=8):
    """Multiples of `step`, uniform over 2^bits of them around 0: [-2, 2) unless told otherwise."""
    return named_integers(f"attention/{case}/{tensor}", shape, bits) * step


def case(name, capability, about, *, B=1, H=2, Hkv=None, Sq, Skv, D=16, Dv=None, rank=4, bias=None, mask=None,
         slopes=None, sinks=None, edit=None, backward=True, **options):
    """Adds a problem. bias: its shape; mask: a bool array; slopes, sinks: lists; edit: changes the inputs in place."""
    Hkv, Dv = Hkv or H, Dv or D

    def shape(heads, S, width):
        if rank == 3:
            return (B, S, width)
        return (B, S, heads, width) if options.get("layout") == "bshd" else (B, heads, S, width)

    inputs = {"q": values(name, "q", shape(H, Sq, D)), "k": values(name, "k", shape(Hkv, Skv, D)), "v": values(name, "v", shape(Hkv, Skv, Dv))}
    if backward:
        inputs["dout"] = values(name, "dout", shape(H, Sq, Dv), 2.0**-8)  # in [-1/2, 1/2): keeps sums over rows near 1, where 1e-6 means something
    if bias is not None:
        inputs["bias"] = values(name, "bias", bias)
    if mask is not None:
        inputs["mask"] = np.asarray(mask, bool)
    if slopes is not None:
        inputs["alibiSlopes"] = np.array(slopes, float)
    if sinks is not None:
        inputs["sinks"] = np.array(sinks, float)
    if edit:
        edit(inputs)
    inputs = {key: x if x.dtype == bool else as_input(x) for key, x in inputs.items()}
    meta = {"name": name, "capability": capability, "about": about, "options": options,
            "shape": {"B": B, "H": H, "Hkv": Hkv, "Sq": Sq, "Skv": Skv, "D": D, "Dv": Dv, "rank": rank}, "backward": backward}
    CASES.append((meta, inputs))


def random_mask(name, shape, percent):
    """True for about `percent` of the elements."""
    return named_integers(f"attention/{name}/mask", shape) < 256 * percent / 100 - 128


def put(tensor, index, value):
    """An edit that writes `value` at `index` of one input."""
    def edit(inputs):
        inputs[tensor][index] = value
    return edit


def both(*edits):
    def edit(inputs):
        for one in edits:
            one(inputs)
    return edit


ALL = slice(None)

# ---- plain: tails, single rows and keys, head dims ----
case("tail_63_64", "plain", "one row short of a tile of 64", H=1, Sq=63, Skv=64, D=8)
case("tail_64_65", "plain", "one key past a tile of 64", H=1, Sq=64, Skv=65, D=8)
case("tail_17_19", "plain", "both lengths prime", B=2, Sq=17, Skv=19, D=24)
case("one_key", "plain", "softmax over one key: out = v, dq = dk = 0", Sq=9, Skv=1)
case("one_query", "plain", "one row, a key count that fills no vector", B=2, Sq=1, Skv=37)
case("head_dim_1", "head-dim", "D = 1", Sq=11, Skv=13, D=1)
case("head_dim_3_value_111", "head-dim", "D = 3, Dv = 111", H=1, Sq=7, Skv=18, D=3, Dv=111)
case("head_dim_1_value_256", "head-dim", "smallest D with the largest Dv", H=1, Sq=5, Skv=9, D=1, Dv=256)
case("head_dim_256_value_1", "head-dim", "largest D with the smallest Dv, causal", H=1, Sq=10, Skv=12, D=256, Dv=1, causal=True)
case("head_dim_40_value_24", "head-dim", "Dv < D, grouped heads", H=4, Hkv=2, Sq=12, Skv=17, D=40, Dv=24)
case("head_dim_24_value_80", "head-dim", "Dv > D, causal", H=1, Sq=18, Skv=33, D=24, Dv=80, causal=True)
case("head_dim_80", "head-dim", "D = 80", H=1, Sq=17, Skv=34, D=80)
case("head_dim_111", "head-dim", "D = 111: odd, no vector width divides it", H=1, Sq=9, Skv=20, D=111, causal=True)

# ---- causal, both alignments ----
case("causal_top_left_longer_keys", "causal", "top-left, Sq < Skv: the last keys are seen by no row", Sq=21, Skv=50, causal="top-left")
case("causal_top_left_longer_queries", "causal", "top-left, Sq > Skv: late rows see every key", Sq=50, Skv=21, causal="top-left")
case("causal_bottom_right_longer_keys", "causal", "bottom-right by name, Sq < Skv", Sq=19, Skv=47, causal="bottom-right")
case("causal_bottom_right_empty_tile", "causal", "Sq >> Skv: the first 80 rows see nothing, a whole tile of rows is empty", H=1, Sq=100, Skv=20, causal="bottom-right")
case("causal_one_query_bottom_right", "causal", "decode: the one row sees every key", H=4, Hkv=2, Sq=1, Skv=40, causal=True)
case("causal_one_query_top_left", "causal", "the one row sees key 0 alone", Sq=1, Skv=12, causal="top-left")

# ---- windows ----
case("window_diagonal", "window", "[0, 0], Sq = Skv: each row sees itself, out = v", Sq=20, Skv=20, window=[0, 0])
case("window_diagonal_longer_keys", "window", "[0, 0], Sq < Skv: the diagonal is aligned bottom-right", Sq=12, Skv=30, window=[0, 0])
case("window_diagonal_longer_queries", "window", "[0, 0], Sq > Skv: the first rows see nothing", Sq=30, Skv=12, window=[0, 0])
case("window_left_5", "window", "[5, -1]: five back and everything ahead", Sq=33, Skv=40, window=[5, -1])
case("window_right_0", "window", "[-1, 0] is causal bottom-right", Sq=25, Skv=41, window=[-1, 0])
case("window_right_longer_queries", "window", "[-1, 2], Sq > Skv: rows before the keys begin see nothing", Sq=40, Skv=18, window=[-1, 2])
case("window_wider_than_all", "window", "[1000, 1000] hides nothing", Sq=15, Skv=22, window=[1000, 1000])
case("window_causal_top_left", "window", "window aligned bottom-right together with causal aligned top-left", Sq=30, Skv=37, window=[12, 3], causal="top-left")
case("window_causal_top_left_empty", "window", "the two alignments miss each other: no row sees anything", Sq=10, Skv=30, window=[5, 0], causal="top-left")
case("window_narrow_many_tiles", "window", "[3, 1] over 130 keys: most tiles are empty, none of the rows", H=1, Sq=130, Skv=130, D=8, window=[3, 1])

# ---- softcap, scale ----
case("softcap_saturated", "softcap", "cap 0.5: tanh is flat for most scores, gradients nearly vanish", Sq=17, Skv=29, softcap=0.5)
case("softcap_bias_order", "softcap", "softcap acts before bias, so the bias is not capped", Sq=14, Skv=23, softcap=2.0, bias=(1, 2, 14, 23), edit=lambda x: x.update(bias=x["bias"] * 4))
case("softcap_negative_scale_window", "softcap", "negative scale under a softcap, windowed", Sq=20, Skv=26, softcap=8.0, scale=-0.5, window=[6, 2])
case("scale_zero", "scale", "scale 0: the plain mean of v, dq = dk = 0", Sq=13, Skv=21, scale=0)
case("scale_zero_causal_bias", "scale", "scale 0 leaves bias and visibility", Sq=13, Skv=21, scale=0, causal=True, bias=(1, 1, 13, 21))
case("scale_negative", "scale", "negative scale: the smallest q.k wins", Sq=18, Skv=25, scale=-0.375)

# ---- ALiBi ----
case("alibi_longer_keys", "alibi", "[H], Sq < Skv, two-sided distance", H=3, Sq=15, Skv=35, D=8, slopes=[0.5, 0.25, 0.0625])
case("alibi_longer_queries", "alibi", "[H], Sq > Skv: i' starts negative", Sq=35, Skv=15, slopes=[0.5, 0.125])
case("alibi_batch", "alibi", "[B, H]", B=2, H=2, Sq=20, Skv=24, D=8, slopes=[[0.5, 0.25], [1.0, 0.0]])
case("alibi_top_left", "alibi", "distance stays aligned bottom-right under causal top-left", Sq=16, Skv=24, causal="top-left", slopes=[0.25, 1.0])
case("alibi_steep", "alibi", "slopes that leave one key", B=2, H=2, Hkv=1, Sq=12, Skv=20, slopes=[[32.0, 8.0], [16.0, 0.5]], causal=True)

# ---- bias, every broadcast ----
case("bias_key", "bias", "[1, 1, 1, Skv]", B=2, H=4, Hkv=2, Sq=9, Skv=21, D=8, bias=(1, 1, 1, 21))
case("bias_head_query_key", "bias", "[1, H, Sq, Skv] with causal", B=2, Sq=17, Skv=19, D=8, bias=(1, 2, 17, 19), causal=True)
case("bias_batch_key", "bias", "[B, 1, 1, Skv] with grouped heads", B=3, H=2, Hkv=1, Sq=10, Skv=26, D=8, bias=(3, 1, 1, 26))
case("bias_query", "bias", "[1, 1, Sq, 1]: shifts lse, leaves out; dbias is 0 up to rounding", Sq=14, Skv=22, bias=(1, 1, 14, 1))
case("bias_query_sinks", "bias", "[1, 1, Sq, 1] beside a sink: now it moves out as well", Sq=14, Skv=22, bias=(1, 1, 14, 1), sinks=[0.5, -1.0])
case("bias_full", "bias", "[B, H, Sq, Skv]", B=2, H=2, Hkv=1, Sq=11, Skv=18, D=8, bias=(2, 2, 11, 18))
case("bias_head", "bias", "[1, H, 1, 1] beside a sink: one number a head", B=2, H=3, Sq=8, Skv=10, D=8, bias=(1, 3, 1, 1), sinks=[1.0, 0.0, -0.5])
case("bias_scalar", "bias", "[1, 1, 1, 1] beside a sink", Sq=8, Skv=10, D=8, bias=(1, 1, 1, 1), sinks=[1.0, 0.25])
case("bias_minus_infinity", "bias", "-Infinity entries hide keys as a mask would, their dbias is 0", Sq=18, Skv=27, bias=(1, 2, 18, 27),
     edit=lambda x: x["bias"].__setitem__(random_mask("bias_minus_infinity", (1, 2, 18, 27), 40), -INF))
case("bias_minus_infinity_row", "bias", "rows 0 and 7 of head 1 are all -Infinity: out 0, lse -Infinity, gradients 0", Sq=15, Skv=34, bias=(1, 2, 15, 34),
     edit=both(put("bias", (0, 1, 0), -INF), put("bias", (0, 1, 7), -INF)))
case("bias_minus_infinity_first_tile", "bias", "the first 70 keys are -Infinity for odd rows: the running max stays -Infinity over whole tiles", H=1, Sq=9, Skv=100, D=8,
     bias=(1, 1, 9, 100), edit=put("bias", (0, 0, slice(1, None, 2), slice(0, 70)), -INF))

# ---- mask, every broadcast ----
case("mask_batch_key", "mask", "[B, 1, 1, Skv]: padding; batch 2 has no key at all", B=3, H=2, Hkv=1, Sq=9, Skv=20, D=8,
     mask=(np.arange(20) < np.array([20, 13, 0])[:, None])[:, None, None, :])
case("mask_head_key", "mask", "[1, H, 1, Skv]", B=2, Sq=11, Skv=22, D=8, mask=random_mask("mask_head_key", (1, 2, 1, 22), 60))
case("mask_query", "mask", "[1, 1, Sq, 1]: rows on or off", B=2, Sq=14, Skv=17, D=8, mask=random_mask("mask_query", (1, 1, 14, 1), 50))
case("mask_checkerboard", "mask", "[1, 1, Sq, Skv]: every tile is partial", Sq=33, Skv=36, D=8, mask=(np.indices((33, 36)).sum(0) % 2 == 0)[None, None])
case("mask_random_full", "mask", "[B, H, Sq, Skv], 15 in 100 visible, some rows empty", B=2, Sq=16, Skv=21, D=8, mask=random_mask("mask_random_full", (2, 2, 16, 21), 15))
case("mask_empty_tiles", "mask", "blocks of 32 x 64 on or off: whole tiles are empty, the first one too", H=1, Sq=70, Skv=200, D=8,
     mask=np.kron([[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 0]], np.ones((32, 64)))[None, None, :70, :200] > 0)
case("mask_nothing_visible", "mask", "[1, 1, 1, 1] false: every row is empty", Sq=9, Skv=11, D=8, mask=np.zeros((1, 1, 1, 1), bool))
case("mask_causal_top_left", "mask", "mask and causal together leave empty rows", Sq=20, Skv=28, causal="top-left", mask=random_mask("mask_causal_top_left", (1, 2, 1, 28), 50))
case("mask_last_key_alone", "mask", "each row sees only the last key, after many hidden tiles", H=1, Sq=7, Skv=150, D=8, mask=(np.arange(150) == 149)[None, None, None])

# ---- sinks ----
case("sinks_empty_rows", "sinks", "rows that see no key: out 0, lse = sink, dsinks gets nothing from them", H=3, Sq=12, Skv=16, D=8, sinks=[0.5, -2.0, 3.0],
     mask=(np.arange(12) % 3 != 0)[None, None, :, None])
case("sinks_all_empty", "sinks", "no row sees a key", Sq=6, Skv=9, D=8, sinks=[1.5, -1.5], mask=np.zeros((1, 1, 6, 9), bool))
case("sinks_dominating", "sinks", "sinks far above and far below every score", H=4, Hkv=2, Sq=13, Skv=19, D=8, sinks=[30.0, 8.0, -40.0, 100.0])
case("sinks_minus_infinity", "sinks", "a sink of -Infinity is no sink, also in an empty row", Sq=12, Skv=14, D=8, sinks=[-INF, 0.75], causal=True, mask=(np.arange(12) != 5)[None, None, :, None])
case("sinks_gqa_top_left", "sinks", "grouped heads, causal top-left", B=2, H=4, Hkv=1, Sq=11, Skv=17, D=8, sinks=[0.0, 1.0, -1.0, 2.5], causal="top-left")
case("sinks_longer_queries", "sinks", "causal with Sq > Skv: the first rows have the sink alone", Sq=25, Skv=10, D=8, sinks=[0.25, -0.5], causal=True)

# ---- grouped heads, layout, rank 3 ----
case("mqa_3_heads", "gqa", "Hkv = 1", B=2, H=3, Hkv=1, Sq=13, Skv=15, D=24)
case("gqa_6_over_2", "gqa", "Hkv = 2, three heads a group, causal", B=2, H=6, Hkv=2, Sq=9, Skv=14, D=16, causal=True)
case("layout_bshd", "layout", "bshd, grouped heads, Dv != D", B=2, H=4, Hkv=2, Sq=10, Skv=13, D=8, Dv=12, layout="bshd")
case("layout_bshd_causal_bias_dropout", "layout", "options keep the meaning of their axes under bshd", B=2, H=2, Sq=14, Skv=20, layout="bshd", causal=True, bias=(2, 1, 14, 20), dropout={"p": 0.25, "seed": 99})
case("rank_3", "rank-3", "[B, S, D], one head", B=3, H=1, Sq=12, Skv=18, Dv=20, rank=3)
case("rank_3_causal_window_mask", "rank-3", "options of rank 4 with rank 3 tensors", B=2, H=1, Sq=18, Skv=24, rank=3, causal=True, window=[7, -1], mask=random_mask("rank_3_causal_window_mask", (2, 1, 1, 24), 70))
case("rank_3_bshd", "rank-3", "layout changes nothing at rank 3", B=2, H=1, Sq=9, Skv=15, D=8, rank=3, layout="bshd", causal="top-left")


# ---- stability ----
def without_ties(inputs):
    """Integers x 16, D = 16, scale 1/4: scores are multiples of 64 up to about 1e4, exact in float32. Tries draws until no row ties for
    its largest score, so that lse is that score exactly and float32 can hold it."""
    for attempt in itertools.count():
        q, k = (named_integers(f"attention/huge_logits/{n}{attempt}", inputs[n].shape, 4) * 16.0 for n in "qk")
        s = np.sort(q @ k.swapaxes(-1, -2), axis=-1)
        if (s[..., -1] > s[..., -2]).all() and np.abs(s / 4).max() > 9e3:
            inputs.update(q=q, k=k)
            return


def offset_logits(inputs):
    """Rows whose scores all lie near +10000 (even rows) or near -10000 (odd rows) and differ by a few units. Multiples of 2^-8: exact in float32."""
    for name in "qk":
        inputs[name] = inputs[name] * 8  # multiples of 1/8 ...
        inputs[name] = np.round(inputs[name]) / 8  # ... in [-2, 2)
    inputs["q"][..., 0] = np.where(np.arange(inputs["q"].shape[2]) % 2, -200, 200)
    inputs["k"][..., 0] = 200


def ramps(inputs):
    """Scores that rise with j in even rows, so that every tile raises the running max, and fall with j in odd rows, so that none does."""
    Sq, Skv = inputs["q"].shape[2], inputs["k"].shape[2]
    inputs["q"][..., 0] = np.where(np.arange(Sq) % 2, -1, 1) * (1 + np.arange(Sq) % 4)
    inputs["k"][..., 0] = np.arange(Skv) / 4


case("huge_logits", "stability", "scores between -1e4 and 1e4, one winner a row", H=2, Sq=20, Skv=33, edit=without_ties)
case("huge_logits_causal_sinks", "stability", "the same range under causal, with sinks far below. Forward only: a row that sees few keys may have ties, whose lse float32 rounds too much for the backward pass", H=2, Sq=33, Skv=33, sinks=[0.0, 4.0], causal="top-left", backward=False, edit=without_ties)
case("offset_logits", "stability", "all scores of a row near 1e4 or near -1e4: only the max keeps exp finite. Forward only: float32 lse cannot hold enough digits for the backward pass", Sq=14, Skv=40, backward=False, edit=offset_logits)
case("ascending_keys", "stability", "every tile raises the max in even rows, never in odd rows: the online rescale must happen, and only then", H=1, Sq=12, Skv=130, edit=ramps)
case("ascending_keys_causal_dropout", "stability", "the same with causal and dropout", H=1, Sq=20, Skv=100, causal=True, dropout={"p": 0.3, "seed": 5}, edit=ramps)

# ---- dropout ----
case("dropout_zero", "dropout", "p = 0 is no dropout", Sq=9, Skv=13, D=8, dropout={"p": 0, "seed": 3})
case("dropout_half", "dropout", "17 keys: the last group of eight draws is cut", B=2, Sq=12, Skv=17, D=8, dropout={"p": 0.5, "seed": 1})
case("dropout_most", "dropout", "p = 0.9: many rows keep nothing, lse does not notice", Sq=14, Skv=19, D=8, dropout={"p": 0.9, "seed": 2**32 - 1})
case("dropout_everything", "dropout", "p = 1: out 0, gradients 0, lse as ever", Sq=9, Skv=12, D=8, dropout={"p": 1, "seed": 7})
case("dropout_offset", "dropout", "offset is a counter word of its own", Sq=13, Skv=30, D=8, dropout={"p": 0.2, "seed": 1, "offset": 4000000000})
case("dropout_seed_64_bits", "dropout", "seed 2^64 - 1", Sq=11, Skv=25, D=8, dropout={"p": 0.4, "seed": str(2**64 - 1)})
case("dropout_seed_high_word", "dropout", "seed 2^32: the low word is 0", Sq=11, Skv=25, D=8, dropout={"p": 0.4, "seed": str(2**32), "offset": 1})
case("dropout_gqa_causal", "dropout", "the counter counts query heads, b * H + h", B=2, H=4, Hkv=2, Sq=15, Skv=21, D=8, causal=True, dropout={"p": 0.15, "seed": str(0x0123456789ABCDEF), "offset": 3})
case("dropout_sinks_mask", "dropout", "dropout with sinks and empty rows", Sq=16, Skv=20, D=8, sinks=[0.5, -0.5], mask=random_mask("dropout_sinks_mask", (1, 2, 16, 20), 20), dropout={"p": 0.35, "seed": 11})
case("dropout_window", "dropout", "dropout with a window over several tiles: hidden tiles use up no draws", H=1, Sq=90, Skv=90, D=8, window=[10, 4], dropout={"p": 0.1, "seed": 21})

# ---- NaN and Infinity where nobody looks, and where somebody does ----
HIDDEN = [3, 8, 9, 20]
case("nan_masked_keys", "nan", "four keys hidden from every row hold NaN and Infinity in k and in v: as if they were 0", Sq=12, Skv=21,
     mask=~np.isin(np.arange(21), HIDDEN)[None, None, None],
     edit=both(*(put(t, (ALL, ALL, j), x) for t in "kv" for j, x in zip(HIDDEN, (NAN, INF, -INF, NAN)))))
case("nan_padding", "nan", "padding of each batch holds NaN in k, Infinity in v", B=2, Hkv=1, Sq=10, Skv=19, D=8, mask=(np.arange(19) < np.array([[11], [18]]))[:, None, None],
     edit=both(*(put(t, (b, ALL, slice(n, None)), x) for t, x in (("k", NAN), ("v", INF)) for b, n in ((0, 11), (1, 18)))))
case("nan_causal_top_left", "nan", "keys after the last row hold NaN", Sq=15, Skv=40, causal="top-left", edit=both(put("k", (ALL, ALL, slice(15, None)), NAN), put("v", (ALL, ALL, slice(15, None)), NAN)))
case("nan_window", "nan", "keys before and after every window hold NaN and Infinity; with sinks", Sq=8, Skv=40, sinks=[0.5, -0.5], window=[4, -1], causal=True,
     edit=both(put("k", (ALL, ALL, slice(0, 28)), NAN), put("v", (ALL, ALL, slice(0, 28)), -INF)))
case("nan_some_rows_see", "nan", "key 20 holds NaN: rows from 20 on see it and are NaN, the rows before are not. Forward only", Sq=32, Skv=32, causal=True, backward=False, edit=put("k", (ALL, ALL, 20), NAN))
case("nan_value_some_rows_see", "nan", "value row 6 of head 1 is NaN: out of the rows that see it is NaN, lse of all rows is finite. Forward only", Sq=16, Skv=24, D=8, window=[2, 2], backward=False, edit=put("v", (0, 1, 6), NAN))
case("nan_query_row", "nan", "a NaN in q spoils its own row alone, and not even that if the row sees no key. Forward only", Sq=12, Skv=18, D=8, backward=False,
     mask=(np.arange(12) != 7)[None, None, :, None], edit=both(put("q", (0, 0, 2), NAN), put("q", (0, 1, 7), NAN)))

# ---- everything at once ----
case("everything", "combined", "every option that goes together, bhsd", B=2, H=4, Hkv=2, Sq=19, Skv=26, D=8, Dv=12, scale=0.3, softcap=4.0, causal=True, window=[12, 0],
     bias=(2, 1, 19, 26), slopes=[[0.25, 0.125, 0.5, 0.0], [0.5, 1.0, 0.0625, 0.25]], mask=random_mask("everything", (2, 1, 1, 26), 75),
     sinks=[0.5, -1.0, 2.0, 0.0], dropout={"p": 0.2, "seed": str(2**40 + 17), "offset": 2}, edit=put("bias", (0, 0, 18), -INF))
case("everything_bshd_top_left", "combined", "every option that goes together, bshd, top-left, Sq > Skv", B=2, H=3, Hkv=1, Sq=27, Skv=18, D=12, Dv=8, layout="bshd", scale=-0.4, softcap=3.0, causal="top-left", window=[6, 9],
     bias=(1, 3, 1, 18), slopes=[0.125, 0.25, 0.0], mask=random_mask("everything_bshd_top_left", (1, 3, 27, 18), 80), sinks=[-0.5, 1.0, 0.0], dropout={"p": 0.1, "seed": 123456789})


def solve():
    """(json cases, safetensors tensors)"""
    metas, tensors = [], {}
    for meta, inputs in CASES:
        name = meta["name"]
        result = attention(inputs, meta["options"], meta["backward"])
        assert meta["capability"] == "nan" or all(np.isfinite(x).all() for key, x in result.items() if key != "lse"), name
        own = {**inputs, **{key: expected(x) for key, x in result.items()}}
        metas.append({**meta, "tensors": list(own)})
        tensors.update({f"{name}/{key}": x for key, x in own.items()})
    assert len({meta["name"] for meta in metas}) == len(metas)
    return metas, tensors
