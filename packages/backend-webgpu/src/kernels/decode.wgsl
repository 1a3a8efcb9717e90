// Attention of few query rows that share a key head, as when a model writes its text: the rows of all query heads of the group
// are taken together, so that k and v are read once, and the keys are split over workgroups. Each leaves m, l and acc of its
// keys in the workspace, and combine.wgsl joins them.
//
// Row r of the R = Sq H / Hkv rows is query row r % Sq of head r / Sq of the group. Scores of four rows lie in one vector.
// For q k^T, LANES threads share a key, each with every LANES-th unit of its row; for P v, a thread has one unit of the
// columns and every key of its group.

//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"
//#include "lib/rows.wgsl"

struct DecodeArgs {
  launch: Launch,
  score: Score,
  // Piece of the problem: the first batch and key head, and how many key heads.
  batch_from: u32,
  head_from: u32,
  heads: u32,
  // Query heads that share a key head, Hkv, Sq and Skv.
  group: u32,
  key_heads: u32,
  rows: u32,
  keys: u32,
  // D and Dv.
  depth: u32,
  columns: u32,
  // Pieces that the keys are split into, and keys of each.
  splits: u32,
  split_keys: u32,
  // Keys of a tile, at most KEYS.
  tile_kv: u32,
  // As in forward.wgsl.
  to_exponent: f32,
  // Strides in elements along batch, head and row, and elements before the window.
  q_batch: u32, q_head: u32, q_row: u32, q_first: u32,
  k_batch: u32, k_head: u32, k_row: u32, k_first: u32,
  v_batch: u32, v_head: u32, v_row: u32, v_first: u32,
  // Words of the workspace before the window.
  parts_first: u32,
}

@group(0) @binding(0) var<uniform> args: DecodeArgs;
@group(0) @binding(1) var<storage, read> q: array<Storage>;
@group(0) @binding(2) var<storage, read> k: array<Storage>;
@group(0) @binding(3) var<storage, read> v: array<Storage>;
// [B, Hkv, splits, R] parts each: acc [Dv], filled up to a multiple of 4, then m, l and two words of nothing.
@group(0) @binding(4) var<storage, read_write> parts: array<u32>;
//#if BIAS
@group(0) @binding(${BIAS_BINDING}) var<storage, read> bias: array<u32>;
//#endif
//#if MASK
@group(0) @binding(${MASK_BINDING}) var<storage, read> mask: array<u32>;
//#endif
//#if ALIBI
@group(0) @binding(${HEAD_BINDING}) var<storage, read> alibi_slopes: array<u32>;
//#endif

//#if NEGATIVE
// As in forward.wgsl.
const SIGN: f32 = -1.0;
//#else
const SIGN: f32 = 1.0;
//#endif

// q transposed [D, R], four rows a vector, QS vectors a unit: one more than there are spreads them over the banks. D is at
// most DEPTH, Dv at most COLUMNS.
var<workgroup> q_smem: array<vec4f, ${DEPTH / UNIT * QS}>;
// Products of the LANES threads of each key; or sums on their way between threads.
var<workgroup> sums_smem: array<vec4f, ${SUMS}>;
// Scores, then probabilities [KEYS, R].
var<workgroup> p_smem: array<vec4f, ${KEYS * ROWS4}>;
// Row maxima of eight parts of the tile.
var<workgroup> top_smem: array<vec4f, ${8 * ROWS4}>;
// Bits: rows whose q is not finite, keys of the tile whose k is not, elements of acc whose row sees such an element of v.
var<workgroup> bad_rows_smem: atomic<u32>;
var<workgroup> bad_keys_smem: array<atomic<u32>, ${KEYS / 32}>;
var<workgroup> bad_out_smem: array<atomic<u32>, ${4 * ROWS4 * COLUMNS / 32}>;

// Marks elements of acc whose row sees an element of v, `bad` bits of column d on, that is not finite.
fn mark_values(b: u32, h: u32, j: u32, d: u32, bad: u32) {
  for (var r = 0u; r < args.rows * args.group; r++) {
    if (visible(head_of(b, h + r / args.rows), r % args.rows, j)) {
      atomicOr(&bad_out_smem[r * ${COLUMNS / 32}u + d / 32u], bad << (d % 32u));
    }
  }
}

// Unit n of a row of k. Rows behind the last key are hidden, whatever they hold.
fn fetch_k(k_at: u32, j: u32, n: u32) -> vec4u {
  return load_k(k_at + j * args.k_row + n * ${UNIT}u, elements_at(n * ${UNIT}u, args.depth));
}

