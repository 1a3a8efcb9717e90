"""Philox4x32 (Salmon et al. 2011) in numpy: the dropout generator of the contract, section 5, and the source of every input.

Inputs come from here and not from torch's generator, so that every version of PyTorch sees the same numbers.
"""
import zlib

import numpy as np

MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox4x32(counter, key, rounds=7):
    """counter: four integers or arrays that broadcast; key: two integers. Returns uint32 [..., 4]."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    k0, k1 = (int(k) for k in key)
    for _ in range(rounds):
        a, b = MULTIPLIER[0] * c0, MULTIPLIER[1] * c2
        c0, c1, c2, c3 = (b >> HALF) ^ c1 ^ np.uint64(k0), b & LOW, (a >> HALF) ^ c3 ^ np.uint64(k1), a & LOW
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(count, key, stream=0):
    """The first `count` words of a stream: word n is word n mod 4 of counter (floor(n / 4), stream, 0, 0). uint32 [count]."""
    block = np.arange((count + 3) // 4)
    return philox4x32((block, stream, 0, 0), key).reshape(-1)[:count]


def named_integers(name, shape, bits=8):
    """Signed integers of `bits` bits for a tensor known by its name, in [-2^(bits-1), 2^(bits-1)). int64 `shape`."""
    word = words(int(np.prod(shape)), (zlib.crc32(name.encode()), 0))
    return (word.astype(np.int32) >> np.int32(32 - bits)).astype(np.int64).reshape(shape)


def keep_mask(B, H, Sq, Skv, p, seed, offset=0):
    """True where dropout keeps the element (contract, section 5). bool [B, H, Sq, Skv]."""
    seed = int(seed)
    threshold = int(np.floor(p * 65536 + 0.5))  # as Math.round; p = 1 gives 65536, which no 16-bit draw reaches
    chunk = np.arange((Skv + 7) // 8)[None, None, :]
    row = np.arange(Sq)[None, :, None]
    head = np.arange(B * H)[:, None, None]
    four = philox4x32((chunk, row, head, offset), (seed & 0xFFFFFFFF, seed >> 32))  # [B*H, Sq, ceil(Skv/8), 4]
    draws = np.stack([four & 0xFFFF, four >> 16], axis=-1)  # low half = even j, high half = odd j
    return (draws.reshape(B, H, Sq, -1)[..., :Skv] >= threshold)
