// What the kernels of few query rows have in common: uniforms, bindings, and how keys and values are read.

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
  // Pieces that the keys which some row sees are split into, and keys of each.
  splits: u32,
  split_keys: u32,
  // Keys of a tile, at most KEYS.
  tile_kv: u32,
  // Counters and parts of a key head in `state` (of a block of its rows), and where the parts begin.
  counters: u32,
  parts: u32,
  parts_first: u32,
  // As in forward.wgsl.
  to_exponent: f32,
  to_logit: f32,
  // Strides in elements along batch, head and row, and elements before the window.
  q_batch: u32, q_head: u32, q_row: u32, q_first: u32,
  k_batch: u32, k_head: u32, k_row: u32, k_first: u32,
  v_batch: u32, v_head: u32, v_row: u32, v_first: u32,
  out_batch: u32, out_head: u32, out_row: u32, out_first: u32,
  lse_first: u32,
}

@group(0) @binding(0) var<uniform> args: DecodeArgs;
// All 0 before and after: counters [B, Hkv, blocks, counters], then parts of as many (lib/parts.wgsl).
@group(0) @binding(5) var<storage, read_write> state: array<atomic<u32>>;
//#include "lib/tensors.wgsl"

//#if NEGATIVE
// As in forward.wgsl.
const SIGN: f32 = -1.0;
//#else
const SIGN: f32 = 1.0;
//#endif

// Unit n of a row of k.
fn fetch_k(k_at: u32, j: u32, n: u32) -> vec4u {
  //#if WHOLE && VECTOR
  // Counted in units there is less to compute for each.
  return k[k_at / ${UNIT}u + j * (args.k_row / ${UNIT}u) + n];
  //#elif WHOLE
  return load_k(k_at + j * args.k_row + n * ${UNIT}u, ${UNIT}u);
  //#else
  return load_k(k_at + j * args.k_row + n * ${UNIT}u, elements_at(n * ${UNIT}u, args.depth));
  //#endif
}

// The unit of a row of v from a column on. Columns behind Dv are not kept.
fn fetch_v(v_at: u32, j: u32, column: u32) -> vec4u {
  //#if VECTOR
  return v[v_at / ${UNIT}u + j * (args.v_row / ${UNIT}u) + column / ${UNIT}u];
  //#else
  return load_v(v_at + j * args.v_row + column, ${UNIT}u);
  //#endif
}

// Bit n: element n of a unit is not finite.
fn bad_elements(unit: vec4u) -> u32 {
  let bad = nonfinite4(${DTYPE}u, unit);
  var bits = 0u;
  //#for n in UNIT
  bits |= ((bad[${n / PER_WORD}] >> ${(n % PER_WORD + 1) * (32 / PER_WORD) - 1}u) & 1u) << ${n}u;
  //#endfor
  return bits;
}
