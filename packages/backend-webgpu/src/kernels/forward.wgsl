// FlashAttention forward on float32 arithmetic: one workgroup takes BR = SIDE TY query rows of one head through all keys that
// they see, BC = SIDE TX keys at a time. Thread (tx, ty) holds a SIDE x SIDE piece of the scores and SIDE rows x OC vectors of the
// result in registers, and both products run like a matrix product of such pieces, fed from workgroup memory in chunks: CD
// features of q and k, CK rows of v. SIDE is 4 QUADS, 4 or 8. With SUMS 2 the odd features of a
// score are summed apart. The keys of a tile are in PARTS: a thread holds sums over those of one part, TX = PARTS VX, until the parts are
// added up at the end.
//
// Each product is a sum of outer products, one a feature or key: SIDE numbers of the left side times SIDE or 4 OC of the right. So q, k and
// the probabilities lie transposed in workgroup memory, and what the next outer product needs is few registers, there while this one runs.
//
// The running max of a row is moved only when a score exceeds it by more than `lag`: any subtrahend near the max gives the same
// quotient, so most tiles need no exchange between threads and no rescaling.
//
// Elements that are not finite raise a flag where they are staged; then the pairs that see them are marked, which is slow and
// rare, and the results of those marked are NaN at the end. In k and v they are replaced by 0, since 0 times NaN is NaN; in q
// they spoil only rows that are NaN or see nothing, and both are overwritten.

//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"
//#include "lib/rows.wgsl"
//#include "lib/finish.wgsl"

struct ForwardArgs {
  launch: Launch,
  score: Score,
  // Piece of the problem: the first batch and how many, the first key head and how many, and rows [row_from, row_to).
  batch_from: u32,
  batches: u32,
  head_from: u32,
  heads: u32,
  row_from: u32,
  row_to: u32,
  // Query heads that share a key head.
  group: u32,
  rows: u32,
  keys: u32,
  // D and Dv.
  depth: u32,
  columns: u32,
  // Rows and keys of a tile, at most BR and BC.
  tile_q: u32,
  tile_kv: u32,
  // Scores times this are exponents of 2, and natural logits.
  to_exponent: f32,
  to_logit: f32,
  lag: f32,
  // Strides in elements along batch, head and row, and elements before the window.
  q_batch: u32, q_head: u32, q_row: u32, q_first: u32,
  k_batch: u32, k_head: u32, k_row: u32, k_first: u32,
  v_batch: u32, v_head: u32, v_row: u32, v_first: u32,
  out_batch: u32, out_head: u32, out_row: u32, out_first: u32,
  lse_first: u32,
}

@group(0) @binding(0) var<uniform> args: ForwardArgs;
//#include "lib/tensors.wgsl"

// Features of q [CD, BR] and keys of probabilities [PARTS, CK, BR], in vectors of four rows: those from SIDE ty + 4 n on are vector n TY + ty.
// Each four features, FOUR_Q vectors, and keys, FOUR_P, have some vectors behind them, that what is stored together does not meet in a bank.
var<workgroup> left_smem: array<vec4f, ${LEFT}>;
// Features of k [CD, BC] in vectors of four keys, those from SIDE tx + 4 n on at n TX + tx, each four features FOUR_K; rows of v [PARTS, CK, OC VX] vectors; or row maxima
// and sums on their way between threads.
var<workgroup> right_smem: array<vec4f, ${RIGHT}>;
// In one array, since each variable is filled up to 16 bytes. Word GROWN: some score exceeds the max of its row by more than
// the lag. Word NOT_FINITE: some element that was staged is not finite. Bits from word BAD_ROWS on: rows that see such an element of k,
// or hold one in q and see a key.
var<workgroup> flags_smem: array<atomic<u32>, ${(BR + 31) / 32 + 2}>;
const GROWN: u32 = 0u;
const NOT_FINITE: u32 = 1u;
const BAD_ROWS: u32 = 2u;
// Bits: elements of out whose row sees an element of v that is not finite.
var<workgroup> bad_out_smem: array<atomic<u32>, ${BR * BAD_WORDS}>;
//#if MASK
// Whether row r sees key c of the tile: bit c % 32 of word [r, c / 32]. And of all: 1 if some pair is visible, 2 if some is not.
var<workgroup> visible_smem: array<u32, ${BR * (BC / 32)}>;
var<workgroup> visibility_smem: atomic<u32>;
//#endif

