// c[i, j] = sum over r of a[i, r] b[r, j] (+ bias[j]): a product of matrices in float32, rounded once at the end.
// A workgroup owns a tile [TILE, TILE] of c and takes DEPTH of r at a time through workgroup memory; each of its 16 x 16
// threads owns BLOCKS x BLOCKS blocks [4, 4] of it. Either operand may lie in storage with r or with its other index contiguous.
//
// A sum over r that is over several tensors, or more than a binding can show, is made by several passes: all but the first
// begin from sums of float32 that the one before left, all but the last leave such sums. Where tiles are few and r is long,
// workgroups share a tile: each leaves its sums in a slot of its own, which linear-sum.wgsl adds up.

//#include "lib/quad.wgsl"
//#include "lib/launch.wgsl"

struct LinearArgs {
  launch: Launch,
  // Sizes of this pass.
  I: u32,
  J: u32,
  R: u32,
  // Tiles along j, and in all. The grid is slots by tiles of i by tiles of j, j innermost.
  j_tiles: u32,
  tiles: u32,
  // What a slot takes of r, and its sums.
  r_step: u32,
  slot_sums: u32,
  // Where [0, 0] of each lies in its window, and how far it is from a row in storage to the next; in elements.
  a_base: u32,
  a_stride: u32,
  b_base: u32,
  b_stride: u32,
  c_base: u32,
  c_stride: u32,
  // Of bias[0], or of the row sum of i = 0.
  vector_base: u32,
}

const TILE = ${64 * BLOCKS}u;
const DEPTH = ${16 / BLOCKS}u;
const TILE_QUADS = TILE / 4u;
// Rows of a tile in workgroup memory are one quad longer, so that rows begin in different banks.
const ROW_QUADS = TILE_QUADS + 1u;
// Blocks [4, 4] of an operand's tile: each is read by one thread, those of a before those of b.
const LOADS = TILE_QUADS * DEPTH / 4u;

@group(0) @binding(0) var<uniform> args: LinearArgs;
// a and b.
//#for n in 2
//#if n == 0 && A_QUADS || n == 1 && B_QUADS
@group(0) @binding(${1 + n}) var<storage, read> operand_${n}: array<Quad_${DTYPE}>;
//#else
@group(0) @binding(${1 + n}) var<storage, read> operand_${n}: array<u32>;
//#endif
//#endfor
//#if LAST
//#include "lib/linear-result.wgsl"
//#endif
// Slots of [I, J] and, with ROW_SUMS, [I]: what passes leave each other.
//#if !FIRST || !LAST
@group(0) @binding(${3 + LAST + (LAST && (BIAS || ROW_SUMS))}) var<storage, read_write> sums: array<f32>;
//#endif

// [DEPTH, TILE] of a and of b.
//#for n in 2
var<workgroup> tile_${n}: array<vec4f, DEPTH * ROW_QUADS>;

// Four elements from `at` on, of which `there` exist; the others are 0.
fn load_${n}(at: u32, there: u32) -> vec4f {
  if (there == 0u) {
    return vec4f(0.0);
  }
//#if n == 0 && A_QUADS || n == 1 && B_QUADS
  return quad_${DTYPE}(operand_${n}[at / 4u]);
//#else
  let per_word = elements_per_word(${DTYPE}u);
  var quad = vec4u(0u);
  for (var e = 0u; e < there; e++) {
    quad[e] = widen(${DTYPE}u, operand_${n}[(at + e) / per_word], (at + e) % per_word);
  }
  return bitcast<vec4f>(quad);
//#endif
}
//#endfor

// The block [4, 4] that thread `t` of the loaders of an operand reads: four quads, one from each of four rows in storage.
// `first` is the tile's first i or j, of `size`; `r` the first of the r that are taken now, up to `r_end`.
//#for n in 2
fn load_block_${n}(t: u32, first: u32, size: u32, r: u32, r_end: u32) -> mat4x4f {
//#if n == 0
  let base = args.a_base;
  let stride = args.a_stride;
//#else
  let base = args.b_base;
  let stride = args.b_stride;
//#endif
//#if n == 0 && A_ALONG_R || n == 1 && B_ALONG_R
  let row = first + 4u * (t / (DEPTH / 4u));
  let rows = size;
  let column = r + 4u * (t % (DEPTH / 4u));
  let columns = r_end;
//#else
  let row = r + 4u * (t / TILE_QUADS);
  let rows = r_end;
  let column = first + 4u * (t % TILE_QUADS);
  let columns = size;
//#endif
  let there = select(0u, min(columns - column, 4u), column < columns);
  var block: mat4x4f;
//#for m in 4
  block[${m}] = load_${n}(base + (row + ${m}u) * stride + column, select(0u, there, row + ${m}u < rows));
//#endfor
//#if n == 0 && A_ALONG_R || n == 1 && B_ALONG_R
  return transpose(block);
//#else
  return block;
//#endif
}

