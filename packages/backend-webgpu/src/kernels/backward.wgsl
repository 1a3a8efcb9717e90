// The backward of attention by tiles, probabilities recomputed from lse (Dao et al., "FlashAttention-2", 2023, algorithm 2). A
// workgroup owns 64 keys (OWN_KEYS) or 64 query rows of one head and takes 64 of the others at a time:
//
//   OWN_KEYS   dk += dS^T q, dv += dropout(P)^T dout, over the rows that see its keys, of every query head of the group
//   else       dq += dS k, over the keys that its rows see
//   DBIAS      dS itself, summed over whatever dimensions bias repeats along; keys are the own ones then
//
// so that each gradient has one writer and a fixed order of sums. Thread (t / 16, t % 16) holds a block [4, 4] of the scores: others
// 4 (t / 16) + m by own ones 4 (t % 16) + n. Both products that make scores take 16 features at a time through workgroup memory,
// both that make gradients take P or dS through it, DEPTH others at a time. With SUMS 2 the odd features of q k are summed apart, as forward does.
//
// Tensors are numbered 0 q, 1 k, 2 v, 3 dout. Product p of the scores is that of tensors OWN + p OWN_STEP and OTHER + p OTHER_STEP; gradient
// a, of tensor OWN + a OWN_STEP, sums rows of tensor OTHER + a OTHER_STEP.
//
// NaN and Inf in q, k, v and dout are staged as 0; the terms of rows (backward-delta.wgsl) say which rows have seen them, and
// whatever such a row adds to is NaN at the end.

//#include "lib/backward-args.wgsl"

@group(0) @binding(0) var<uniform> args: BackwardArgs;
// Query rows' terms, and before them slopes and sinks of heads where there is ALiBi.
@group(0) @binding(1) var<storage, read> head_terms: array<u32>;
// q, k, v and dout.
//#for n in 4
//#if n != 2 || DS
//#if n < 2 && X_QUADS || n > 1 && Y_QUADS
@group(0) @binding(${n + 2 - (n == 3 && !DS)}) var<storage, read> tensor_${n}: array<Quad_${(n == 3) * RESULT + (n != 3) * DTYPE}>;
//#else
@group(0) @binding(${n + 2 - (n == 3 && !DS)}) var<storage, read> tensor_${n}: array<u32>;
//#endif
//#endif
//#endfor
//#if BIAS
@group(0) @binding(${5 + DS}) var<storage, read> bias: array<u32>;
//#endif
//#if MASK
@group(0) @binding(${5 + DS + BIAS}) var<storage, read> mask: array<u32>;
//#endif
// dk or dq, and dv.
//#for a in 2
//#if a == 0 && DX || a == 1 && DY
//#if a == 0 && X_QUADS || a == 1 && Y_QUADS
@group(0) @binding(${5 + DS + BIAS + MASK + (a && DX)}) var<storage, read_write> result_${a}: array<Quad_${RESULT}>;
//#elif RESULT == F32
@group(0) @binding(${5 + DS + BIAS + MASK + (a && DX)}) var<storage, read_write> result_${a}: array<u32>;
//#else
@group(0) @binding(${5 + DS + BIAS + MASK + (a && DX)}) var<storage, read_write> result_${a}: array<atomic<u32>>;
//#endif
//#endif
//#endfor
//#if DBIAS
//#if BIAS_DTYPE == F32
@group(0) @binding(${5 + DS + BIAS + MASK}) var<storage, read_write> dbias: array<u32>;
//#else
@group(0) @binding(${5 + DS + BIAS + MASK}) var<storage, read_write> dbias: array<atomic<u32>>;
//#endif
//#endif

// Quads of a row of staged features: 4, and one more so that rows begin in different banks.
const STAGED: u32 = 5u;
// Others whose P or dS is taken at a time.
const DEPTH: u32 = ${DEPTH}u;
const NAN = vec4u(0x7fc00000u);

// Others [64, 16 features], then own ones the same, 4 q + n at 16 n + q; or P or dS [DEPTH, 64], then rows [DEPTH, features].
var<workgroup> smem: array<vec4f, ${SMEM}>;
//#if DBIAS
// Which sums of a thread's block are no numbers.
var<workgroup> bad_smem: array<u32, 256>;
//#elif OWN_KEYS
// Flags of the rows that each own key has a part in.
var<workgroup> bad_smem: array<atomic<u32>, 64>;
//#endif
//#if MASK
var<workgroup> seen_smem: atomic<u32>;
var<workgroup> any_seen_smem: u32;
//#endif

