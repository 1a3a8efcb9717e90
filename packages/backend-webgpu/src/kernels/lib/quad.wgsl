// Four elements at a time, for tensors whose rows begin and end with whole quads. Names end in the code of a dtype:
// array<Quad_${DTYPE}> is how such a tensor is bound, quad_${DTYPE} reads and pack_${DTYPE} writes.

//#include "lib/dtype.wgsl"

alias Quad_${F32} = vec4u;
alias Quad_${F16} = vec2u;
alias Quad_${BF16} = vec2u;
alias Quad_${F8} = u32;

// As floats; NaN and Inf come out as whatever the device makes of them.
fn quad_${F32}(words: vec4u) -> vec4f {
  return bitcast<vec4f>(words);
}

fn quad_${F16}(words: vec2u) -> vec4f {
  return vec4f(unpack_f16(words.x), unpack_f16(words.y));
}

fn quad_${BF16}(words: vec2u) -> vec4f {
  return vec4f(unpack_bf16(words.x), unpack_bf16(words.y));
}

fn quad_${F8}(word: u32) -> vec4f {
  return unpack_f8(word);
}

// Not 0 iff some element is NaN or Inf; answers may be joined by |.
fn nonfinite_quad_${F32}(words: vec4u) -> u32 {
  let found = nonfinite4(${F32}u, words);
  return found.x | found.y | found.z | found.w;
}

fn nonfinite_quad_${F16}(words: vec2u) -> u32 {
  return nonfinite(${F16}u, words.x) | nonfinite(${F16}u, words.y);
}

fn nonfinite_quad_${BF16}(words: vec2u) -> u32 {
  return nonfinite(${BF16}u, words.x) | nonfinite(${BF16}u, words.y);
}

fn nonfinite_quad_${F8}(word: u32) -> u32 {
  return nonfinite(${F8}u, word);
}

// From float32 bits.
fn pack_${F32}(bits: vec4u) -> vec4u {
  return bits;
}

fn pack_${F16}(bits: vec4u) -> vec2u {
  return vec2u(pack2(${F16}u, bits.xy), pack2(${F16}u, bits.zw));
}

fn pack_${BF16}(bits: vec4u) -> vec2u {
  return vec2u(pack2(${BF16}u, bits.xy), pack2(${BF16}u, bits.zw));
}

fn pack_${F8}(bits: vec4u) -> u32 {
  return narrow_f8(bits.x) | (narrow_f8(bits.y) << 8u) | (narrow_f8(bits.z) << 16u) | (narrow_f8(bits.w) << 24u);
}