//#if NEGATIVE
// Multiplies q where scores are raw products with a scale below 0, so that larger is always likelier.
const SIGN: f32 = -1.0;
//#else
const SIGN: f32 = 1.0;
//#endif
const HEADS_AT_A_TIME: u32 = 16u;
const NONE: u32 = 0xffffffffu;

// What the workgroup works on.
struct Block {
  head: Head,
  // Rows [i0, i1).
  i0: u32,
  i1: u32,
  // Element offsets of the rows of the head.
  q: u32,
  k: u32,
  v: u32,
  range: Range,
}

// What a thread stages of each chunk of q or k: a unit of four rows.
struct Place {
  // Where its first row begins in chunk 0, of q or of k at key 0; and that column.
  first: u32,
  column: u32,
}

// @param n which unit of the chunk; neighbours share rows
// @param along TY for q, TX for k
fn place_of(first: u32, stride: u32, n: u32, along: u32) -> Place {
  let at = n / ${CD / UNIT}u;
  let column = n % ${CD / UNIT}u * ${UNIT}u;
  return Place(first + (at % along * ${SIDE}u + at / along * 4u) * stride + column, column);
}

// A tile of keys [begin, end), at most `tile_kv`; its first column stands for key `first`, a multiple of 8.
struct Keys {
  first: u32,
  begin: u32,
  end: u32,
}

fn keys_from(block: Block, begin: u32) -> Keys {
  return Keys(begin & ~7u, begin, min(begin + args.tile_kv, block.range.end));
}

// Row n of this thread of a chunk of q [BR, CD]. Rows behind the block are another's and of no consequence.
fn fetch_q(place: Place, chunk: u32, n: u32) -> vec4u {
  let at = place.first + n * args.q_row + chunk * ${CD}u;
  //#if VECTOR
  // What looked at the elements here would wait for them.
  return load_q(at, ${UNIT}u);
  //#else
  return load_q(at, elements_at(place.column + chunk * ${CD}u, args.depth));
  //#endif
}

// The same of k [BC, CD]. Columns behind D meet zeros in q; keys behind the tile are hidden.
fn fetch_k(place: Place, keys: Keys, chunk: u32, n: u32) -> vec4u {
  return load_k(place.first + (keys.first + n) * args.k_row + chunk * ${CD}u, ${UNIT}u);
}

// Unit n of a chunk of v [PARTS, CK, 4 OC VX]. Columns behind Dv are not stored; keys behind the tile weigh 0.
fn fetch_v(block: Block, keys: Keys, chunk: u32, n: u32) -> vec4u {
  let row = n / ${4 * OC * VX / UNIT}u;
  //#if PARTS == 1
  let j = keys.first + chunk * ${CK}u + row;
  //#else
  let j = keys.first + row / ${CK}u * ${BC / PARTS}u + chunk * ${CK}u + row % ${CK}u;
  //#endif
  return load_v(block.v + j * args.v_row + n % ${4 * OC * VX / UNIT}u * ${UNIT}u, ${UNIT}u);
}

// ---- the rare path

fn q_is_finite(at: u32) -> bool {
  let word = at / ${PER_WORD}u;
  //#if VECTOR
  return is_finite(widen(${DTYPE}u, q[word / 4u][word % 4u], at % ${PER_WORD}u));
  //#else
  return is_finite(widen(${DTYPE}u, q[word], at % ${PER_WORD}u));
  //#endif
}

fn k_is_finite(at: u32) -> bool {
  let word = at / ${PER_WORD}u;
  //#if VECTOR
  return is_finite(widen(${DTYPE}u, k[word / 4u][word % 4u], at % ${PER_WORD}u));
  //#else
  return is_finite(widen(${DTYPE}u, k[word], at % ${PER_WORD}u));
  //#endif
}