// Quad `quad` of the row that begins at element `row`.
//#for n in 4
//#if n != 2 || DS
fn load_${n}(row: u32, quad: u32) -> vec4f {
//#if n < 2
  let features = args.D;
//#else
  let features = args.Dv;
//#endif
  if (quad * 4u >= features) {
    return vec4f(0.0);
  }
//#if n < 2 && X_QUADS || n > 1 && Y_QUADS
  let words = tensor_${n}[row / 4u + quad];
  let bad = nonfinite_quad_${(n == 3) * RESULT + (n != 3) * DTYPE}(words);
  return select(quad_${(n == 3) * RESULT + (n != 3) * DTYPE}(words), vec4f(0.0), bad != 0u);
//#else
  let at = row + quad * 4u;
  let there = min(features - quad * 4u, 4u);
  let per_word = elements_per_word(${(n == 3) * RESULT + (n != 3) * DTYPE}u);
  var x = vec4f(0.0);
  for (var e = 0u; e < there; e++) {
    let bits = widen(${(n == 3) * RESULT + (n != 3) * DTYPE}u, tensor_${n}[(at + e) / per_word], (at + e) % per_word);
    x[e] = bitcast<f32>(select(0u, bits, is_finite(bits)));
  }
  return x;
//#endif
}
//#endif
//#endfor

// Quad `quad` of the row of a result that begins at element `row`, from float32 bits.
//#for a in 2
//#if a == 0 && DX || a == 1 && DY
fn store_${a}(row: u32, quad: u32, bits: vec4u) {
//#if a == 0 && X_QUADS || a == 1 && Y_QUADS
  result_${a}[row / 4u + quad] = pack_${RESULT}(bits);
//#else
  let at = row + quad * 4u;
//#if a == 0
  let there = min(args.D - quad * 4u, 4u);
//#else
  let there = min(args.Dv - quad * 4u, 4u);
//#endif
  for (var e = 0u; e < there; e++) {
//#if RESULT == F32
    result_${a}[at + e] = bits[e];
//#else
    let shift = (at + e) % 2u * 16u;
    atomicAnd(&result_${a}[(at + e) / 2u], ~(0xffffu << shift));
    atomicOr(&result_${a}[(at + e) / 2u], narrow(${RESULT}u, bits[e]) << shift);
//#endif
  }
//#endif
}
//#endif
//#endfor

// What rows i to i + 3 and keys j to j + 3 see of each other: bit 4 r + c for row i + r, key j + c.
fn visible_bits(head: Head, i: u32, row_end: u32, j: u32, key_end: u32) -> u32 {
  var bits = 0u;
//#for r in 4
  if (i + ${r}u < row_end) {
//#if MASK
    bits |= (band_bits(i + ${r}u, j, 0u, key_end) & mask_bits4(head, i + ${r}u, j) & 0xfu) << ${4 * r}u;
//#else
    bits |= (band_bits(i + ${r}u, j, 0u, key_end) & 0xfu) << ${4 * r}u;
//#endif
  }
//#endfor
  return bits;
}

//#if MASK
fn mask_bits4(head: Head, i: u32, j: u32) -> u32 {
  var bits = 0u;
//#for c in 4
  {
    let at = head.mask + i * args.score.mask_i + (j + ${c}u) * args.score.mask_j;
    bits |= select(0u, 1u << ${c}u, extractBits(mask[at >> 2u], (at & 3u) * 8u, 8u) != 0u);
  }
//#endfor
  return bits;
}
//#endif

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = workgroup_index(args.launch, id, count);
  if (group >= args.launch.end) {
    return;
  }

  // setup: what is owned, and which batches, heads and others it is summed over.
//#if OWN_KEYS
  let own_size = args.keys;
  let own_tile = args.tile_keys;
  let other_size = args.rows;
  let other_tile = args.tile_rows;
//#else
  let own_size = args.rows;
  let own_tile = args.tile_rows;
  let other_size = args.keys;
  let other_tile = args.tile_keys;
//#endif
  let query_heads = args.heads * args.group;
