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
  // Pieces that the keys were split into, at most THREADS.
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

// Of each piece: its weight. And m, then l times the weight, on their way to the max and the sum of all.
var<workgroup> weight_smem: array<f32, ${THREADS}>;
var<workgroup> joined_smem: array<f32, ${THREADS}>;
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
  var ends = vec4f(HIDDEN, 0.0, 0.0, 0.0);
  if (thread < args.splits) {
    ends = bitcast<vec4f>(parts[first + thread * stride + columns]);
  }
  joined_smem[thread] = ends.x;
  for (var half = ${THREADS / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) {
      joined_smem[thread] = max(joined_smem[thread], joined_smem[thread + half]);
    }
  }
  workgroupBarrier();
  let m = joined_smem[0];
  let base = select(m, 0.0, m == HIDDEN);
  let weight = select(exp2((ends.x - base) * args.to_exponent), 0.0, ends.x == HIDDEN);
  workgroupBarrier();
  weight_smem[thread] = weight;
  joined_smem[thread] = weight * ends.y;
  for (var half = ${THREADS / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) {
      joined_smem[thread] += joined_smem[thread + half];
    }
  }
  workgroupBarrier();
  let l = joined_smem[0];

  // accumulate: acc [Dv], each thread four columns of its share of the pieces
  let column = thread % columns;
  var acc = vec4f();
  var bad = 0u;
  if (thread < groups * columns) {
    for (var n = thread / columns; n < args.splits; n += 4u * groups) {
      // A piece that is not there weighs nothing; what it is read from matters no more than that it is there.
      //#for x in 4
      let at${x} = min(n + ${x}u * groups, args.splits - 1u);
      let bits${x} = parts[first + at${x} * stride + column];
      //#endfor
      //#for x in 4
      {
        let share = select(weight_smem[at${x}], 0.0, n + ${x}u * groups >= args.splits);
        let finite = (bits${x} & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
        acc = fma(vec4f(share), select(vec4f(), bitcast<vec4f>(bits${x}), finite), acc);
        let nan = select(vec4u(1u, 2u, 4u, 8u), vec4u(), finite);
        bad |= nan.x | nan.y | nan.z | nan.w;
      }
      //#endfor
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