fn v_is_finite(at: u32) -> bool {
  let word = at / ${PER_WORD}u;
  //#if VECTOR
  return is_finite(widen(${DTYPE}u, v[word / 4u][word % 4u], at % ${PER_WORD}u));
  //#else
  return is_finite(widen(${DTYPE}u, v[word], at % ${PER_WORD}u));
  //#endif
}

// Marks what becomes NaN through the pairs of a tile: rows by q and k, elements of out by v.
fn mark_nonfinite(block: Block, keys: Keys, thread: u32) {
  for (var r = thread; r < block.i1 - block.i0; r += ${THREADS}u) {
    var bad = false;
    for (var d = 0u; d < args.depth; d++) {
      bad |= !q_is_finite(block.q + (block.i0 + r) * args.q_row + d);
    }
    for (var j = keys.begin; bad && j < keys.end; j++) {
      if (visible(block.head, block.i0 + r, j)) {
        atomicOr(&flags_smem[BAD_ROWS + r / 32u], 1u << (r % 32u));
        break;
      }
    }
  }
  for (var j = keys.begin + thread; j < keys.end; j += ${THREADS}u) {
    var bad = false;
    for (var d = 0u; d < args.depth; d++) {
      bad |= !k_is_finite(block.k + j * args.k_row + d);
    }
    for (var r = 0u; bad && r < block.i1 - block.i0; r++) {
      if (visible(block.head, block.i0 + r, j)) {
        atomicOr(&flags_smem[BAD_ROWS + r / 32u], 1u << (r % 32u));
      }
    }
    for (var d = 0u; d < args.columns; d++) {
      if (v_is_finite(block.v + j * args.v_row + d)) {
        continue;
      }
      for (var r = 0u; r < block.i1 - block.i0; r++) {
        if (visible(block.head, block.i0 + r, j)) {
          atomicOr(&bad_out_smem[r * ${BAD_WORDS}u + d / 32u], 1u << (d % 32u));
        }
      }
    }
  }
}

// ---- which tiles

// A tile that some row sees, or NONE in `begin`.
struct Tile {
  begin: u32,
  // Some pair of the tile is hidden, columns behind the last key among them.
  partial: bool,
}

fn next_tile(block: Block, start: u32, thread: u32) -> Tile {
  //#if MASK
  for (var begin = start; begin < block.range.end; begin += args.tile_kv) {
    let keys = keys_from(block, begin);
    if (thread == 0u) {
      atomicStore(&visibility_smem, 0u);
    }
    workgroupBarrier();
    for (var n = thread; n < ${BR * (BC / 32)}u; n += ${THREADS}u) {
      let i = block.i0 + n / ${BC / 32}u;
      let j = keys.first + n % ${BC / 32}u * 32u;
      var bits = 0u;
      if (i < block.i1 && j < keys.end) {
        //#for byte in 4
        bits |= band_bits(i, j + ${8 * byte}u, keys.begin, keys.end) << ${8 * byte}u;
        //#endfor
        if (bits != 0u) {
          bits &= mask_bits(block.head, i, j);
        }
      }
      visible_smem[n] = bits;
      atomicOr(&visibility_smem, select(0u, 1u, bits != 0u) | select(0u, 2u, bits != 0xffffffffu && i < block.i1));
    }
    let visibility = workgroupUniformLoad(&visibility_smem);
    if ((visibility & 1u) != 0u) {
      return Tile(begin, (visibility & 2u) != 0u);
    }
  }
  return Tile(NONE, false);
  //#else
  if (start >= block.range.end) {
    return Tile(NONE, false);
  }
  let keys = keys_from(block, start);
  let whole = keys.begin == keys.first && keys.end == keys.first + ${BC}u;
  return Tile(start, !whole || start < block.range.full_begin || keys.end > block.range.full_end);
  //#endif
}

// Bit c < SIDE says whether a row of the tile sees its key SIDE tx + c.
fn seen_keys(block: Block, keys: Keys, row: u32, tx: u32) -> u32 {
  //#if MASK
  return extractBits(visible_smem[row * ${BC / 32}u + tx * ${SIDE}u / 32u], tx * ${SIDE}u % 32u, ${SIDE}u);
  //#else
  return extractBits(band_bits(block.i0 + row, keys.first + tx * ${SIDE}u, keys.begin, keys.end), 0u, ${SIDE}u);
  //#endif
}