//#if DBIAS
  let own_tiles = select((own_size + own_tile - 1u) / own_tile, 1u, args.dbias_j == 1u);
  let other_tiles = select((other_size + other_tile - 1u) / other_tile, 1u, args.dbias_i == 1u);
  let heads = select(query_heads, 1u, args.dbias_h == 1u);
  let b_begin = args.batch_first + group / (own_tiles * other_tiles * heads);
  let b_end = select(b_begin + 1u, args.batch_first + args.batches, args.dbias_b == 1u);
  let h_begin = args.head_first * args.group + group / (own_tiles * other_tiles) % heads;
  let h_end = select(h_begin + 1u, args.head_first * args.group + query_heads, args.dbias_h == 1u);
  let own_begin = group % own_tiles * own_tile;
  let own_end = select(min(own_begin + own_tile, own_size), own_size, args.dbias_j == 1u);
  let other_begin = group / own_tiles % other_tiles * other_tile;
  let other_end = select(min(other_begin + other_tile, other_size), other_size, args.dbias_i == 1u);
//#else
  let own_tiles = (own_size + own_tile - 1u) / own_tile;
//#if OWN_KEYS
  let heads = args.heads;
  let h_begin = (args.head_first + group / own_tiles % heads) * args.group;
  let h_end = h_begin + args.group;
  let own_begin = group % own_tiles * own_tile;
//#else
  let heads = query_heads;
  let h_begin = args.head_first * args.group + group / own_tiles % heads;
  let h_end = h_begin + 1u;
  // The last rows first: under causal they see most.
  let own_begin = (own_tiles - 1u - group % own_tiles) * own_tile;
//#endif
  let b_begin = args.batch_first + group / (own_tiles * heads);
  let b_end = b_begin + 1u;
  let own_end = min(own_begin + own_tile, own_size);
  let other_begin = 0u;
  let other_end = other_size;
//#endif

  // The block of scores of this thread, and what it stages of 16 features of 64 rows.
  let t_other = thread / 16u;
  let t_own = thread % 16u;
  let item = thread / 4u;
  let quad = thread % 4u;

  // Sums: of gradients [4, features / 64] quads, own 4 (t / 16) + n, features 64 o + 4 (t % 16) on; of dS, [4] rows.
//#for a in 2
//#if a == 0 && DX || a == 1 && DY
//#for n in 4
//#for o in OX + a * (OY - OX)
  var acc_${a}_${n}_${o} = vec4f(0.0);
//#endfor
//#endfor
//#endif
//#endfor
//#if DBIAS
//#for r in 4
  var dbias_${r} = vec4f(0.0);
//#endfor
  // Bit 4 r + c: the sum of row r, key c is no number.
  var bad = 0u;
//#elif OWN_KEYS
  var bad = vec4u(0u);