// The unit of a row of v from a column on. Columns behind Dv are not kept, rows behind the last key weigh 0.
fn fetch_v(v_at: u32, j: u32, column: u32) -> vec4u {
  return load_v(v_at + j * args.v_row + column, ${UNIT}u);
}

// One bit an element of a unit.
fn bad_elements(unit: vec4u) -> u32 {
  var bits = 0u;
  for (var n = 0u; n < ${UNIT}u; n++) {
    if (!is_finite(widen(${DTYPE}u, unit[n / ${PER_WORD}u], n % ${PER_WORD}u))) {
      bits |= 1u << n;
    }
  }
  return bits;
}

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  // setup: q [R, D]; m, l [R]; acc [R, Dv]
  let index = workgroup_index(args.launch, id, count);
  if (index >= args.launch.end) {
    return;
  }
  let split = index % args.splits;
  let kv_head = args.head_from + index / args.splits % args.heads;
  let b = args.batch_from + index / args.splits / args.heads;
  let h = kv_head * args.group;
  let rows = args.rows * args.group;
  let feature_units = (args.depth + ${UNIT - 1}u) / ${UNIT}u;
  let column_units = (args.columns + ${UNIT - 1}u) / ${UNIT}u;
  let groups = min(${THREADS}u / column_units, ${KEYS}u);
  let part_words = (args.columns + 3u) / 4u * 4u + 4u;
  // Threads of q k^T have keys thread / LANES and so on; those of P v have one unit of the columns.
  let lane = thread % ${LANES}u;
  let first_key = thread / ${LANES}u;
  let column = thread % column_units * ${UNIT}u;
  let key_group = thread / column_units;
  let k_at = b * args.k_batch + kv_head * args.k_head - args.k_first;
  let v_at = b * args.v_batch + kv_head * args.v_head - args.v_first;
  let seen = key_range(0u, args.rows - 1u, args.keys);
  let begin = max(seen.begin, split * args.split_keys);
  let end = min(seen.end, (split + 1u) * args.split_keys);
  // The first keys are on their way while q is staged.
  //#for t in BATCH_K
  //#for n in KEYS_K
  var k${t}_${n} = fetch_k(k_at, begin + first_key + ${n * THREADS / LANES}u, lane + ${t * LANES}u);
  //#endfor
  //#endfor
  for (var n = thread; n < feature_units * ${4 * ROWS4}u; n += ${THREADS}u) {
    let r = n % ${4 * ROWS4}u;
    let d = n / ${4 * ROWS4}u * ${UNIT}u;
    let at = b * args.q_batch + (h + r / args.rows) * args.q_head + r % args.rows * args.q_row - args.q_first;
    var unit = load_q(at + d, select(0u, elements_at(d, args.depth), r < rows));
    if (any(nonfinite4(${DTYPE}u, unit) != vec4u())) {
      atomicOr(&bad_rows_smem, 1u << r);
      unit &= ~nonfinite_elements(unit);
    }
    //#for part in UNIT / 4
    {
      let x = unit_vector(unit, ${part}u) * SIGN;
      //#for e in 4
      q_smem[n / ${4 * ROWS4}u * ${QS}u + ${(4 * part + e) * ROWS4}u + r / 4u][r % 4u] = x[${e}];
      //#endfor
    }
    //#endfor
  }
  //#for r in ROWS4
  var m${r} = vec4f(HIDDEN);
  var l${r} = vec4f();
  //#for e in UNIT
  var acc${r}_${e} = vec4f();
  //#endfor
  //#endfor

  for (var j0 = begin; j0 < end; j0 += args.tile_kv) {
    let j1 = min(j0 + args.tile_kv, end);
    if (thread < ${KEYS / 32}u) {
      atomicStore(&bad_keys_smem[thread], 0u);
    }
    workgroupBarrier();
    // load, scores: S = q k^T [R, KEYS], each thread its share of the features
    //#for n in KEYS_K
    //#for r in ROWS4
    var s${n}_${r} = vec4f();
    //#endfor
    //#endfor
    // The first rows of v are on their way meanwhile.
    //#for n in BATCH_V
    var v${n} = fetch_v(v_at, j0 + key_group + ${n}u * groups, column);
    //#endfor
    for (var first = lane; first < feature_units; first += ${LANES * BATCH_K}u) {
      if (first != lane) {
        //#for t in BATCH_K
        //#for n in KEYS_K
        k${t}_${n} = fetch_k(k_at, j0 + first_key + ${n * THREADS / LANES}u, first + ${t * LANES}u);
        //#endfor
        //#endfor
      }
      //#for t in BATCH_K
      let d${t} = (first + ${t * LANES}u) * ${UNIT}u;
      //#endfor
      //#for n in KEYS_K
      {
        var watched = vec4u();
        //#for t in BATCH_K
        watched = watch(watched, k${t}_${n});
        //#endfor
        if (was_bad(watched)) {
          atomicOr(&bad_keys_smem[(first_key + ${n * THREADS / LANES}u) / 32u], 1u << ((first_key + ${n * THREADS / LANES}u) % 32u));
          //#for t in BATCH_K
          k${t}_${n} &= ~nonfinite_elements(k${t}_${n});
          //#endfor
        }
      }
      //#endfor
      //#for t in BATCH_K
      if (d${t} < args.depth) {
        //#for part in UNIT / 4
        {
          //#for n in KEYS_K
          let x${n} = unit_vector(k${t}_${n}, ${part}u);
          //#endfor
          //#for e in 4
          //#for r in ROWS4
          {
            let y = q_smem[(first + ${t * LANES}u) * ${QS}u + ${(4 * part + e) * ROWS4 + r}u];
            //#for n in KEYS_K
            s${n}_${r} = fma(vec4f(x${n}[${e}]), y, s${n}_${r});
            //#endfor
          }
          //#endfor
          //#endfor
        }
        //#endfor
      }
      //#endfor
    }
    //#for r in ROWS4
    //#if r > 0
    workgroupBarrier();
    //#endif
    //#for n in KEYS_K
    sums_smem[lane * ${KEYS}u + first_key + ${n * THREADS / LANES}u] = s${n}_${r};
    //#endfor
    workgroupBarrier();
    for (var c = thread; c < ${KEYS}u; c += ${THREADS}u) {
      var s = sums_smem[c];
      for (var x = 1u; x < ${LANES}u; x++) {
        s += sums_smem[x * ${KEYS}u + c];
      }
      p_smem[c * ${ROWS4}u + ${r}u] = s;
    }
    //#endfor
    let bad_rows = atomicLoad(&bad_rows_smem);
    for (var c = thread; c < ${KEYS}u; c += ${THREADS}u) {
      let j = j0 + c;
      let bad = select(bad_rows, 0xffffffffu, (atomicLoad(&bad_keys_smem[c / 32u]) & (1u << (c % 32u))) != 0u);
      //#if RAW && !MASK
      let plain = bad == 0u && j >= seen.full_begin && j < min(j1, seen.full_end);
      //#else
      let plain = false;
      //#endif
      for (var r = 0u; !plain && r < rows; r++) {
        let head = head_of(b, h + r / args.rows);
        let i = r % args.rows;
        var s = p_smem[c * ${ROWS4}u + r / 4u][r % 4u];
        //#if !RAW
        s = score(head, s, i, j);
        //#endif
        s = select(s, BAD, (bad & (1u << r)) != 0u);
        s = select(HIDDEN, s, j < j1 && visible(head, i, j));
        p_smem[c * ${ROWS4}u + r / 4u][r % 4u] = s;
      }
    }
    workgroupBarrier();

    // softmax: P = exp(S - m) [R, KEYS]
    for (var n = thread; n < ${8 * ROWS4}u; n += ${THREADS}u) {
      var top = vec4f(HIDDEN);
      for (var c = n / ${ROWS4}u; c < ${KEYS}u; c += 8u) {
        top = max(top, p_smem[c * ${ROWS4}u + n % ${ROWS4}u]);
      }
      top_smem[n] = top;
    }
    workgroupBarrier();
    //#for r in ROWS4
    {
      let before = m${r};
      for (var n = 0u; n < 8u; n++) {
        m${r} = max(m${r}, top_smem[n * ${ROWS4}u + ${r}u]);
      }
      let alpha = select(exp2((subtrahend(before) - subtrahend(m${r})) * args.to_exponent), vec4f(), before == vec4f(HIDDEN));
      l${r} *= alpha;
      //#for e in UNIT
      acc${r}_${e} *= alpha;
      //#endfor
    }
    //#endfor
    for (var c = thread; c < ${KEYS}u; c += ${THREADS}u) {
      //#for r in ROWS4
      {
        let s = p_smem[c * ${ROWS4}u + ${r}u];
        var p = select(exp2((s - subtrahend(m${r})) * args.to_exponent), vec4f(), s == vec4f(HIDDEN));
        l${r} += p;
        //#if DROPOUT
        for (var x = 0u; x < 4u; x++) {
          let row = ${4 * r}u + x;
          if (row < rows && dropout_factor(head_of(b, h + row / args.rows), row % args.rows, j0 + c) == 0.0) {
            p[x] = 0.0;
          }
        }
        //#endif
        p_smem[c * ${ROWS4}u + ${r}u] = p;
      }
      //#endfor
    }
    workgroupBarrier();

    // accumulate: acc += P v [R, Dv], each thread its share of the keys; the next ones are on their way
    //#for t in BATCH_K
    //#for n in KEYS_K
    k${t}_${n} = fetch_k(k_at, j1 + first_key + ${n * THREADS / LANES}u, lane + ${t * LANES}u);
    //#endfor
    //#endfor
    if (key_group < groups) {
      for (var batch = 0u; batch * groups < ${KEYS}u; batch += ${BATCH_V}u) {
        if (batch > 0u) {
          //#for n in BATCH_V
          v${n} = fetch_v(v_at, j0 + key_group + (batch + ${n}u) * groups, column);
          //#endfor
        }
        {
          var watched = vec4u();
          //#for n in BATCH_V
          watched = watch(watched, v${n});
          //#endfor
          if (was_bad(watched)) {
            //#for n in BATCH_V
            v${n} &= ~nonfinite_elements(v${n});
            //#endfor
            for (var n = batch; n < batch + ${BATCH_V}u; n++) {
              let j = j0 + key_group + n * groups;
              if (j < j1) {
                mark_values(b, h, j, column, bad_elements(load_v(v_at + j * args.v_row + column, elements_at(column, args.columns))));
              }
            }
          }
        }
        //#for n in BATCH_V
        {
          let c = key_group + (batch + ${n}u) * groups;
          if (c < ${KEYS}u) {
            //#for part in UNIT / 4
            let x${part} = unit_vector(v${n}, ${part}u);
            //#endfor
            //#for r in ROWS4
            let p${r} = p_smem[c * ${ROWS4}u + ${r}u];
            //#for e in UNIT
            acc${r}_${e} = fma(p${r}, vec4f(x${e / 4}[${e % 4}]), acc${r}_${e});
            //#endfor
            //#endfor
          }
        }
        //#endfor
      }
    }
    workgroupBarrier();
  }

  // finish: acc [R, Dv], m and l [R] of these keys
  let part_at = (((b * args.key_heads + kv_head) * args.splits + split) * rows) * part_words - args.parts_first;
  //#for r in ROWS4
  workgroupBarrier();
  sums_smem[thread] = l${r};
  workgroupBarrier();
  if (thread < 8u) {
    var l = vec4f();
    for (var n = thread; n < ${HOLDERS}u; n += 8u) {
      l += sums_smem[n];
    }
    top_smem[thread] = l;
  }
  workgroupBarrier();
  if (thread < 4u && ${4 * r}u + thread < rows) {
    var l = 0.0;
    for (var n = 0u; n < 8u; n++) {
      l += top_smem[n][thread];
    }
    let at = part_at + (${4 * r}u + thread) * part_words + part_words - 4u;
    parts[at] = bitcast<u32>(m${r}[thread]);
    parts[at + 1u] = bitcast<u32>(l);
  }
  //#for turn in UNIT / TURN
  workgroupBarrier();
  //#for e in TURN
  sums_smem[thread * ${TURN}u + ${e}u] = acc${r}_${turn * TURN + e};
  //#endfor
  workgroupBarrier();
  for (var n = thread; n < column_units * ${TURN}u; n += ${THREADS}u) {
    var x = vec4f();
    for (var group = 0u; group < groups; group++) {
      x += sums_smem[group * column_units * ${TURN}u + n];
    }
    let d = n / ${TURN}u * ${UNIT}u + ${turn * TURN}u + n % ${TURN}u;
    for (var row = 0u; row < 4u && d < args.columns; row++) {
      if (${4 * r}u + row < rows) {
        let bad = (atomicLoad(&bad_out_smem[(${4 * r}u + row) * ${COLUMNS / 32}u + d / 32u]) & (1u << (d % 32u))) != 0u;
        parts[part_at + (${4 * r}u + row) * part_words + d] = select(finite_or_nan(x[row]), 0x7fc00000u, bad);
      }
    }
  }
  //#endfor
  //#endfor
}
