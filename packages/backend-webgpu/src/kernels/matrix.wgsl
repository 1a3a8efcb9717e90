enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
requires subgroup_id;
// Subgroup operations stand in control flow that is uniform, though the analysis sees a subgroup's number as varying.
diagnostic(off, chromium.subgroup_matrix_uniformity);
diagnostic(off, subgroup_uniformity);

// Attention on subgroup matrices: float16 in, float32 sums. A workgroup takes a block of rows, a subgroup one or two tiles of 16 of
// them; q and the sums of P v stay in matrices for the whole block, in registers. WGSL gives no way to the elements of a
// matrix, so scores go through workgroup memory to become probabilities, and sums in registers cannot be rescaled when a row's
// max grows. They need not be. The first tile that a row sees fixes m, and all later tiles are taken against it:
//
//   P = 2^(s - m - HEADROOM), s in powers of two, m the max of the row's first visible tile
//
// - P of the true max is at least 2^-HEADROOM, since m is the score of a key that the row sees: l never vanishes. Float16
//   holds P from 2^-14 with all its bits and to within 2^-25 below, 2^-17 of the row's largest weight; rounding that weight
//   itself costs 2^-12. So a max that comes late costs no accuracy.
// - P overflows float16 once a score passes m by more than 15 + HEADROOM. The true max is kept track of, and a block with such
//   a row is done again with m = the true max. That cannot overflow, so there are at most two attempts.
//
// Keys come in tiles of 16. Tiles that every row sees whole are "full" and run in the fast loop, UNROLL at a turn, without masks.
// All others go through the loop before it, which masks, and replaces what is not finite in K and V by 0 so that what is hidden
// cannot leak through 0 * NaN; rows that see it become NaN at the end, by bits. A block whose full tiles hold keys that are not
// finite, or whose scores are so large that s rounds away against m, is done again by that loop alone: "careful". NaN and Inf of
// V in full tiles run through the sums of every row, as they should: all rows see them, and sums that are not finite become NaN.
//
// Two barriers a tile: what a subgroup writes before one (P; scores of the next tile) others, or it itself, read only behind it.

//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"

struct MatrixArgs {
  launch: Launch,
  // The piece of the problem: batches, query heads and rows [row_first, row_end). Heads share keys by groups.
  batch_first: u32,
  head_first: u32,
  heads: u32,
  pairs: u32,
  row_first: u32,
  row_end: u32,
  group: u32,
  // Skv
  keys: u32,
  // Rows of a block, keys of a tile; blocks of the piece's rows.
  tile_rows: u32,
  tile_keys: u32,
  blocks: u32,
  // (batch, head) pairs whose blocks run side by side, so that their keys stay in the cache.
  pairs_at_once: u32,
  // From a product to the exponent of 2, from a product to a logit; both positive, q takes the sign.
  to_exponent: f32,
  to_logit: f32,
  // Flips the sign of two float16 numbers if the scale is negative.
  flip: u32,
  // A power of two that q is multiplied by, and part of the scale: 1, or with scores in float16 what makes them about as large as
  // logits, since raw products overflow sooner.
  q_scale: f32,
  // In chunks of 8 elements: strides along batch, head and row, and what lies before the window.
//#for n in 4
  batch_${n}: u32,
  head_${n}: u32,
  row_${n}: u32,
  first_${n}: u32,
//#endfor
  lse_batch: u32,
  lse_head: u32,
  lse_first: u32,
  // Structs in uniforms begin at multiples of 16 bytes.
  unused: u32,
  score: Score,
}

@group(0) @binding(0) var<uniform> args: MatrixArgs;
@group(0) @binding(1) var<storage, read> q: array<vec4u>;
@group(0) @binding(2) var<storage, read> k: array<vec4u>;
@group(0) @binding(3) var<storage, read> v: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4u>;
//#if LSE
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
//#endif
//#if SINKS
@group(0) @binding(${SINKS_BINDING}) var<storage, read> sinks: array<u32>;
//#endif

// Rows of memory are chunks of 8 float16 or 4 float32. Their strides are chosen so that the eight chunks which eight lanes, or
// eight rows of a matrix, touch at once lie in different banks.
const SCORE_STRIDE: u32 = ${SCORE_STRIDE}u;
const K_STRIDE: u32 = ${2 * K_STEPS + 1}u;
const V_STRIDE: u32 = ${2 * V_STEPS + 1}u;
const P_STRIDE: u32 = ${P_STRIDE}u;
const THREADS: u32 = ${THREADS}u;
// Rows of a subgroup.
const OWN_ROWS: u32 = ${16 * ROW_TILES}u;

