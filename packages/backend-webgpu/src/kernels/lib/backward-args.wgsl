// What the passes of the backward share: sizes, strides, and the terms of query rows that the first of them writes.

//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"
//#include "lib/quad.wgsl"

struct BackwardArgs {
  launch: Launch,
  score: Score,
  // The piece of the problem: its batches and key heads. Terms of rows are those of the piece.
  batch_first: u32,
  batches: u32,
  head_first: u32,
  heads: u32,
  // Query heads that share a key head.
  group: u32,
  // Sq and Skv.
  rows: u32,
  keys: u32,
  D: u32,
  Dv: u32,
  // Query rows and keys of a tile: multiples of 8 up to 64.
  tile_rows: u32,
  tile_keys: u32,
  // In words of the workspace: sums over batches for dsinks [H], and the terms [batches, heads * group, Sq, 3].
  sums: u32,
  terms: u32,
  // Strides in elements along batch, head and row, and elements before the window, of q and dq, k and dk, v and dv, out and dout.
//#for n in 4
  batch_${n}: u32,
  head_${n}: u32,
  row_${n}: u32,
  first_${n}: u32,
//#endfor
  // Elements before the window of dq, dk and dv; of out.
//#for n in 4
  first_of_result_${n}: u32,
//#endfor
  // Elements before the window of lse and of dbias; shape of dbias.
  first_of_lse: u32,
  first_of_dbias: u32,
  dbias_b: u32,
  dbias_h: u32,
  dbias_i: u32,
  dbias_j: u32,
}

// The terms of a row are lse and delta, finite, and flags.
const TERMS: u32 = 3u;
// The row has no part in any gradient: it sees nothing, or nothing that weighs.
const EMPTY: u32 = 1u;
// Its probabilities, and with them all that it adds to, are NaN: lse is.
const BAD_P: u32 = 2u;
// Its dS are NaN: lse or delta is.
const BAD_DS: u32 = 4u;
// Its dout holds NaN or Inf, and what it adds to dv is NaN.
const BAD_DOUT: u32 = 8u;

// Where the terms of row 0 lie, of query head h of batch b.
fn terms_of(b: u32, h: u32) -> u32 {
  let head = (b - args.batch_first) * args.heads * args.group + h - args.head_first * args.group;
  return args.terms + head * args.rows * TERMS;
}

// exp(x) of a probability's logarithm; large ones only come of rounding, and rows that have them are NaN anyway.
fn exp4(x: vec4f) -> vec4f {
  return exp2(clamp(x, vec4f(-150.0), vec4f(20.0)) * LOG2_E);
}