//#endif

  for (var b = b_begin; b < b_end; b++) {
  for (var h = h_begin; h < h_end; h++) {
  let head = head_of(b, h);
  let terms = terms_of(b, h);
//#for n in 4
//#if n == 0 || n == 3
  let base_${n} = b * args.batch_${n} + h * args.head_${n} - args.first_${n};
//#else
  let base_${n} = b * args.batch_${n} + h / args.group * args.head_${n} - args.first_${n};
//#endif
//#endfor
  for (var own = own_begin; own < own_end; own += own_tile) {
  let own_stop = min(own + own_tile, own_end);
//#if OWN_KEYS
  let range = row_range(own, own_stop - 1u, other_size);
//#else
  let range = key_range(own, own_stop - 1u, other_size);
//#endif
  for (
    var other = max(range.begin / other_tile * other_tile, other_begin);
    other < min(range.end, other_end);
    other += other_tile
  ) {
    let other_stop = min(other + other_tile, other_end);
//#if OWN_KEYS
    let i = other + 4u * t_other;
    let j = own + 4u * t_own;
    let row_end = other_stop;
    let key_end = own_stop;
//#else
    let i = own + 4u * t_own;
    let j = other + 4u * t_other;
    let row_end = own_stop;
    let key_end = other_stop;
//#endif

    // Bit 4 r + c: row i + r sees key j + c.
    var seen = 0xffffu;
//#if MASK
    seen = visible_bits(head, i, row_end, j, key_end);
    if (seen != 0u) {
      atomicOr(&seen_smem, 1u);
    }
    workgroupBarrier();
    if (thread == 0u) {
      any_seen_smem = atomicExchange(&seen_smem, 0u);
    }
    if (workgroupUniformLoad(&any_seen_smem) == 0u) {
      continue;
    }
//#else
    if (other < range.full_begin || other + 64u > range.full_end || other_stop - other < 64u || own_stop - own < 64u) {
      seen = visible_bits(head, i, row_end, j, key_end);
    }
//#endif

    // scores: q k^T, and dP = dout v^T, both as others by own ones.
//#for p in 1 + DS
//#for m in 4
    var product_${p}_${m} = vec4f(0.0);
//#if p == 0 && SUMS == 2
    var odd_${m} = vec4f(0.0);
//#endif
//#endfor
    {
      let own_row = base_${OWN + p * OWN_STEP} + (own + item) * args.row_${OWN + p * OWN_STEP};
      let other_row = base_${OTHER + p * OTHER_STEP} + (other + item) * args.row_${OTHER + p * OTHER_STEP};
      let own_there = own + item < own_stop;
      let other_there = other + item < other_stop;
      var own_next = vec4f(0.0);
      var other_next = vec4f(0.0);
      if (own_there) {
        own_next = load_${OWN + p * OWN_STEP}(own_row, quad);
      }
      if (other_there) {
        other_next = load_${OTHER + p * OTHER_STEP}(other_row, quad);
      }
//#if p == 0
      let features = args.D;
//#else
      let features = args.Dv;
//#endif
      for (var f = 0u; 4u * f < features; f += 4u) {
        // load: what was read during the last step goes to workgroup memory, the next is read meanwhile.
        smem[item * STAGED + quad] = other_next;
        smem[(64u + item % 4u * 16u + item / 4u) * STAGED + quad] = own_next;
        workgroupBarrier();
        if (own_there) {
          own_next = load_${OWN + p * OWN_STEP}(own_row, f + 4u + quad);
        }
        if (other_there) {
          other_next = load_${OTHER + p * OTHER_STEP}(other_row, f + 4u + quad);
        }
        for (var x = 0u; x < 4u; x++) {
//#for m in 4
          let other_${m} = smem[(4u * t_other + ${m}u) * STAGED + x];
          let own_${m} = smem[(64u + ${16 * m}u + t_own) * STAGED + x];
//#endfor
//#for c in 4
          {
            let feature = vec4f(own_0[${c}], own_1[${c}], own_2[${c}], own_3[${c}]);
//#for m in 4
//#if p == 0 && c % SUMS == 1
            odd_${m} = fma(vec4f(other_${m}[${c}]), feature, odd_${m});
//#else
            product_${p}_${m} = fma(vec4f(other_${m}[${c}]), feature, product_${p}_${m});
//#endif
//#endfor
          }
//#endfor
        }
        workgroupBarrier();
      }
    }
//#if p == 0 && SUMS == 2
//#for m in 4
    product_0_${m} += odd_${m};
//#endfor
//#endif
//#endfor

    // softmax: P from lse, dS = P (dP - delta), as rows by keys.
//#for r in 4
    var P_${r} = vec4f(0.0);
//#if DS
    var dS_${r} = vec4f(0.0);
//#endif
    {
//#if OWN_KEYS
      let qk = product_0_${r};
//#else
      let qk = vec4f(product_0_0[${r}], product_0_1[${r}], product_0_2[${r}], product_0_3[${r}]);
//#endif
      var lse = 0.0;
      var delta = 0.0;
      var flags = EMPTY;
      if (i + ${r}u < row_end) {
        let at = terms + (i + ${r}u) * TERMS;
        lse = bitcast<f32>(head_terms[at]);
        delta = bitcast<f32>(head_terms[at + 1u]);
        flags = head_terms[at + 2u];
      }
      let visible = ((vec4u(seen) >> vec4u(${4 * r}u, ${4 * r + 1}u, ${4 * r + 2}u, ${4 * r + 3}u)) & vec4u(1u)) != vec4u(0u);
      let live = visible & vec4<bool>((flags & (EMPTY | BAD_P)) == 0u);
      let P = select(vec4f(0.0), exp4(score4(head, qk, i + ${r}u, j) - lse), live);
//#if DROPOUT
      let words = draws(head, i + ${r}u, j / 8u);
      let pair = select(words.xy, words.zw, (j & 4u) != 0u);
      let draw = vec4u(pair.x & 0xffffu, pair.x >> 16u, pair.y & 0xffffu, pair.y >> 16u);
      let factor = select(vec4f(0.0), vec4f(args.score.keep_scale), draw >= vec4u(args.score.keep_threshold));
      P_${r} = P * factor;
//#else
      P_${r} = P;
//#endif
//#if DS
//#if OWN_KEYS
      var dP = product_1_${r};
//#else
      var dP = vec4f(product_1_0[${r}], product_1_1[${r}], product_1_2[${r}], product_1_3[${r}]);
//#endif
//#if DROPOUT
      dP *= factor;
//#endif
      var dS = P * (dP - delta);
//#if DX && SOFTCAP
      dS *= score_slope4(qk);
//#endif
      dS_${r} = select(vec4f(0.0), dS, live);
//#endif
//#if DBIAS
      dbias_${r} += dS_${r};
      if ((flags & BAD_DS) != 0u) {
        bad |= seen & ${15 * (r == 0) + 240 * (r == 1) + 3840 * (r == 2) + 61440 * (r == 3)}u;
      }
//#elif OWN_KEYS
      if ((flags & (BAD_P | BAD_DS | BAD_DOUT)) != 0u) {
        bad |= select(vec4u(0u), vec4u(flags), visible);
      }
//#endif
    }
//#endfor

    // accumulate
//#for a in 2
//#if a == 0 && DX || a == 1 && DY
    {
//#for m in 4
//#if OWN_KEYS && a == 0
      let weight_${m} = dS_${m};
//#elif OWN_KEYS
      let weight_${m} = P_${m};
//#else
      let weight_${m} = vec4f(dS_0[${m}], dS_1[${m}], dS_2[${m}], dS_3[${m}]);
//#endif
//#endfor
//#for l in (DEPTH * (OX + a * (OY - OX)) + 15) / 16
      let item_${l} = (${256 * l}u + thread) / ${16 * (OX + a * (OY - OX))}u;
      let quad_${l} = (${256 * l}u + thread) % ${16 * (OX + a * (OY - OX))}u;
      var next_${l} = vec4f(0.0);
      if (item_${l} < DEPTH && other + item_${l} < other_stop) {
        next_${l} = load_${OTHER + a * OTHER_STEP}(base_${OTHER + a * OTHER_STEP} + (other + item_${l}) * args.row_${OTHER + a * OTHER_STEP}, quad_${l});
      }
//#endfor
      for (var first = other; first < other_stop; first += DEPTH) {
        if (t_other / (DEPTH / 4u) == (first - other) / DEPTH) {
//#for m in 4
          smem[(4u * t_other + ${m}u) % DEPTH * 16u + t_own] = weight_${m};
//#endfor
        }
//#for l in (DEPTH * (OX + a * (OY - OX)) + 15) / 16
        if (item_${l} < DEPTH) {
          smem[DEPTH * 16u + ${256 * l}u + thread] = next_${l};
        }
//#endfor
        workgroupBarrier();
//#for l in (DEPTH * (OX + a * (OY - OX)) + 15) / 16
        if (item_${l} < DEPTH && first + DEPTH + item_${l} < other_stop) {
          next_${l} = load_${OTHER + a * OTHER_STEP}(base_${OTHER + a * OTHER_STEP} + (first + DEPTH + item_${l}) * args.row_${OTHER + a * OTHER_STEP}, quad_${l});
        } else {
          next_${l} = vec4f(0.0);
        }
//#endfor
        for (var x = 0u; x < DEPTH; x++) {
          let weight = smem[x * 16u + thread / 16u];
//#for o in OX + a * (OY - OX)
          {
            let row = smem[DEPTH * 16u + x * ${16 * (OX + a * (OY - OX))}u + ${16 * o}u + thread % 16u];
//#for n in 4
            acc_${a}_${n}_${o} = fma(vec4f(weight[${n}]), row, acc_${a}_${n}_${o});
//#endfor
          }
//#endfor
        }
        workgroupBarrier();
      }
    }
//#endif
//#endfor
  }
  }
  }
  }

  // finish
