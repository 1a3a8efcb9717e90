// c = the sum of slots [I, J] that workgroups of linear.wgsl left, + bias; and with ROW_SUMS the sums of their [I].
// A thread owns four columns of a row, or after those a row sum; slots are added in order.

//#include "lib/linear-result.wgsl"
//#include "lib/launch.wgsl"

struct LinearSumArgs {
  launch: Launch,
  I: u32,
  J: u32,
  slots: u32,
  slot_sums: u32,
  c_base: u32,
  c_stride: u32,
  vector_base: u32,
}

@group(0) @binding(0) var<uniform> args: LinearSumArgs;
@group(0) @binding(1) var<storage, read> sums: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = workgroup_index(args.launch, id, count);
  if (group >= args.launch.end) {
    return;
  }
  let n = group * 64u + thread;
  let row_quads = (args.J + 3u) / 4u;
  if (n < args.I * row_quads) {
    let i = n / row_quads;
    let j = n % row_quads * 4u;
    let there = min(args.J - j, 4u);
    var x = vec4f(0.0);
    for (var slot = 0u; slot < args.slots; slot++) {
      let at = slot * args.slot_sums + i * args.J + j;
//#for e in 4
      x[${e}] += sums[at + min(${e}u, there - 1u)];
//#endfor
    }
//#if BIAS
    x += bias_quad(j, there);
//#endif
    store(args.c_base + i * args.c_stride + j, there, x);
    return;
  }
//#if ROW_SUMS
  let i = n - args.I * row_quads;
  if (i < args.I) {
    var x = 0.0;
    for (var slot = 0u; slot < args.slots; slot++) {
      x += sums[slot * args.slot_sums + args.I * args.J + i];
    }
    store_row_sum(args.vector_base + i, x);
  }
//#endif
}