var<workgroup> k_tile: array<vec4u, ${16 * (2 * K_STEPS + 1)}>;
var<workgroup> v_tile: array<vec4u, ${16 * (2 * V_STEPS + 1)}>;
// Scores of 16 keys a row, and for a while q and out.
var<workgroup> scores: array<vec4u, ${16 * ROW_TILES * SUBGROUPS * SCORE_STRIDE}>;
//#if P_APART
var<workgroup> probabilities: array<vec4u, ${16 * ROW_TILES * SUBGROUPS * P_STRIDE}>;
//#endif
//#if STATE_APART
// l and the true max of the rows of a lane. In registers they would be missed by the matrices.
var<workgroup> state: array<vec4f, ${THREADS}>;
//#endif
// Rows whose q, or a key that they see, is not finite: a bit each.
var<workgroup> bad_rows: array<atomic<u32>, ${(16 * ROW_TILES * SUBGROUPS + 31) / 32}>;
var<workgroup> flags: atomic<u32>;
var<workgroup> decision: u32;

// A score passed what m allows; scores are huge; a full tile, or one that was masked, holds keys or values that are not finite.
const OVERFLOW: u32 = 1u;
const HUGE: u32 = 2u;
const BAD_FULL: u32 = 4u;
const BAD_MASKED: u32 = 8u;

const HEADROOM: f32 = 8.0;
const LARGEST_EXPONENT: f32 = 15.0;
// From here on float32 holds s in powers of two with less than 2^-13, which the lse of a row shows, and gradients after it.
const HUGE_EXPONENT: f32 = 2048.0;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
//#if F16_SCORES
alias Product = subgroup_matrix_result<f16, 16, 16>;
//#else
alias Product = subgroup_matrix_result<f32, 16, 16>;
//#endif

fn max8(a: vec4f, b: vec4f) -> f32 {
  return max(max(max(a.x, a.y), max(a.z, a.w)), max(max(b.x, b.y), max(b.z, b.w)));
}

fn sum8(a: vec4f, b: vec4f) -> f32 {
  return ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
}

fn pack8(a: vec4f, b: vec4f) -> vec4u {
  return vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}

// Two vectors as a chunk of float16, to nearest even; what is not finite as NaN.
fn round8(a: vec4f, b: vec4f) -> vec4u {
  var x = pack8(on_grid(a), on_grid(b));
  let a_bad = nonfinite4(${F32}u, bitcast<vec4u>(a)) >> vec4u(31u);
  let b_bad = nonfinite4(${F32}u, bitcast<vec4u>(b)) >> vec4u(31u);
  if (any((a_bad | b_bad) != vec4u(0u))) {
    x |= vec4u(a_bad.x | (a_bad.y << 16u), a_bad.z | (a_bad.w << 16u), b_bad.x | (b_bad.y << 16u), b_bad.z | (b_bad.w << 16u)) * 0x7e00u;
  }
  return x;
}

//#if F16_SCORES
fn scaled8(chunk: vec4u, by: f32) -> vec4u {
  return vec4u(
    pack2x16float(unpack2x16float(chunk.x) * by),
    pack2x16float(unpack2x16float(chunk.y) * by),
    pack2x16float(unpack2x16float(chunk.z) * by),
    pack2x16float(unpack2x16float(chunk.w) * by),
  );
}
//#endif

// Rounded to the 11 bits of float16, so that no rounding is left to packing; but for denormals, which are 2^-24 apart.
fn on_grid(x: vec4f) -> vec4f {
  let bits = bitcast<vec4u>(x);
  return bitcast<vec4f>((bits + vec4u(0xfffu) + ((bits >> vec4u(13u)) & vec4u(1u))) & vec4u(0xffffe000u));
}

// Of a row's two lanes: what the other one has, and the larger.
fn other_half(x: f32) -> f32 {
  return subgroupShuffleXor(x, ${HALF_LANE}u);
}

fn over_row(x: f32) -> f32 {
  return max(x, other_half(x));
}

fn any_bad(chunk: vec4u) -> bool {
  let bad = nonfinite4(${F16}u, chunk);
  return (bad.x | bad.y | bad.z | bad.w) != 0u;
}

