// ALiBi slopes and sinks side by side, float32: y [B, H, 2]. A stage has room for eight storage buffers, and attention with
// every option wants nine.

//#include "lib/dtype.wgsl"
//#include "lib/launch.wgsl"

struct HeadTermsArgs {
  launch: Launch,
  // B * H
  count: u32,
  heads: u32,
  slope_batch: u32,
}

@group(0) @binding(0) var<uniform> args: HeadTermsArgs;
@group(0) @binding(1) var<storage, read> alibi_slopes: array<u32>;
@group(0) @binding(2) var<storage, read> sinks: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let n = workgroup_index(args.launch, id, count) * 64u + thread;
  if (n >= args.count) {
    return;
  }
  let h = n % args.heads;
  let slope = n / args.heads * args.slope_batch + h;
  y[n * 2u] = widen(${ALIBI_DTYPE}u, alibi_slopes[slope / ${ALIBI_PER_WORD}u], slope % ${ALIBI_PER_WORD}u);
  y[n * 2u + 1u] = widen(${SINKS_DTYPE}u, sinks[h / ${SINKS_PER_WORD}u], h % ${SINKS_PER_WORD}u);
}
