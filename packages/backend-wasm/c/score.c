#include "score.h"
#include "dtype.h"

// ---- steps, one row of n keys each

// s = cap tanh(s / cap)
HOT static void softcapRow(f32 *s, u32 n8, f32 cap) {
  Tanh t = tanhSetup();
  vec size = splat(cap), inverse = splat(1 / cap);
  for (u32 c = 0; c < n8; c += 4) store(s + c, mul(size, tanhv(t, mul(load(s + c), inverse), 0)));
}

// The same, and its derivative.
HOT static void softcapGradRow(f32 *s, f32 *grads, u32 n8, f32 cap) {
  Tanh t = tanhSetup();
  vec size = splat(cap), inverse = splat(1 / cap), derivative;
  for (u32 c = 0; c < n8; c += 4) {
    store(s + c, mul(size, tanhv(t, mul(load(s + c), inverse), &derivative)));
    store(grads + c, derivative);
  }
}

HOT static void addRow(f32 *s, const f32 *bias, u32 n) {
  u32 c = 0;
  for (; c + 4 <= n; c += 4) store(s + c, add(load(s + c), load(bias + c)));
  for (; c < n; c++) s[c] += bias[c];
}

HOT static void addScalar(f32 *s, f32 bias, u32 n8) {
  for (u32 c = 0; c < n8; c += 4) store(s + c, add(load(s + c), splat(bias)));
}

static void biasRow(const ScoreParams *p, f32 *s, u32 i, u32 keyBegin, u32 keys, f32 *line) {
  const void *bias = elementAt(p->bias, p->biasDtype, i * p->biasRowStride + keyBegin * p->biasKeyStride);
  u32 count = p->biasKeyStride ? keys : 1;
  if (p->biasDtype != FLOAT32) toF32(line, bias, count, p->biasDtype), bias = line;
  if (p->biasKeyStride) addRow(s, bias, keys);
  else addScalar(s, *(const f32 *)bias, roundUp(keys, 8));
}

// s -= slope |i + Skv - Sq - j|
HOT static void alibiRow(f32 *s, u32 n8, f32 slope, i32 distance) {
  vec away = sub(splat((f32)distance), wasm_f32x4_make(0, 1, 2, 3));
  for (u32 c = 0; c < n8; c += 4) {
    store(s + c, sub(load(s + c), mul(splat(slope), wasm_f32x4_abs(away))));
    away = sub(away, splat(4));
  }
}

HOT static void fill(f32 *row, u32 begin, u32 end, f32 value) {
  for (u32 c = begin; c < end; c++) row[c] = value;
}

HOT static void maskRow(f32 *row, const u8 *mask, u32 n, f32 value) {
  for (u32 c = 0; c < n; c++) row[c] = mask[c] ? row[c] : value;
}

void hideRow(const ScoreParams *p, f32 *row, u32 i, u32 keyBegin, u32 keys, f32 value) {
  i32 offset = (i32)i - (i32)keyBegin; // key keyBegin + c is inside iff offset + lo <= c <= offset + hi
  u32 begin = (u32)minI(maxI(offset + p->bandLo, 0), (i32)keys);
  u32 end = (u32)minI(maxI(offset + p->bandHi + 1, (i32)begin), (i32)keys);
  fill(row, 0, begin, value);
  fill(row, end, keys, value);
  if (!p->mask) return;
  const u8 *mask = p->mask + i * p->maskRowStride + keyBegin * p->maskKeyStride;
  if (p->maskKeyStride) maskRow(row, mask, keys, value);
  else if (!*mask) fill(row, 0, keys, value);
}

void scoreTile(const ScoreParams *p, Tile tile, Visibility visibility, f32 *scores, f32 *capGrads, u32 ld, f32 *line) {
  u32 keys8 = roundUp(tile.keys, 8);
  for (u32 r = 0; r < tile.rows; r++) {
    u32 i = tile.rowBegin + r;
    f32 *s = scores + r * ld;
    if (p->softcap && capGrads) softcapGradRow(s, capGrads + r * ld, keys8, p->softcap);
    else if (p->softcap) softcapRow(s, keys8, p->softcap);
    if (p->bias) biasRow(p, s, i, tile.keyBegin, tile.keys, line);
    if (p->slope) alibiRow(s, keys8, p->slope, (i32)i + p->diagonal - (i32)tile.keyBegin);
    if (visibility == PARTIAL) hideRow(p, s, i, tile.keyBegin, tile.keys, -INFINITY_F);
    if (visibility == PARTIAL && p->softcap && capGrads) hideRow(p, capGrads + r * ld, i, tile.keyBegin, tile.keys, 0);
    fill(s, tile.keys, keys8, -INFINITY_F);
  }
}

// ---- visibility