// With 0 for what is not finite.
fn cleaned(chunk: vec4u) -> vec4u {
  let bad = nonfinite4(${F16}u, chunk);
  let low = select(vec4u(0u), vec4u(0xffffu), (bad & vec4u(0x8000u)) != vec4u(0u));
  let high = select(vec4u(0u), vec4u(0xffff0000u), (bad & vec4u(0x80000000u)) != vec4u(0u));
  return chunk & ~(low | high);
}

// First and last key that row i sees; the last may lie before the first.
fn seen_keys(i: u32) -> vec2i {
  return vec2i(max(i32(i) + args.score.band_lo, 0), min(i32(i) + args.score.band_hi, i32(args.keys) - 1));
}

//#if STATE_APART
fn load_state(at: u32, thread: u32) -> vec4f {
  return state[thread];
}

fn store_state(at: u32, thread: u32, value: vec4f) {
  state[thread] = value;
}
//#else
fn load_state(at: u32, thread: u32) -> vec4f {
  return bitcast<vec4f>(scores[at]);
}

fn store_state(at: u32, thread: u32, value: vec4f) {
  scores[at] = bitcast<vec4u>(value);
}
//#endif

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let n = workgroup_index(args.launch, id, count);
  if (n >= args.launch.end) {
    return;
  }

  // setup: which rows of which head. Blocks of the last rows, which causal attention makes the longest, go first.
  let bunch = n / (args.blocks * args.pairs_at_once);
  let in_bunch = n % (args.blocks * args.pairs_at_once);
  let pairs = min(args.pairs_at_once, args.pairs - bunch * args.pairs_at_once);
  let pair = bunch * args.pairs_at_once + in_bunch % pairs;
  let b = args.batch_first + pair / args.heads;
  let h = args.head_first + pair % args.heads;
  let i0 = args.row_first + (args.blocks - 1u - in_bunch / pairs) * args.tile_rows;
  let i1 = min(i0 + args.tile_rows, args.row_end);
  let q_base = b * args.batch_0 + h * args.head_0 - args.first_0;
  let k_base = b * args.batch_1 + (h / args.group) * args.head_1 - args.first_1;
  let v_base = b * args.batch_2 + (h / args.group) * args.head_2 - args.first_2;
  let out_base = b * args.batch_3 + h * args.head_3 - args.first_3;
  let to_exponent = args.to_exponent;

  // A lane has 8 keys, half of a tile, of each of ROW_TILES rows: `row` and those 16 and more behind it.
  let own = min(subgroup, ${SUBGROUPS - 1}u);
  let half = (lane / ${HALF_LANE}u) & 1u;
  let row = (lane / ${2 * HALF_LANE}u) * ${HALF_LANE}u + lane % ${HALF_LANE}u;
  let scores_at = own * ${16 * ROW_TILES * SCORE_STRIDE}u;
  let row_at = scores_at + row * SCORE_STRIDE;
  let i_own = i0 + own * OWN_ROWS + row;
  //#if F16_SCORES
  let first_key = half * 8u;
  let second_key = half * 8u + 4u;
  //#else
  // The second half of the tile is read, and its probabilities written, in the order 12..15, 8..11: see SCORE_STRIDE. Values
  // are staged in the same order.
  let first_at = row_at + half * 3u;
  let second_at = row_at + 1u + half;
  let first_key = half * 12u;
  let second_key = 4u + half * 4u;
  //#endif
  //#if P_APART
  let p_memory = &probabilities;
  let p_matrix_at = own * ${16 * ROW_TILES * P_STRIDE}u;
  let p_at = p_matrix_at + row * P_STRIDE + half;
  //#else
  let p_memory = &scores;
  let p_matrix_at = scores_at + ${P_AT}u;
  let p_at = row_at + ${P_AT}u + half;
  //#endif
  //#if F16_SCORES
  // The chunk at the end of a row that keeps the banks apart: as many as there are lanes.
  let state_at = scores_at + lane * SCORE_STRIDE + 4u;
  //#else
  let state_at = row_at + 4u + half;
  //#endif

  // load: q, through workgroup memory, 16 columns at a time, with 0 for what lies beyond the rows or is not finite.
  if (thread == 0u) {
    atomicStore(&flags, 0u);
  }
  if (thread < ${(16 * ROW_TILES * SUBGROUPS + 31) / 32}u) {
    atomicStore(&bad_rows[thread], 0u);
  }
  //#if K_CHUNKS % 2 == 1
  if (thread < 16u) {
    k_tile[thread * K_STRIDE + ${K_CHUNKS}u] = vec4u(0u);
  }
  //#endif
  //#if V_CHUNKS % 2 == 1
  if (thread < 16u) {
    v_tile[thread * V_STRIDE + ${V_CHUNKS}u] = vec4u(0u);
  }
  //#endif
  //#for c in K_STEPS
  workgroupBarrier();
  //#for n in ROW_TILES
  {
    let r = (lane >> 1u) + ${16 * n}u;
    let chunk = ${2 * c}u + (lane & 1u);
    let i = i0 + own * OWN_ROWS + r;
    var x = vec4u(0u);
    if (i < i1 && chunk < ${K_CHUNKS}u) {
      x = q[q_base + i * args.row_0 + chunk];
    }
    if (any_bad(x)) {
      x = vec4u(0u);
      atomicOr(&bad_rows[(own * OWN_ROWS + r) / 32u], 1u << ((own * OWN_ROWS + r) % 32u));
    }
    x ^= vec4u(args.flip);
    //#if F16_SCORES
    x = scaled8(x, args.q_scale);
    //#endif
    scores[scores_at + r * SCORE_STRIDE + (lane & 1u)] = x;
  }
  //#endfor
  workgroupBarrier();
  //#for r in ROW_TILES
  let q_${r}_${c} = subgroupMatrixLoad<Left, row_major>(&scores, scores_at + ${16 * r}u * SCORE_STRIDE, SCORE_STRIDE);
  //#endfor
  //#endfor
  workgroupBarrier();

  //#for r in ROW_TILES
  var m_${r} = HIDDEN;
  //#for d in V_STEPS
  var o_${r}_${d} = Sum();
  //#endfor
  //#endfor

  // Tiles [first, last), of which [full, full + whole) are full.
  let range = key_range(i0, i1 - 1u, args.keys);
  let tile_keys = args.tile_keys;
  let first = range.begin / tile_keys;
  let last = (range.end + tile_keys - 1u) / tile_keys;
  let full = (range.full_begin + 15u) / 16u;
  let whole = select(0u, max(full, range.full_end / 16u) - full, tile_keys == 16u && range.begin < range.end);

  // What a thread stages of each tile: chunks of K and V, by key and column, and where they go.
  let most = max(args.keys, 1u) - 1u;
  //#for n in K_ITEMS
  let k_item_${n} = thread + ${n}u * THREADS;
  let k_key_${n} = min(k_item_${n} / ${K_CHUNKS}u, 15u);
  let k_column_${n} = k_item_${n} % ${K_CHUNKS}u;
  let k_to_${n} = k_key_${n} * K_STRIDE + k_column_${n};
  var k_ahead_${n}: vec4u;
  //#endfor
  //#for n in V_ITEMS
  let v_item_${n} = thread + ${n}u * THREADS;
  let v_key_${n} = min(v_item_${n} / ${V_CHUNKS}u, 15u);
  let v_column_${n} = v_item_${n} % ${V_CHUNKS}u;
  //#if F16_SCORES
  let v_to_${n} = v_key_${n} * V_STRIDE + v_column_${n};
  //#else
  let v_to_${n} = (v_key_${n} ^ ((v_key_${n} >> 1u) & 4u)) * V_STRIDE + v_column_${n};
  //#endif
  var v_ahead_${n}: vec4u;
  //#endfor
  // First and last key that some row of the subgroup sees.
  let own_first = i32(i0 + own * OWN_ROWS) + args.score.band_lo;
  let own_last = i32(i0 + own * OWN_ROWS + OWN_ROWS - 1u) + args.score.band_hi;

  var found = 0u;
  var marked = 0u;
  var exact = false;
  var careful = false;
  var headroom = HEADROOM;
  loop {
    store_state(state_at, thread, vec4f(0.0, 0.0, HIDDEN, HIDDEN));
    let fast = select(whole / ${UNROLL}u * ${UNROLL}u, 0u, careful);
    let others = last - first - fast;

    // The loop that masks. Where the fast one follows, a step that only computes the scores of its first tile goes before, for
    // m, and another after, for the tile itself.
    let steps = select(others, select(1u, others + 2u, others > 0u), fast > 0u);
    var tile = select(first, full, fast > 0u);
    //#for n in K_ITEMS
    k_ahead_${n} = k[k_base + min(tile * tile_keys + k_key_${n}, most) * ${K_ROW}u + k_column_${n}];
    //#endfor
    //#for n in V_ITEMS
    v_ahead_${n} = v[v_base + min(tile * tile_keys + v_key_${n}, most) * ${V_ROW}u + v_column_${n}];
    //#endfor
    for (var s = 0u; s < steps; s++) {
      let priming = fast > 0u && (s == 0u || s + 1u == steps);
      let j0 = tile * tile_keys;

      // load: what was read ahead, and ahead the next tile
      //#for n in K_ITEMS
      if (any_bad(k_ahead_${n})) {
        k_ahead_${n} = vec4u(0u);
        found |= BAD_MASKED;
      }
      if (k_item_${n} < ${16 * K_CHUNKS}u) {
        k_tile[k_to_${n}] = k_ahead_${n};
      }
      //#endfor
      //#for n in V_ITEMS
      if (any_bad(v_ahead_${n})) {
        v_ahead_${n} = cleaned(v_ahead_${n});
        found |= BAD_MASKED;
      }
      if (v_item_${n} < ${16 * V_CHUNKS}u) {
        v_tile[v_to_${n}] = v_ahead_${n};
      }
      //#endfor
      if (fast > 0u && s + 2u >= steps) {
        tile = full;
      } else {
        tile = first + s + select(1u, 0u, fast > 0u);
        tile += select(0u, fast, tile >= full);
      }
      //#for n in K_ITEMS
      k_ahead_${n} = k[k_base + min(tile * tile_keys + k_key_${n}, most) * ${K_ROW}u + k_column_${n}];
      //#endfor
      //#for n in V_ITEMS
      v_ahead_${n} = v[v_base + min(tile * tile_keys + v_key_${n}, most) * ${V_ROW}u + v_column_${n}];
      //#endfor
      workgroupBarrier();

      // Rows of this subgroup that see nothing of the tile leave it alone.
      let sees = priming || (i32(j0) <= own_last && i32(j0 + tile_keys) > own_first);

      // scores
      if (sees) {
        //#for r in ROW_TILES
        var s_${r} = Product();
        //#endfor
        //#for c in K_STEPS
        let k_${c} = subgroupMatrixLoad<Right, col_major>(&k_tile, ${2 * c}u, K_STRIDE);
        //#for r in ROW_TILES
        s_${r} = subgroupMatrixMultiplyAccumulate(q_${r}_${c}, k_${c}, s_${r});
        //#endfor
        //#endfor
        //#for r in ROW_TILES
        subgroupMatrixStore<row_major>(&scores, scores_at + ${16 * r}u * SCORE_STRIDE, s_${r}, SCORE_STRIDE);
        //#endfor
      }
      workgroupBarrier();

      // softmax
      if (sees && (!priming || (s == 0u && !exact))) {
        var sums = load_state(state_at, thread);
        //#for r in ROW_TILES
        {
          let seen = seen_keys(i_own + ${16 * r}u);
          let end = min(seen.y, i32(j0 + tile_keys) - 1);
          let a_keys = vec4i(0, 1, 2, 3) + i32(j0 + first_key);
          let b_keys = vec4i(0, 1, 2, 3) + i32(j0 + second_key);
          let a_seen = (a_keys >= vec4i(seen.x)) & (a_keys <= vec4i(end));
          let b_seen = (b_keys >= vec4i(seen.x)) & (b_keys <= vec4i(end));
          //#if F16_SCORES
          let x = scores[row_at + ${16 * r}u * SCORE_STRIDE + half];
          let a = select(vec4f(HIDDEN), vec4f(unpack2x16float(x.x), unpack2x16float(x.y)), a_seen);
          let b = select(vec4f(HIDDEN), vec4f(unpack2x16float(x.z), unpack2x16float(x.w)), b_seen);
          //#else
          let a = select(vec4f(HIDDEN), bitcast<vec4f>(scores[first_at + ${16 * r}u * SCORE_STRIDE]), a_seen);
          let b = select(vec4f(HIDDEN), bitcast<vec4f>(scores[second_at + ${16 * r}u * SCORE_STRIDE]), b_seen);
          //#endif
          let top = over_row(max8(a, b));
          if (m_${r} == HIDDEN && top > HIDDEN) {
            m_${r} = select(fma(top, to_exponent, headroom), top, careful);
          }
          var a_exponent = fma(a, vec4f(to_exponent), vec4f(-m_${r}));
          var b_exponent = fma(b, vec4f(to_exponent), vec4f(-m_${r}));
          if (careful) {
            a_exponent = (a - m_${r}) * to_exponent - headroom;
            b_exponent = (b - m_${r}) * to_exponent - headroom;
          }
          let a_p = select(vec4f(0.0), exp2(min(a_exponent, vec4f(127.0))), a_seen);
          let b_p = select(vec4f(0.0), exp2(min(b_exponent, vec4f(127.0))), b_seen);
          (*p_memory)[p_at + ${16 * r}u * P_STRIDE] = pack8(a_p, b_p);
          sums[${r}] += sum8(a_p, b_p);
          sums[${2 + r}] = max(sums[${2 + r}], top);
        }
        //#endfor
        if (!priming) {
          store_state(state_at, thread, sums);
        }
      }
      workgroupBarrier();

      // accumulate
      if (sees && !priming) {
        //#for r in ROW_TILES
        let p_${r} = subgroupMatrixLoad<Left, row_major>(p_memory, p_matrix_at + ${16 * r}u * P_STRIDE, P_STRIDE);
        //#endfor
        //#for d in V_STEPS
        let v_${d} = subgroupMatrixLoad<Right, row_major>(&v_tile, ${2 * d}u, V_STRIDE);
        //#for r in ROW_TILES
        o_${r}_${d} = subgroupMatrixMultiplyAccumulate(p_${r}, v_${d}, o_${r}_${d});
        //#endfor
        //#endfor
      }
      workgroupBarrier();
    }

    // The fast loop: the scores of tile j are there; K of tile j + 1 and V of tile j are on their way.
    if (fast > 0u) {
      //#for n in K_ITEMS
      let k_from_${n} = k_base + (full * 16u + k_key_${n}) * ${K_ROW}u + k_column_${n};
      //#endfor
      //#for n in V_ITEMS
      let v_from_${n} = v_base + (full * 16u + v_key_${n}) * ${V_ROW}u + v_column_${n};
      //#endfor
      //#for n in K_ITEMS
      k_ahead_${n} = k[k_from_${n} + min(1u, fast - 1u) * ${16 * K_ROW}u];
      //#endfor
      //#for n in V_ITEMS
      v_ahead_${n} = v[v_from_${n}];
      //#endfor
      for (var j = 0u; j < fast; j += ${UNROLL}u) {
        //#for u in UNROLL
        {
          // softmax
          var sums = load_state(state_at, thread);
          //#for r in ROW_TILES
          //#if F16_SCORES
          let x_${r} = scores[row_at + ${16 * r}u * SCORE_STRIDE + half];
          let a_${r} = vec4f(unpack2x16float(x_${r}.x), unpack2x16float(x_${r}.y));
          let b_${r} = vec4f(unpack2x16float(x_${r}.z), unpack2x16float(x_${r}.w));
          //#else
          let a_${r} = bitcast<vec4f>(scores[first_at + ${16 * r}u * SCORE_STRIDE]);
          let b_${r} = bitcast<vec4f>(scores[second_at + ${16 * r}u * SCORE_STRIDE]);
          //#endif
          //#endfor
          //#for r in ROW_TILES
          let a_p_${r} = exp2(fma(a_${r}, vec4f(to_exponent), vec4f(-m_${r})));
          let b_p_${r} = exp2(fma(b_${r}, vec4f(to_exponent), vec4f(-m_${r})));
          (*p_memory)[p_at + ${16 * r}u * P_STRIDE] = pack8(a_p_${r}, b_p_${r});
          sums[${r}] += sum8(a_p_${r}, b_p_${r});
          sums[${2 + r}] = max(sums[${2 + r}], max8(a_${r}, b_${r}));
          //#endfor
          store_state(state_at, thread, sums);

          // load
          //#for n in K_ITEMS
          found |= select(0u, BAD_FULL, any_bad(k_ahead_${n}));
          //#if 16 * K_CHUNKS < THREADS * (n + 1)
          if (k_item_${n} < ${16 * K_CHUNKS}u) {
            k_tile[k_to_${n}] = k_ahead_${n};
          }
          //#else
          k_tile[k_to_${n}] = k_ahead_${n};
          //#endif
          //#endfor
          //#for n in V_ITEMS
          //#if 16 * V_CHUNKS < THREADS * (n + 1)
          if (v_item_${n} < ${16 * V_CHUNKS}u) {
            v_tile[v_to_${n}] = v_ahead_${n};
          }
          //#else
          v_tile[v_to_${n}] = v_ahead_${n};
          //#endif
          //#endfor
          //#for n in K_ITEMS
          k_ahead_${n} = k[k_from_${n} + min(j + ${u + 2}u, fast - 1u) * ${16 * K_ROW}u];
          //#endfor
          //#for n in V_ITEMS
          v_ahead_${n} = v[v_from_${n} + min(j + ${u + 1}u, fast - 1u) * ${16 * V_ROW}u];
          //#endfor
          workgroupBarrier();

          // accumulate
          //#for r in ROW_TILES
          let p_${r} = subgroupMatrixLoad<Left, row_major>(p_memory, p_matrix_at + ${16 * r}u * P_STRIDE, P_STRIDE);
          //#endfor
          //#for d in V_STEPS
          let v_${d} = subgroupMatrixLoad<Right, row_major>(&v_tile, ${2 * d}u, V_STRIDE);
          //#for r in ROW_TILES
          o_${r}_${d} = subgroupMatrixMultiplyAccumulate(p_${r}, v_${d}, o_${r}_${d});
          //#endfor
          //#endfor

          // scores of the next tile
          //#for r in ROW_TILES
          var s_${r} = Product();
          //#endfor
          //#for c in K_STEPS
          let k_${c} = subgroupMatrixLoad<Right, col_major>(&k_tile, ${2 * c}u, K_STRIDE);
          //#for r in ROW_TILES
          s_${r} = subgroupMatrixMultiplyAccumulate(q_${r}_${c}, k_${c}, s_${r});
          //#endfor
          //#endfor
          //#for r in ROW_TILES
          subgroupMatrixStore<row_major>(&scores, scores_at + ${16 * r}u * SCORE_STRIDE, s_${r}, SCORE_STRIDE);
          //#endfor
          workgroupBarrier();
        }
        //#endfor
      }
    }

    // Is this attempt good?
    let sums = load_state(state_at, thread);
    //#for r in ROW_TILES
    let top_${r} = over_row(sums[${2 + r}]);
    if (top_${r} > HIDDEN) {
      let over = select(fma(top_${r}, to_exponent, -m_${r}), (top_${r} - m_${r}) * to_exponent - headroom, careful);
      found |= select(0u, OVERFLOW, over > LARGEST_EXPONENT);
      found |= select(0u, HUGE, max(abs(m_${r}), abs(top_${r} * to_exponent)) > HUGE_EXPONENT);
    }
    //#endfor
    if (found != 0u) {
      atomicOr(&flags, found);
    }
    workgroupBarrier();
    if (thread == 0u) {
      decision = atomicLoad(&flags);
      atomicStore(&flags, 0u);
    }
    let verdict = workgroupUniformLoad(&decision);
    found = 0u;
    marked |= verdict & BAD_MASKED;
    if ((verdict & (HUGE | BAD_FULL)) != 0u && !careful) {
      careful = true;
      exact = false;
      headroom = HEADROOM;
      //#for r in ROW_TILES
      m_${r} = HIDDEN;
      //#endfor
    } else if ((verdict & OVERFLOW) != 0u && !exact) {
      exact = true;
      headroom = 0.0;
      //#for r in ROW_TILES
      m_${r} = select(select(top_${r} * to_exponent, top_${r}, careful), HIDDEN, top_${r} == HIDDEN);
      //#endfor
    } else {
      break;
    }
    //#for r in ROW_TILES
    //#for d in V_STEPS
    o_${r}_${d} = Sum();
    //#endfor
    //#endfor
  }

  // Keys that are not finite: rows that see one are NaN. A thread goes along the keys of two columns, and along the rows, whose
  // first and last keys only grow.
  if (marked != 0u) {
    for (var word = thread; word < ${4 * K_CHUNKS}u; word += THREADS) {
      var j = i32(range.begin);
      var bad_end = 0;
      for (var i = i0; i < i1; i++) {
        let seen = seen_keys(i);
        for (; j <= seen.y; j++) {
          if (nonfinite(${F16}u, k[k_base + u32(j) * ${K_ROW}u + word / 4u][word % 4u]) != 0u) {
            bad_end = j + 1;
          }
        }
        if (seen.x <= seen.y && bad_end > seen.x) {
          atomicOr(&bad_rows[(i - i0) / 32u], 1u << ((i - i0) % 32u));
        }
      }
    }
    workgroupBarrier();
  }

  // finish: out = acc / l, lse = m + ln l
  let ends = load_state(state_at, thread);
  //#for r in ROW_TILES
  let i_${r} = i_own + ${16 * r}u;
  let seen_${r} = seen_keys(i_${r});
  let empty_${r} = seen_${r}.x > seen_${r}.y;
  let l_${r} = ends[${r}] + other_half(ends[${r}]);
  let bit_${r} = own * OWN_ROWS + row + ${16 * r}u;
  let bad_row_${r} = ((atomicLoad(&bad_rows[bit_${r} / 32u]) >> (bit_${r} % 32u)) & 1u) != 0u;
  var bad_${r} = !empty_${r} && (bad_row_${r} || !is_finite(bitcast<u32>(l_${r})));
  var inverse_${r} = select(1.0 / l_${r}, 0.0, empty_${r});
  {
    var logit = select((m_${r} + log2(l_${r})) * LN_2, m_${r} * args.to_logit + (headroom + log2(l_${r})) * LN_2, careful);
    var bits = select(finite_or_nan(logit), 0xff800000u, empty_${r});
    bits = select(bits, 0x7fc00000u, bad_${r});
    //#if SINKS
    // One logit more in the denominator. -Infinity is none.
    let sink_word = widen(${SINKS_DTYPE}u, sinks[h / ${SINKS_PER_WORD}u], h % ${SINKS_PER_WORD}u);
    if (is_finite(sink_word)) {
      let sink = bitcast<f32>(sink_word);
      if (empty_${r}) {
        bits = sink_word;
      } else if (!bad_${r}) {
        let top = max(logit, sink);
        let joined = top + log2(exp2((logit - top) * LOG2_E) + exp2((sink - top) * LOG2_E)) * LN_2;
        inverse_${r} *= exp2((logit - joined) * LOG2_E);
        bits = finite_or_nan(joined);
      }
    } else if (sink_word != 0xff800000u) {
      bad_${r} = !empty_${r};
      bits = 0x7fc00000u;
    }
    //#endif
    //#if LSE
    if (half == 0u && i_${r} < i1) {
      lse[b * args.lse_batch + h * args.lse_head + i_${r} - args.lse_first] = bits;
    }
    //#endif
  }
  //#endfor
  //#for d in V_STEPS
  workgroupBarrier();
  //#for r in ROW_TILES
  subgroupMatrixStore<row_major>(&scores, scores_at + ${16 * r}u * SCORE_STRIDE, o_${r}_${d}, SCORE_STRIDE);
  //#endfor
  workgroupBarrier();
  //#for r in ROW_TILES
  if (i_${r} < i1 && ${2 * d}u + half < ${V_CHUNKS}u) {
    let a = bitcast<vec4f>(scores[row_at + ${16 * r}u * SCORE_STRIDE + 2u * half]) * inverse_${r};
    let b = bitcast<vec4f>(scores[row_at + ${16 * r}u * SCORE_STRIDE + 2u * half + 1u]) * inverse_${r};
    var x = round8(a, b);
    x = select(select(x, vec4u(0x7e007e00u), bad_${r}), vec4u(0u), empty_${r});
    out[out_base + i_${r} * args.row_3 + ${2 * d}u + half] = x;
  }
  //#endfor
  //#endfor

  // Values that are not finite: in rows that see one, its element is NaN. As with the keys.
  if (marked != 0u) {
    storageBarrier();
    for (var word = thread; word < ${4 * V_CHUNKS}u; word += THREADS) {
      var j = i32(range.begin);
      var bad_ends = vec2i(0);
      for (var i = i0; i < i1; i++) {
        let seen = seen_keys(i);
        for (; j <= seen.y; j++) {
          let bad = nonfinite(${F16}u, v[v_base + u32(j) * ${V_ROW}u + word / 4u][word % 4u]);
          bad_ends = select(bad_ends, vec2i(j + 1), (vec2u(bad) & vec2u(0x8000u, 0x80000000u)) != vec2u(0u));
        }
        if (seen.x <= seen.y) {
          let at = out_base + i * args.row_3 + word / 4u;
          var x = out[at][word % 4u];
          x = select(x, (x & 0xffff0000u) | 0x7e00u, bad_ends.x > seen.x);
          x = select(x, (x & 0xffffu) | 0x7e000000u, bad_ends.y > seen.x);
          out[at][word % 4u] = x;
        }
      }
    }
  }
}
