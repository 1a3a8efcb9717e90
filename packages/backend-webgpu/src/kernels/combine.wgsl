// Joins what decode.wgsl left of each piece of the keys: a workgroup a row.

//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"
//#include "lib/finish.wgsl"

struct CombineArgs {
  launch: Launch,
  score: Score,
  // Piece of the problem: the first batch and key head, and how many key heads.
  batch_from: u32,
  head_from: u32,
  heads: u32,
  // Query heads that share a key head, Hkv and Sq.
  group: u32,
  key_heads: u32,
  rows: u32,
  // Dv.
  columns: u32,
  // Pieces that the keys were split into, at most SPLITS.
  splits: u32,
  // As in forward.wgsl.
  to_exponent: f32,
  to_logit: f32,
  out_batch: u32, out_head: u32, out_row: u32, out_first: u32,
  lse_first: u32,
  // Words of the workspace before the window.
  parts_first: u32,
}

@group(0) @binding(0) var<uniform> args: CombineArgs;
// As in decode.wgsl.
@group(0) @binding(1) var<storage, read> parts: array<vec4u>;
//#if OUT_WORDS == 4
@group(0) @binding(2) var<storage, read_write> out: array<vec4u>;
//#elif OUT_WORDS == 2
@group(0) @binding(2) var<storage, read_write> out: array<vec2u>;
//#elif OUT_WORDS == 1
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
//#else
@group(0) @binding(2) var<storage, read_write> out: array<atomic<u32>>;
//#endif
//#if LSE
@group(0) @binding(${LSE_BINDING}) var<storage, read_write> lse: array<u32>;
//#endif
//#if SINKS
@group(0) @binding(${HEAD_BINDING}) var<storage, read> sinks: array<u32>;
//#endif

// Of each piece: m, then its weight; l.
var<workgroup> m_smem: array<f32, ${SPLITS}>;
var<workgroup> l_smem: array<f32, ${SPLITS}>;
// acc of the pieces that a thread has summed, and which of its columns are NaN.
var<workgroup> acc_smem: array<vec4f, ${THREADS}>;
var<workgroup> bad_smem: array<u32, ${THREADS}>;

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  // setup: the row, and m and l of its pieces
  let index = workgroup_index(args.launch, id, count);
  if (index >= args.launch.end) {
    return;
  }
  let rows = args.rows * args.group;
  let r = index % rows;
  let kv_head = args.head_from + index / rows % args.heads;
  let b = args.batch_from + index / rows / args.heads;
  let h = kv_head * args.group + r / args.rows;
  let head = head_of(b, h);
  // Vectors of columns, and how many threads share one.
  let columns = (args.columns + 3u) / 4u;
  let groups = ${THREADS}u / columns;
  // In vectors: the row of piece 0, and from one piece to the next.
  let first = ((b * args.key_heads + kv_head) * args.splits * rows + r) * (columns + 1u) - args.parts_first / 4u;
  let stride = rows * (columns + 1u);
  for (var n = thread; n < args.splits; n += ${THREADS}u) {
    let ends = bitcast<vec4f>(parts[first + n * stride + columns]);
    m_smem[n] = ends.x;
    l_smem[n] = ends.y;
  }
  workgroupBarrier();
  var m = HIDDEN;
  for (var n = 0u; n < args.splits; n++) {
    m = max(m, m_smem[n]);
  }
  let base = select(m, 0.0, m == HIDDEN);
  workgroupBarrier();
  for (var n = thread; n < args.splits; n += ${THREADS}u) {
    m_smem[n] = select(exp2((m_smem[n] - base) * args.to_exponent), 0.0, m_smem[n] == HIDDEN);
  }
  workgroupBarrier();
  var l = 0.0;
  for (var n = 0u; n < args.splits; n++) {
    l += m_smem[n] * l_smem[n];
  }

  // accumulate: acc [Dv], each thread four columns of its share of the pieces
  let column = thread % columns;
  var acc = vec4f();
  var bad = 0u;
  for (var n = thread / columns; n < args.splits && thread < groups * columns; n += groups) {
    // A part without a key was left by nobody who saw anything: its acc is 0.
    let bits = parts[first + n * stride + column];
    for (var e = 0u; e < 4u; e++) {
      if (is_finite(bits[e])) {
        acc[e] += m_smem[n] * bitcast<f32>(bits[e]);
      } else {
        bad |= 1u << e;
      }
    }
  }
  acc_smem[thread] = acc;
  bad_smem[thread] = bad;
  workgroupBarrier();

  // finish: out = acc / l [Dv], lse = m + ln l
  if (thread < columns) {
    for (var n = 1u; n < groups; n++) {
      acc += acc_smem[n * columns + thread];
      bad |= bad_smem[n * columns + thread];
    }
    let seen = finish_row(head, h, m, base * args.to_logit, l, false);
    let i = r % args.rows;
    //#if LSE
    if (thread == 0u) {
      lse[head.index * args.rows + i - args.lse_first] = seen.lse;
    }
    //#endif
    store_out(b * args.out_batch + h * args.out_head + i * args.out_row - args.out_first, column * 4u, acc, bad, seen);
  }
}