//#if DBIAS
  if (args.dbias_i == 1u) {
    dbias_0 = (dbias_0 + dbias_1) + (dbias_2 + dbias_3);
    smem[thread] = dbias_0;
    bad_smem[thread] = (bad | (bad >> 4u) | (bad >> 8u) | (bad >> 12u)) & 0xfu;
    workgroupBarrier();
    if (t_other == 0u) {
      bad = bad_smem[thread];
      for (var n = 1u; n < 16u; n++) {
        dbias_0 += smem[16u * n + t_own];
        bad |= bad_smem[16u * n + t_own];
      }
    }
    workgroupBarrier();
  }
  if (args.dbias_j == 1u) {
    const ONE = vec4f(1.0);
    smem[thread] = vec4f(dot(dbias_0, ONE), dot(dbias_1, ONE), dot(dbias_2, ONE), dot(dbias_3, ONE));
    bad_smem[thread] = (bad | (bad >> 1u) | (bad >> 2u) | (bad >> 3u)) & 0x1111u;
    workgroupBarrier();
    if (t_own == 0u) {
      var sums = vec4f(0.0);
      bad = 0u;
      for (var n = 0u; n < 16u; n++) {
        sums += smem[thread + n];
        bad |= bad_smem[thread + n];
      }
//#for r in 4
      dbias_${r}[0] = sums[${r}];
//#endfor
    }
  }
  let is_first_row = args.dbias_i == 1u && t_other == 0u;
  let is_first_key = args.dbias_j == 1u && t_own == 0u;
