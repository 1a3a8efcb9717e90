// y = x rounded once to another dtype. A thread writes whole words of y, so no two touch the same.

//#include "lib/dtype.wgsl"
//#include "lib/launch.wgsl"

struct CastArgs {
  launch: Launch,
  // In the windows of x and y; at least 1.
  elements: u32,
}

@group(0) @binding(0) var<uniform> args: CastArgs;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = workgroup_index(args.launch, id, count);
  if (group >= args.launch.end) {
    return;
  }
  let x_per_word = elements_per_word(${FROM}u);
  let y_per_word = elements_per_word(${TO}u);
  for (var n = 0u; n < ${WORDS}u; n++) {
    let word = (group * ${WORDS}u + n) * ${THREADS}u + thread;
    let first = word * y_per_word;
    if (first >= args.elements) {
      return;
    }
    var joined = 0u;
    for (var at = 0u; at < y_per_word; at++) {
      let element = min(first + at, args.elements - 1u);
      let bits = narrow(${TO}u, widen(${FROM}u, x[element / x_per_word], element % x_per_word));
      joined |= bits << (at * 32u / y_per_word);
    }
    y[word] = joined;
  }
}
