// Multiplications and additions in registers alone: what the arithmetic of the device can do at best.
// 8 accumulators of 4 lanes; a round is one multiply-add of each.

struct Uniforms {
  rounds: u32,
  factor: f32,
  // What no sum is.
  never: f32,
}

@group(0) @binding(0) var<uniform> uniforms: Uniforms;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let factor = vec4f(uniforms.factor);
  //#for n in 8
  // No two lanes start alike: a compiler would compute equal ones once.
  var a_${n} = vec4f(f32(id.x)) + vec4f(${4 * n}.0, ${4 * n + 1}.0, ${4 * n + 2}.0, ${4 * n + 3}.0);
  //#endfor
  for (var round = 0u; round < uniforms.rounds; round++) {
    // Each from the next one: of a sum that only depends on itself and on what does not change, a compiler takes several rounds at once.
    //#for n in 8
    a_${n} = fma(a_${n}, factor, a_${(n + 1) % 8});
    //#endfor
  }
  var sum = vec4f();
  //#for n in 8
  sum += a_${n};
  //#endfor
  // Never true, but the compiler must not know: that a sum of squares is not -1 it does, and leaves all of the above out.
  if (dot(sum, vec4f(1.0)) == uniforms.never) {
    sums[0] = sum.x;
  }
}
