// The results of linear and its gradients: c, and a vector that is added to its rows or made beside it.
// The kernel's uniforms `args` have c_base, c_stride and vector_base.

//#include "lib/quad.wgsl"

// Narrow results whose rows do not begin with a word share words with their neighbours, which atomics keep apart.
//#if C_QUADS
@group(0) @binding(${C_BINDING}) var<storage, read_write> c: array<Quad_${DTYPE}>;
//#elif DTYPE == F32
@group(0) @binding(${C_BINDING}) var<storage, read_write> c: array<u32>;
//#else
@group(0) @binding(${C_BINDING}) var<storage, read_write> c: array<atomic<u32>>;
//#endif
//#if BIAS
@group(0) @binding(${C_BINDING + 1}) var<storage, read> bias: array<u32>;
//#elif ROW_SUMS && DTYPE == F32
@group(0) @binding(${C_BINDING + 1}) var<storage, read_write> row_sums: array<u32>;
//#elif ROW_SUMS
@group(0) @binding(${C_BINDING + 1}) var<storage, read_write> row_sums: array<atomic<u32>>;
//#endif

//#if BIAS
// Bias of columns j to j + there - 1, there < 5.
fn bias_quad(j: u32, there: u32) -> vec4f {
  var x = vec4f(0.0);
  let per_word = elements_per_word(${DTYPE}u);
  for (var n = 0u; n < there; n++) {
    let at = args.vector_base + j + n;
    x[n] = bitcast<f32>(widen(${DTYPE}u, bias[at / per_word], at % per_word));
  }
  return x;
}
//#endif

//#if ROW_SUMS
fn store_row_sum(at: u32, x: f32) {
  let bits = narrow(${DTYPE}u, bitcast<u32>(x));
//#if DTYPE == F32
  row_sums[at] = bits;
//#else
  let width = 32u / elements_per_word(${DTYPE}u);
  let shift = at * width % 32u;
  atomicAnd(&row_sums[at * width / 32u], ~(((1u << width) - 1u) << shift));
  atomicOr(&row_sums[at * width / 32u], bits << shift);
//#endif
}
//#endif

// Four results from `at` on, of which the first `there` exist.
fn store(at: u32, there: u32, x: vec4f) {
//#if C_QUADS
  c[at / 4u] = pack_${DTYPE}(bitcast<vec4u>(x));
//#else
  for (var n = 0u; n < there; n++) {
    let bits = narrow(${DTYPE}u, bitcast<u32>(x[n]));
//#if DTYPE == F32
    c[at + n] = bits;
//#else
    let width = 32u / elements_per_word(${DTYPE}u);
    let shift = (at + n) * width % 32u;
    atomicAnd(&c[(at + n) * width / 32u], ~(((1u << width) - 1u) << shift));
    atomicOr(&c[(at + n) * width / 32u], bits << shift);
//#endif
  }
//#endif
}