Range keysOfRows(const ScoreParams *p, Tile tile, u32 begin, u32 end) {
  i32 offset = (i32)tile.rowBegin - (i32)tile.keyBegin; // row r sees key c inside the band iff lo <= c - r - offset <= hi
  i32 first = (i32)begin + offset + p->bandLo, last = (i32)minU(end, tile.rows) - 1 + offset + p->bandHi;
  u32 from = (u32)minI(maxI(first, 0), (i32)tile.keys);
  return (Range){from, (u32)minI(maxI(last + 1, (i32)from), (i32)tile.keys)};
}

u32 visible(const ScoreParams *p, u32 i, u32 j) {
  i32 distance = (i32)j - (i32)i;
  if (distance < p->bandLo || distance > p->bandHi) return 0;
  return !p->mask || p->mask[i * p->maskRowStride + j * p->maskKeyStride] != 0;
}

HOT static void scanRow(const u8 *mask, u32 n, u32 *some, u32 *all) {
  u8 any = 0, none = 0;
  for (u32 c = 0; c < n; c++) {
    any |= mask[c];
    none |= mask[c] == 0;
  }
  *some |= any != 0;
  *all &= !none;
}

Visibility tileVisibility(const ScoreParams *p, Tile tile, u32 insideBand) {
  if (!p->mask) return insideBand ? FULL : PARTIAL;
  u32 rows = p->maskRowStride ? tile.rows : 1, keys = p->maskKeyStride ? tile.keys : 1, some = 0, all = 1;
  const u8 *mask = p->mask + tile.rowBegin * p->maskRowStride + tile.keyBegin * p->maskKeyStride;
  for (u32 r = 0; r < rows; r++) scanRow(mask + r * p->maskRowStride, keys, &some, &all);
  return !some ? EMPTY : all && insideBand ? FULL : PARTIAL;
}

// ---- dropout

// The low and high words of m * c in each lane.
INLINE vec mulWords(vec m, vec c, vec *high) {
  vec front = wasm_u64x2_extmul_low_u32x4(m, c), back = wasm_u64x2_extmul_high_u32x4(m, c);
  *high = wasm_i32x4_shuffle(front, back, 1, 3, 5, 7);
  return wasm_i32x4_shuffle(front, back, 0, 2, 4, 6);
}

// Philox4x32-7 (Salmon et al. 2011) of four neighbouring groups of eight keys. After the transpose a vector holds the four
// words of one group, which as eight 16-bit lanes are its draws in key order.
INLINE void philox(const ScoreParams *p, u32 group, u32 i, vec words[4]) {
  vec c0 = wasm_i32x4_add(wasm_i32x4_splat((i32)group), wasm_i32x4_make(0, 1, 2, 3)), c1 = wasm_i32x4_splat((i32)i);
  vec c2 = wasm_i32x4_splat((i32)p->dropoutHead), c3 = wasm_i32x4_splat((i32)p->dropoutOffset);
  u32 k0 = p->seedLow, k1 = p->seedHigh;
  for (u32 round = 0; round < 7; round++) {
    vec high0, high1;
    vec low0 = mulWords(wasm_i32x4_splat((i32)0xd2511f53), c0, &high0);
    vec low1 = mulWords(wasm_i32x4_splat((i32)0xcd9e8d57), c2, &high1);
    c0 = wasm_v128_xor(wasm_v128_xor(high1, c1), wasm_i32x4_splat((i32)k0));
    c2 = wasm_v128_xor(wasm_v128_xor(high0, c3), wasm_i32x4_splat((i32)k1));
    c1 = low1;
    c3 = low0;
    k0 += 0x9e3779b9;
    k1 += 0xbb67ae85;
  }
  transpose4(&c0, &c1, &c2, &c3);
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

HOT static void drawRow(const ScoreParams *p, f32 *line, u32 i, u32 firstGroup, u32 groups) {
  vec keep = splat(p->keepScale), below = wasm_i16x8_splat((i16)p->dropBelow);
  if (p->dropBelow > 0xffff) keep = splat(0);
  for (u32 g = 0; g < groups; g += 4) {
    vec words[4];
    philox(p, firstGroup + g, i, words);
    for (u32 w = 0; w < 4; w++, line += 8) {
      vec kept = wasm_u16x8_ge(words[w], below);
      store(line, wasm_v128_and(keep, wasm_i32x4_extend_low_i16x8(kept)));
      store(line + 4, wasm_v128_and(keep, wasm_i32x4_extend_high_i16x8(kept)));
    }
  }
}

const f32 *dropoutFactors(const ScoreParams *p, f32 *line, u32 i, u32 keyBegin, u32 keys) {
  u32 group = keyBegin / 8, end = ceilDiv(keyBegin + keys, 8);
  drawRow(p, line, i, group, end - group);
  return line + (keyBegin - group * 8);
}