//#for r in 4
//#for c in 4
  {
    let i = other_begin + 4u * t_other + ${r}u;
    let j = own_begin + 4u * t_own + ${c}u;
    let has_row = select(i < other_end, is_first_row && ${r}u == 0u, args.dbias_i == 1u);
    let has_key = select(j < own_end, is_first_key && ${c}u == 0u, args.dbias_j == 1u);
    if (has_row && has_key) {
      let strides = args.score;
      let at = b_begin * strides.bias_b + h_begin * strides.bias_h + i * strides.bias_i + j * strides.bias_j - args.first_of_dbias;
      let bits = select(finite_or_nan(dbias_${r}[${c}]), NAN.x, (bad & (1u << ${4 * r + c}u)) != 0u);
//#if BIAS_DTYPE == F32
      dbias[at] = bits;
//#else
      let width = ${32 / BIAS_PER_WORD}u;
      let shift = at % ${BIAS_PER_WORD}u * width;
      atomicAnd(&dbias[at / ${BIAS_PER_WORD}u], ~(((1u << width) - 1u) << shift));
      atomicOr(&dbias[at / ${BIAS_PER_WORD}u], narrow(${BIAS_DTYPE}u, bits) << shift);
//#endif
    }
  }
//#endfor
//#endfor
//#else
//#if OWN_KEYS
//#for n in 4
  if (bad[${n}] != 0u) {
    atomicOr(&bad_smem[4u * t_own + ${n}u], bad[${n}]);
  }
//#endfor
  workgroupBarrier();
  let result_head = h_begin / args.group;
//#else
  let result_head = h_begin;
//#endif
//#for n in 4
  {
    let row = own_begin + 4u * (thread / 16u) + ${n}u;
    if (row < own_end) {
//#if OWN_KEYS
      let flags = atomicLoad(&bad_smem[4u * (thread / 16u) + ${n}u]);
//#else
      let term_flags = head_terms[terms_of(b_begin, h_begin) + row * TERMS + 2u];
      let flags = select(term_flags, 0u, (term_flags & EMPTY) != 0u);
//#endif
//#for a in 2
//#if a == 0 && DX || a == 1 && DY
      {
//#if a == 0
      let features = args.D;
//#else
      let features = args.Dv;
//#endif
//#for o in OX + a * (OY - OX)
      if (${64 * o}u + 4u * (thread % 16u) < features) {
//#if a == 0 && !SOFTCAP
        let x = acc_${a}_${n}_${o} * args.score.scale;
//#else
        let x = acc_${a}_${n}_${o};
//#endif
//#if a == 0
        let is_bad = (flags & (BAD_P | BAD_DS)) != 0u;
//#else
        let is_bad = (flags & (BAD_P | BAD_DOUT)) != 0u;
//#endif
        let bits = vec4u(finite_or_nan(x.x), finite_or_nan(x.y), finite_or_nan(x.z), finite_or_nan(x.w));
        let at = b_begin * args.batch_${OWN + a * OWN_STEP} + result_head * args.head_${OWN + a * OWN_STEP} + row * args.row_${OWN + a * OWN_STEP} - args.first_of_result_${OWN + a * OWN_STEP};
        store_${a}(at, ${16 * o}u + thread % 16u, select(bits, NAN, is_bad));
      }
//#endfor
      }
//#endif
//#endfor
    }
  }
//#endfor
//#endif
}