fn store_block_${n}(t: u32, block: mat4x4f) {
//#if n == 0 && A_ALONG_R || n == 1 && B_ALONG_R
  let at = 4u * (t % (DEPTH / 4u)) * ROW_QUADS + t / (DEPTH / 4u);
//#else
  let at = 4u * (t / TILE_QUADS) * ROW_QUADS + t % TILE_QUADS;
//#endif
//#for m in 4
  tile_${n}[at + ${m}u * ROW_QUADS] = block[${m}];
//#endfor
}
//#endfor

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
  let i_first = group % args.tiles / args.j_tiles * TILE;
  let j_first = group % args.j_tiles * TILE;
  let slot = group / args.tiles;
  let r_begin = slot * args.r_step;
  let r_end = min(r_begin + args.r_step, args.R);
  let thread_i = thread / 16u;
  let thread_j = thread % 16u;

  // setup
  // acc of block row p, row m of it, block column s.
//#for p in BLOCKS
//#for m in 4
//#for s in BLOCKS
  var acc_${p}_${m}_${s} = vec4f(0.0);
//#endfor
//#endfor
//#if ROW_SUMS
  var row_sum_${p} = vec4f(0.0);
//#endif
//#endfor

  var block: mat4x4f;
  if (thread < LOADS) {
    block = load_block_0(thread, i_first, args.I, r_begin, r_end);
  } else if (thread < 2u * LOADS) {
    block = load_block_1(thread - LOADS, j_first, args.J, r_begin, r_end);
  }
  for (var r = r_begin; r < r_end; r += DEPTH) {
    // load: what was read during the last step goes to workgroup memory, the next is read meanwhile.
    if (thread < LOADS) {
      store_block_0(thread, block);
    } else if (thread < 2u * LOADS) {
      store_block_1(thread - LOADS, block);
    }
    workgroupBarrier();
    if (thread < LOADS) {
      block = load_block_0(thread, i_first, args.I, r + DEPTH, r_end);
    } else if (thread < 2u * LOADS) {
      block = load_block_1(thread - LOADS, j_first, args.J, r + DEPTH, r_end);
    }

    // accumulate
    for (var depth = 0u; depth < DEPTH; depth++) {
//#for s in BLOCKS
      let b_${s} = tile_1[depth * ROW_QUADS + ${16 * s}u + thread_j];
//#endfor
//#for p in BLOCKS
      let a_${p} = tile_0[depth * ROW_QUADS + ${16 * p}u + thread_i];
//#if ROW_SUMS
      row_sum_${p} += a_${p};
//#endif
//#for m in 4
//#for s in BLOCKS
      acc_${p}_${m}_${s} = fma(vec4f(a_${p}[${m}]), b_${s}, acc_${p}_${m}_${s});
//#endfor
//#endfor
//#endfor
    }
    workgroupBarrier();
  }

  // finish
//#for s in BLOCKS
  let j_${s} = j_first + ${64 * s}u + 4u * thread_j;
  let there_${s} = select(0u, min(args.J - j_${s}, 4u), j_${s} < args.J);
//#if BIAS
  let bias_${s} = bias_quad(j_${s}, there_${s});
//#endif
//#endfor
//#for p in BLOCKS
//#for m in 4
  {
    let i = i_first + ${64 * p + m}u + 4u * thread_i;
    if (i < args.I) {
//#for s in BLOCKS
      if (there_${s} > 0u) {
        var x = acc_${p}_${m}_${s};
//#if BIAS
        x += bias_${s};
//#endif
//#if !FIRST
        for (var n = 0u; n < there_${s}; n++) {
          x[n] += sums[slot * args.slot_sums + i * args.J + j_${s} + n];
        }
//#endif
//#if LAST
        store(args.c_base + i * args.c_stride + j_${s}, there_${s}, x);
//#else
        for (var n = 0u; n < there_${s}; n++) {
          sums[slot * args.slot_sums + i * args.J + j_${s} + n] = x[n];
        }
//#endif
      }
//#endfor
//#if ROW_SUMS
      if (j_first == 0u && thread_j == 0u) {
        var x = row_sum_${p}[${m}];
//#if !FIRST
        x += sums[slot * args.slot_sums + args.I * args.J + i];
//#endif
//#if LAST
        store_row_sum(args.vector_base + i, x);
//#else
        sums[slot * args.slot_sums + args.I * args.J + i] = x;
//#endif
      }
//#endif
    }
  }
//#endfor
//#endfor
}
