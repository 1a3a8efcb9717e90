// dsinks[h] = -sum over batches and rows of exp(sink - lse) delta. A workgroup owns a head; its sum over the batches of one
// piece after another lies in the workspace.

//#include "lib/backward-args.wgsl"

@group(0) @binding(0) var<uniform> args: BackwardArgs;
@group(0) @binding(1) var<storage, read> sinks: array<u32>;
@group(0) @binding(2) var<storage, read_write> workspace: array<u32>;
//#if LAST
//#if SINKS_DTYPE == F32
@group(0) @binding(3) var<storage, read_write> dsinks: array<u32>;
//#else
@group(0) @binding(3) var<storage, read_write> dsinks: array<atomic<u32>>;
//#endif
//#endif

var<workgroup> sums_smem: array<f32, 256>;
var<workgroup> bad_smem: array<u32, 256>;

const NAN: u32 = 0x7fc00000u;

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
  let h = args.head_first * args.group + group;
  let sink_word = widen(${SINKS_DTYPE}u, sinks[h / ${SINKS_PER_WORD}u], h % ${SINKS_PER_WORD}u);
  // A sink of -Infinity has no weight; other sinks that are no numbers have made lse NaN.
  let sink = select(HIDDEN, bitcast<f32>(sink_word), is_finite(sink_word));
  var sum = 0.0;
  var bad = 0u;
  for (var b = args.batch_first; b < args.batch_first + args.batches; b++) {
    let terms = terms_of(b, h);
    for (var i = thread; i < args.rows; i += 256u) {
      let at = terms + i * TERMS;
      let flags = workspace[at + 2u];
      bad |= flags & (BAD_P | BAD_DS);
      // Rows that see no key have delta 0.
      if (flags == 0u) {
        let weight = exp4(vec4f(sink - bitcast<f32>(workspace[at]))).x;
        sum -= weight * bitcast<f32>(workspace[at + 1u]);
      }
    }
  }
  sums_smem[thread] = sum;
  bad_smem[thread] = bad;
  workgroupBarrier();
  if (thread != 0u) {
    return;
  }
  sum = 0.0;
  for (var other = 0u; other < 256u; other++) {
    sum += sums_smem[other];
    bad |= bad_smem[other];
  }
//#if !FIRST
  let before = workspace[args.sums + h];
  bad |= select(1u, 0u, is_finite(before));
  sum += bitcast<f32>(before);
//#endif
  let bits = select(finite_or_nan(sum), NAN, bad != 0u);
//#if LAST
//#if SINKS_DTYPE == F32
  dsinks[h] = bits;
//#else
  let width = ${32 / SINKS_PER_WORD}u;
  let shift = h * width % 32u;
  atomicAnd(&dsinks[h * width / 32u], ~(((1u << width) - 1u) << shift));
  atomicOr(&dsinks[h * width / 32u], narrow(${SINKS_DTYPE}u, bits) << shift);
//#endif
//#else
  workspace[args.sums + h] = bits;
//#endif
}
