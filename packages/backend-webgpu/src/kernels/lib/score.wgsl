// The score program: what happens to a raw product q.k on its way to a probability, in the order of the contract. Only the
// steps in use are compiled in.
//
// The kernel's uniforms `args` have a member `score: Score`, written by scoreWords in score.ts. Bindings by step:
// BIAS `bias`, MASK `mask`, ALIBI `alibi_slopes`, SINKS `sinks`, all array<u32>; with ALIBI and SINKS both, in place of
// these two, `head_terms` [B, H, 2] as float32 words (head_terms.wgsl).

//#include "lib/dtype.wgsl"
//#include "lib/philox.wgsl"
//#include "lib/visibility.wgsl"

struct Score {
  scale: f32,
  cap: f32,
  // Row i stands at key i + diagonal: Skv - Sq.
  diagonal: i32,
  // Row i sees keys i + band_lo to i + band_hi; unbounded sides are 2^30 away.
  band_lo: i32,
  band_hi: i32,
  // Query heads in all, and of slopes along the batch: H or 0.
  heads: u32,
  slope_batch: u32,
  // Strides in elements over [B, H, Sq, Skv], and what the window leaves out before it.
  bias_first: u32,
  bias_b: u32,
  bias_h: u32,
  bias_i: u32,
  bias_j: u32,
  mask_first: u32,
  mask_b: u32,
  mask_h: u32,
  mask_i: u32,
  mask_j: u32,
  // A draw below the threshold drops its element; kept ones count keep_scale times.
  keep_threshold: u32,
  keep_scale: f32,
  seed_low: u32,
  seed_high: u32,
  draw_offset: u32,
  // Structs in uniforms are counted in 16 bytes.
  unused: vec2u,
}

// Finite in the place of -Infinity: the score of a hidden key, and the max of a row that has seen nothing.
const HIDDEN: f32 = -3.0e38;
// Finite in the place of NaN and Infinity: a row whose max is at least this is NaN.
const BAD: f32 = 3.0e38;
const BAD_MAX: f32 = 2.9e38;
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

// What is subtracted before exp2: the max, or 0 where a row has seen nothing.
fn subtrahend(m: vec4f) -> vec4f {
  return select(m, vec4f(), m == vec4f(HIDDEN));
}

// What the steps need of one (batch, head).
struct Head {
  // b * H + h
  index: u32,
  bias: u32,
  mask: u32,
  slope: f32,
  // The slope is not finite.
  bad: bool,
}

fn head_of(b: u32, h: u32) -> Head {
  var head: Head;
  head.index = b * args.score.heads + h;
  head.bias = b * args.score.bias_b + h * args.score.bias_h - args.score.bias_first;
  head.mask = b * args.score.mask_b + h * args.score.mask_h - args.score.mask_first;
  //#if ALIBI
  //#if SINKS
  let bits = head_terms[head.index * 2u];
  //#else
  let at = b * args.score.slope_batch + h;
  let bits = widen(${ALIBI_DTYPE}u, alibi_slopes[at / ${ALIBI_PER_WORD}u], at % ${ALIBI_PER_WORD}u);
  //#endif
  head.bad = !is_finite(bits);
  head.slope = select(bitcast<f32>(bits), 0.0, head.bad);
  //#endif
  return head;
}

//#if BIAS
// Finite: -Infinity is HIDDEN, other values that are no numbers are BAD.
fn bias_at(head: Head, i: u32, j: u32) -> f32 {
  let at = head.bias + i * args.score.bias_i + j * args.score.bias_j;
  let bits = widen(${BIAS_DTYPE}u, bias[at / ${BIAS_PER_WORD}u], at % ${BIAS_PER_WORD}u);
  if (!is_finite(bits)) {
    return select(BAD, HIDDEN, bits == 0xff800000u);
  }
  return bitcast<f32>(bits);
}
//#endif