// Bits 4 n to 4 n + 3.
fn four_of(bits: u32, n: u32) -> vec4<bool> {
  return (vec4u(bits >> (4u * n)) & vec4u(1u, 2u, 4u, 8u)) != vec4u();
}

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  // setup: m, l [BR]; acc [BR, Dv]
  let index = workgroup_index(args.launch, id, count);
  if (index >= args.launch.end) {
    return;
  }
  let feature_chunks = (args.depth + ${CD - 1}u) / ${CD}u;
  // Neighbours in pairs along either side: vectors then come from workgroup memory in fewer turns.
  let tx = thread % 2u + thread / 4u % ${TX / 2}u * 2u;
  let ty = thread / 2u % 2u + thread / ${2 * TX}u * 2u;
  // Of which keys the thread takes v, and where along its columns.
  let key_part = tx / ${VX}u;
  let vx = tx % ${VX}u;
  let tiles = (args.row_to - args.row_from + args.tile_q - 1u) / args.tile_q;
  let heads = args.heads * args.group;
  //#if BAND
  // Blocks of the last rows, which see most keys of a causal problem, go first, over as many heads as a cache may hold.
  let first_head = index / (tiles * HEADS_AT_A_TIME) * HEADS_AT_A_TIME;
  let heads_now = min(HEADS_AT_A_TIME, args.batches * heads - first_head);
  let head_index = first_head + (index - first_head * tiles) % heads_now;
  let tile_index = tiles - 1u - (index - first_head * tiles) / heads_now;
  //#else
  let head_index = index / tiles;
  let tile_index = index % tiles;
  //#endif
  let h = args.head_from * args.group + head_index % heads;
  let b = args.batch_from + head_index / heads;
  var block: Block;
  block.head = head_of(b, h);
  block.i0 = args.row_from + tile_index * args.tile_q;
  block.i1 = min(block.i0 + args.tile_q, args.row_to);
  block.q = b * args.q_batch + h * args.q_head - args.q_first;
  block.k = b * args.k_batch + h / args.group * args.k_head - args.k_first;
  block.v = b * args.v_batch + h / args.group * args.v_head - args.v_first;
  // The first threads stage q, the last ones k.
  let stages_q = thread < ${Q_THREADS}u;
  let stages_k = thread >= ${THREADS - K_THREADS}u;
  // A branch round loads costs more than a few loads for nothing, but without one q and k each need registers of their own.
  //#if Q_AT > 0
  const fetches_q = true;
  const fetches_k = true;
  //#else
  let fetches_q = stages_q;
  let fetches_k = stages_k;
  //#endif
  let unit_q = thread % ${Q_THREADS}u;
  let unit_k = (${THREADS - 1}u - thread) % ${K_THREADS}u;
  let place_q = place_of(block.q + block.i0 * args.q_row, args.q_row, unit_q, ${TY}u);
  let place_k = place_of(block.k, args.k_row, unit_k, ${TX}u);
  // Where in workgroup memory the vectors of their first features lie.
  let slot_q = unit_q % ${CD / UNIT}u * ${UNIT / 4 * FOUR_Q}u + unit_q / ${CD / UNIT}u;
  let slot_k = unit_k % ${CD / UNIT}u * ${UNIT / 4 * FOUR_K}u + unit_k / ${CD / UNIT}u;
  block.range = key_range(block.i0, block.i1 - 1u, args.keys);
  // Of the thread's rows: the max, and the sum over the keys of this thread.
  //#for quad in QUADS
  var m${quad} = vec4f(HIDDEN);
  var l${quad} = vec4f();
  //#endfor
  //#for r in SIDE
  //#for d in OC
  var acc${r}_${d} = vec4f();
  //#endfor
  //#endfor
  // Units on their way from storage to workgroup memory: of k or v, and from Q_AT on of q.
  //#for n in AHEAD
  var ahead${n}: vec4u;
  //#endfor

  // A look at q, once; it is staged beside k, chunk by chunk, since room for all of it would keep other workgroups out.
  {
    let units = (args.depth + ${UNIT - 1}u) / ${UNIT}u;
    var watched = vec4u();
    for (var n = thread; n < (block.i1 - block.i0) * units; n += ${THREADS}u) {
      let d = n % units * ${UNIT}u;
      watched = watch(watched, load_q(block.q + (block.i0 + n / units) * args.q_row + d, elements_at(d, args.depth)));
    }
    if (was_bad(watched)) {
      atomicStore(&flags_smem[NOT_FINITE], 1u);
    }
  }
  var tile = next_tile(block, block.range.begin & ~7u, thread);
  if (tile.begin != NONE) {
    if (fetches_k) {
      //#for n in 4
      ahead${n} = fetch_k(place_k, keys_from(block, tile.begin), 0u, ${n}u);
      //#endfor
    }
    if (fetches_q) {
      //#for n in 4
      ahead${Q_AT + n} = fetch_q(place_q, 0u, ${n}u);
      //#endfor
    }
  }
  // Blocks and tiles may be smaller than the threads have room for: at the ends, or because they are asked to be.
  // With SKIPS such threads leave the products out.
  let has_rows = ty * ${SIDE}u < block.i1 - block.i0;
  while (tile.begin != NONE) {
    let keys = keys_from(block, tile.begin);
    let has_pairs = has_rows && tx * ${SIDE}u < keys.end - keys.first;
    //#for r in SIDE
    //#for quad in QUADS
    //#for n in SUMS
    var sum${r}_${quad}_${n} = vec4f();
    //#endfor
    //#endfor
    //#endfor
    for (var chunk = 0u; chunk < feature_chunks; chunk++) {
      // load: k [BC, CD] and q [BR, CD]
      workgroupBarrier();
      if (stages_k) {
        var watched = vec4u();
        //#for n in 4
        watched = watch(watched, ahead${n});
        //#endfor
        if (was_bad(watched)) {
          atomicStore(&flags_smem[NOT_FINITE], 1u);
          //#for n in 4
          ahead${n} &= ~nonfinite_elements(ahead${n});
          //#endfor
        }
        //#for part in UNIT / 4
        {
          //#for n in 4
          let row${n} = unit_vector(ahead${n}, ${part}u);
          //#endfor
          //#for x in 4
          right_smem[slot_k + ${part * FOUR_K + x * BC / 4}u] = vec4f(row0[${x}], row1[${x}], row2[${x}], row3[${x}]);
          //#endfor
        }
        //#endfor
      }
      if (stages_q) {
        //#if VECTOR
        // Columns behind D.
        if (place_q.column + chunk * ${CD}u >= args.depth) {
          //#for n in 4
          ahead${Q_AT + n} = vec4u();
          //#endfor
        }
        //#endif
        //#for part in UNIT / 4
        {
          //#for n in 4
          let row${n} = unit_vector(ahead${Q_AT + n}, ${part}u) * SIGN;
          //#endfor
          //#for x in 4
          left_smem[slot_q + ${part * FOUR_Q + x * BR / 4}u] = vec4f(row0[${x}], row1[${x}], row2[${x}], row3[${x}]);
          //#endfor
        }
        //#endfor
      }
      workgroupBarrier();
      if (chunk + 1u < feature_chunks) {
        if (fetches_k) {
          //#for n in 4
          ahead${n} = fetch_k(place_k, keys, chunk + 1u, ${n}u);
          //#endfor
        }
        if (fetches_q) {
          //#for n in 4
          ahead${Q_AT + n} = fetch_q(place_q, chunk + 1u, ${n}u);
          //#endfor
        }
      } else {
        //#for n in V_UNITS
        ahead${n} = fetch_v(block, keys, 0u, thread + ${n * THREADS}u);
        //#endfor
      }

      // scores: S += q k^T [BR, BC] over the features of the chunk
      //#if SKIPS
      if (has_pairs) {
      //#else
      {
      //#endif
        for (var turn = 0u; turn < ${CD / STEP}u; turn++) {
          //#for n in STEP
          {
            //#for quad in QUADS
            let q${quad} = left_smem[turn * ${STEP / 4 * FOUR_Q}u + ty + ${n / 4 * FOUR_Q + n % 4 * BR / 4 + quad * TY}u];
            let k${quad} = right_smem[turn * ${STEP / 4 * FOUR_K}u + tx + ${n / 4 * FOUR_K + n % 4 * BC / 4 + quad * TX}u];
            //#endfor
            //#for r in SIDE
            //#for quad in QUADS
            sum${r}_${quad}_${n % SUMS} = fma(vec4f(q${r / 4}[${r % 4}]), k${quad}, sum${r}_${quad}_${n % SUMS});
            //#endfor
            //#endfor
          }
          //#endfor
        }
      }
    }
    //#for r in SIDE
    //#for quad in QUADS
    var s${r}_${quad} = sum${r}_${quad}_0;
    //#if SUMS == 2
    s${r}_${quad} += sum${r}_${quad}_1;
    //#endif
    //#endfor
    //#endfor
    //#if !RAW
    //#for r in SIDE
    //#for quad in QUADS
    s${r}_${quad} = score4(block.head, s${r}_${quad}, block.i0 + ty * ${SIDE}u + ${r}u, keys.first + tx * ${SIDE}u + ${4 * quad}u);
    //#endfor
    //#endfor
    //#endif
    if (tile.partial) {
      var seen = array<u32, ${QUADS}>();
      for (var r = 0u; r < 4u; r++) {
        //#for quad in QUADS
        seen[${quad}] |= seen_keys(block, keys, ty * ${SIDE}u + r + ${4 * quad}u, tx) << (${SIDE}u * r);
        //#endfor
      }
      //#for r in SIDE
      //#for quad in QUADS
      s${r}_${quad} = select(vec4f(HIDDEN), s${r}_${quad}, four_of(seen[${r / 4}], ${QUADS * (r % 4) + quad}u));
      //#endfor
      //#endfor
    }

    // softmax: P = exp(S - m) [BR, BC]
    //#for r in SIDE
    let most${r} = max(s${r}_0, s${r}_${QUADS - 1});
    //#endfor
    //#for quad in QUADS
    let top${quad} = vec4f(
      //#for x in 4
      max(max(most${4 * quad + x}.x, most${4 * quad + x}.y), max(most${4 * quad + x}.z, most${4 * quad + x}.w)),
      //#endfor
    );
    let limit${quad} = select(m${quad} + args.lag, vec4f(HIDDEN), m${quad} == vec4f(HIDDEN));
    //#endfor
    if (any(top0 > limit0) || any(top${QUADS - 1} > limit${QUADS - 1})) {
      atomicStore(&flags_smem[GROWN], 1u);
    }
    if (workgroupUniformLoad(&flags_smem[GROWN]) != 0u) {
      //#for quad in QUADS
      right_smem[(tx * ${TY}u + ty) * ${QUADS}u + ${quad}u] = top${quad};
      //#endfor
      workgroupBarrier();
      //#for quad in QUADS
      let before${quad} = m${quad};
      for (var x = 0u; x < ${TX}u; x++) {
        m${quad} = max(m${quad}, right_smem[(x * ${TY}u + ty) * ${QUADS}u + ${quad}u]);
      }
      let alpha${quad} = select(
        exp2((subtrahend(before${quad}) - subtrahend(m${quad})) * args.to_exponent),
        vec4f(),
        before${quad} == vec4f(HIDDEN),
      );
      l${quad} *= alpha${quad};
      //#endfor
      //#for r in SIDE
      //#for d in OC
      acc${r}_${d} *= alpha${r / 4}[${r % 4}];
      //#endfor
      //#endfor
      if (thread == 0u) {
        atomicStore(&flags_smem[GROWN], 0u);
      }
      workgroupBarrier();
    }
    //#for quad in QUADS
    let base${quad} = subtrahend(m${quad});
    //#endfor
    //#if BIAS
    {
    //#else
    if (tile.partial) {
    //#endif
      //#for r in SIDE
      //#for quad in QUADS
      s${r}_${quad} = select(exp2((s${r}_${quad} - base${r / 4}[${r % 4}]) * args.to_exponent), vec4f(), s${r}_${quad} == vec4f(HIDDEN));
      //#endfor
      //#endfor
    //#if BIAS
    }
    //#else
    } else {
      //#for r in SIDE
      //#for quad in QUADS
      s${r}_${quad} = exp2((s${r}_${quad} - base${r / 4}[${r % 4}]) * args.to_exponent);
      //#endfor
      //#endfor
    }
    //#endif
    //#for quad in QUADS
    l${quad} += vec4f(
      //#for x in 4
      //#if QUADS == 2
      dot(s${4 * quad + x}_0 + s${4 * quad + x}_1, vec4f(1.0)),
      //#else
      dot(s${4 * quad + x}_0, vec4f(1.0)),
      //#endif
      //#endfor
    );
    //#endfor
    //#if DROPOUT
    {
      var kept = array<u32, ${QUADS}>();
      let j = keys.first + tx * ${SIDE}u;
      for (var r = 0u; r < 4u; r++) {
        //#for quad in QUADS
        let bits${quad} = kept_bits(block.head, block.i0 + ty * ${SIDE}u + r + ${4 * quad}u, j / 8u);
        kept[${quad}] |= extractBits(bits${quad}, j % 8u, ${SIDE}u) << (${SIDE}u * r);
        //#endfor
      }
      //#for r in SIDE
      //#for quad in QUADS
      s${r}_${quad} = select(vec4f(), s${r}_${quad}, four_of(kept[${r / 4}], ${QUADS * (r % 4) + quad}u));
      //#endfor
      //#endfor
    }
    //#endif
    let after = next_tile(block, keys.begin + args.tile_kv, thread);

    let chunks = min(${BC / PARTS / CK}u, (keys.end - keys.first + ${CK - 1}u) / ${CK}u);
    for (var chunk = 0u; chunk < chunks; chunk++) {
      // load: v [CK, Dv], and P [BR, CK] to where all threads see it, of each part
      if (chunk > 0u) {
        workgroupBarrier();
      }
      {
        var watched = vec4u();
        //#for n in V_UNITS
        watched = watch(watched, ahead${n});
        //#endfor
        if (was_bad(watched)) {
          atomicStore(&flags_smem[NOT_FINITE], 1u);
          //#for n in V_UNITS
          ahead${n} &= ~nonfinite_elements(ahead${n});
          //#endfor
        }
      }
      //#for n in V_UNITS
      {
        let unit = thread + ${n * THREADS}u;
        //#if V_UNITS * THREADS > CK * PARTS * 4 * OC * VX / UNIT
        if (unit < ${CK * PARTS * 4 * OC * VX / UNIT}u) {
        //#endif
        //#for part in UNIT / 4
        right_smem[unit * ${UNIT / 4}u + ${part}u] = unit_vector(ahead${n}, ${part}u);
        //#endfor
        //#if V_UNITS * THREADS > CK * PARTS * 4 * OC * VX / UNIT
        }
        //#endif
      }
      //#endfor
      if (vx / ${CK / SIDE}u == chunk) {
        let at = key_part * ${CK / 4 * FOUR_P}u + vx % ${CK / SIDE}u * ${SIDE / 4 * FOUR_P}u + ty;
        //#for c in SIDE
        //#for quad in QUADS
        left_smem[at + ${c / 4 * FOUR_P + c % 4 * BR / 4 + quad * TY}u] = vec4f(
          //#for x in 4
          s${4 * quad + x}_${c / 4}[${c % 4}],
          //#endfor
        );
        //#endfor
        //#endfor
      }
      workgroupBarrier();
      if (chunk + 1u < chunks) {
        //#for n in V_UNITS
        ahead${n} = fetch_v(block, keys, chunk + 1u, thread + ${n * THREADS}u);
        //#endfor
      } else if (after.begin != NONE) {
        if (fetches_k) {
          //#for n in 4
          ahead${n} = fetch_k(place_k, keys_from(block, after.begin), 0u, ${n}u);
          //#endfor
        }
        if (fetches_q) {
          //#for n in 4
          ahead${Q_AT + n} = fetch_q(place_q, 0u, ${n}u);
          //#endfor
        }
      }

      // accumulate: acc += P v [BR, Dv] over the keys of the chunk
      //#if SKIPS
      if (has_rows) {
      //#else
      {
      //#endif
        for (var turn = 0u; turn < ${CK / STEP}u; turn++) {
          //#for n in STEP
          {
            //#for quad in QUADS
            let p${quad} = left_smem[key_part * ${CK / 4 * FOUR_P}u + turn * ${STEP / 4 * FOUR_P}u + ty + ${n / 4 * FOUR_P + n % 4 * BR / 4 + quad * TY}u];
            //#endfor
            //#for d in OC
            let v${d} = right_smem[key_part * ${CK * OC * VX}u + turn * ${STEP * OC * VX}u + vx + ${(n * OC + d) * VX}u];
            //#for r in SIDE
            acc${r}_${d} = fma(vec4f(p${r / 4}[${r % 4}]), v${d}, acc${r}_${d});
            //#endfor
            //#endfor
          }
          //#endfor
        }
      }
    }
    if (atomicLoad(&flags_smem[NOT_FINITE]) != 0u) {
      mark_nonfinite(block, keys, thread);
    }
    tile = after;
  }

  // finish: out = acc / l [BR, Dv], lse = m + ln l [BR]
  workgroupBarrier();
  //#for quad in QUADS
  right_smem[(tx * ${TY}u + ty) * ${QUADS}u + ${quad}u] = l${quad};
  //#endfor
  workgroupBarrier();
  //#for quad in QUADS
  var sum${quad} = vec4f();
  for (var x = 0u; x < ${TX}u; x++) {
    sum${quad} += right_smem[(x * ${TY}u + ty) * ${QUADS}u + ${quad}u];
  }
  let logit${quad} = subtrahend(m${quad}) * args.to_logit;
  //#endfor
  let rows = block.i1 - block.i0;
  //#if PARTS > 1
  // What the parts have of a row is summed by the one that writes it.
  let acc_at = ty * ${OC * VX}u + vx;
  //#for pair in SIDE / 2
  workgroupBarrier();
  //#for d in OC
  left_smem[key_part * ${TY * OC * VX}u + acc_at + ${d * VX}u] = acc${2 * pair}_${d};
  right_smem[key_part * ${TY * OC * VX}u + acc_at + ${d * VX}u] = acc${2 * pair + 1}_${d};
  //#endfor
  workgroupBarrier();
  if (key_part == ${pair % PARTS}u) {
    //#for d in OC
    acc${2 * pair}_${d} = left_smem[acc_at + ${d * VX}u];
    acc${2 * pair + 1}_${d} = right_smem[acc_at + ${d * VX}u];
    //#for n in PARTS - 1
    acc${2 * pair}_${d} += left_smem[acc_at + ${(n + 1) * TY * OC * VX + d * VX}u];
    acc${2 * pair + 1}_${d} += right_smem[acc_at + ${(n + 1) * TY * OC * VX + d * VX}u];
    //#endfor
    //#endfor
  }
  //#endfor
  //#endif
  let out_at = b * args.out_batch + h * args.out_head - args.out_first;
  //#for r in SIDE
  if (key_part == ${r / 2 % PARTS}u && ty * ${SIDE}u + ${r}u < rows) {
    let row = ty * ${SIDE}u + ${r}u;
    let bad = (atomicLoad(&flags_smem[BAD_ROWS + row / 32u]) & (1u << (row % 32u))) != 0u;
    let seen = finish_row(block.head, h, m${r / 4}[${r % 4}], logit${r / 4}[${r % 4}], sum${r / 4}[${r % 4}], bad);
    //#if LSE
    if (vx == 0u) {
      lse[block.head.index * args.rows + block.i0 + row - args.lse_first] = seen.lse;
    }
    //#endif
    //#for d in OC
    {
      let column = vx * 4u + ${4 * d * VX}u;
      let bad_columns = atomicLoad(&bad_out_smem[row * ${BAD_WORDS}u + column / 32u]) >> (column % 32u);
      store_out(out_at + (block.i0 + row) * args.out_row, column, acc${r}_${d}, bad_columns, seen);
    }
    //#endfor
  }
  //#endfor
}