//#if SOFTCAP
// To float32 rounding, which WGSL's own tanh need not be.
fn tanh4(x: vec4f) -> vec4f {
  let y = x * x;
  let small = x * fma(y, fma(y, fma(y, fma(y, vec4f(62.0 / 2835.0), vec4f(-17.0 / 315.0)), vec4f(2.0 / 15.0)), vec4f(-1.0 / 3.0)), vec4f(1.0));
  // Beyond 10, tanh is 1 in float32, and exp stays finite.
  let large = 1.0 - 2.0 / (exp2(min(abs(x), vec4f(10.0)) * (2.0 * LOG2_E)) + 1.0);
  return select(sign(x) * large, small, y < vec4f(0.0625));
}
//#endif

// Scores of row i and keys j to j + 3 from their products; visibility apart.
fn score4(head: Head, qk: vec4f, i: u32, j: u32) -> vec4f {
  var s = qk * args.score.scale;
  //#if SOFTCAP
  s = args.score.cap * tanh4(s / args.score.cap);
  //#endif
  //#if BIAS
  let terms = vec4f(bias_at(head, i, j), bias_at(head, i, j + 1u), bias_at(head, i, j + 2u), bias_at(head, i, j + 3u));
  s += terms;
  //#endif
  //#if ALIBI
  let distance = vec4i(0, 1, 2, 3) + (i32(j) - i32(i) - args.score.diagonal);
  s -= head.slope * vec4f(abs(distance));
  s = select(s, vec4f(BAD), head.bad);
  //#endif
  //#if BIAS
  s = select(select(s, vec4f(BAD), terms == vec4f(BAD)), vec4f(HIDDEN), terms == vec4f(HIDDEN));
  //#endif
  return s;
}

fn score(head: Head, qk: f32, i: u32, j: u32) -> f32 {
  return score4(head, vec4f(qk), i, j).x;
}

// d score / d (q.k)
fn score_slope4(qk: vec4f) -> vec4f {
  //#if SOFTCAP
  let t = tanh4(qk * args.score.scale / args.score.cap);
  return args.score.scale * (1.0 - t * t);
  //#else
  return vec4f(args.score.scale);
  //#endif
}

fn score_slope(qk: f32) -> f32 {
  return score_slope4(vec4f(qk)).x;
}

//#if DROPOUT
// Draws of row i and the eight keys from 8 * group on, two a word, the first in the low half.
fn draws(head: Head, i: u32, group: u32) -> vec4u {
  return philox(vec4u(group, i, head.index, args.score.draw_offset), vec2u(args.score.seed_low, args.score.seed_high));
}

// Bit n says whether row i keeps key 8 * group + n, n < 8.
fn kept_bits(head: Head, i: u32, group: u32) -> u32 {
  let words = draws(head, i, group);
  let even = select(vec4u(), vec4u(1u, 4u, 16u, 64u), (words & vec4u(0xffffu)) >= vec4u(args.score.keep_threshold));
  let odd = select(vec4u(), vec4u(2u, 8u, 32u, 128u), (words >> vec4u(16u)) >= vec4u(args.score.keep_threshold));
  let both = even | odd;
  return both.x | both.y | both.z | both.w;
}
//#endif

// What a probability is multiplied with: 1 without dropout, else 0 or keep_scale.
fn dropout_factor(head: Head, i: u32, j: u32) -> f32 {
  //#if DROPOUT
  let word = draws(head, i, j / 8u)[(j % 8u) / 2u];
  return select(0.0, args.score.keep_scale, extractBits(word, (j % 2u) * 16u, 16u) >= args.score.keep_threshold);
  //#else
  return 1.0;
  //#endif
}

//#if SINKS
// Float32 bits of the logit of a head that has no value row.
fn sink_bits(head: Head, h: u32) -> u32 {
  //#if ALIBI
  return head_terms[head.index * 2u + 1u];
  //#else
  return widen(${SINKS_DTYPE}u, sinks[h / ${SINKS_PER_WORD}u], h % ${SINKS_PER_WORD}u);
  //#endif
}
//#endif
