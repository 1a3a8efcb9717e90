// The float dtypes, read from and written to words of storage. Everything that NaN, Inf or rounding depends on is integer
// arithmetic on bits, since WGSL may assume that floats are finite and may flush denormals.
// Where a function takes a dtype it is to be a literal, `${DTYPE}u`: compilers then keep one branch.

// Elements in a word of storage.
fn elements_per_word(dtype: u32) -> u32 {
  if (dtype == ${F32}u) {
    return 1u;
  }
  return select(2u, 4u, dtype == ${F8}u);
}

// ---- to float32

// Float32 bits of element `at` of a word, exact. NaN is 7fc00000 whatever its payload.
fn widen(dtype: u32, word: u32, at: u32) -> u32 {
  if (dtype == ${F32}u) {
    return widen_f32(word);
  } else if (dtype == ${F16}u) {
    return widen_f16(extractBits(word, at * 16u, 16u));
  } else if (dtype == ${BF16}u) {
    return widen_f32(extractBits(word, at * 16u, 16u) << 16u);
  }
  return widen_f8(extractBits(word, at * 8u, 8u));
}

fn widen_f32(bits: u32) -> u32 {
  return select(bits, 0x7fc00000u, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn widen_f16(bits: u32) -> u32 {
  let sign = (bits & 0x8000u) << 16u;
  let size = bits & 0x7fffu;
  if (size > 0x7c00u) {
    return 0x7fc00000u;
  }
  if (size == 0x7c00u) {
    return sign | 0x7f800000u;
  }
  // Denormals count 2^-24.
  return sign | select((size << 13u) + 0x38000000u, bitcast<u32>(f32(size) * 0x1p-24f), size < 0x400u);
}

fn widen_f8(bits: u32) -> u32 {
  let sign = (bits & 0x80u) << 24u;
  let size = bits & 0x7fu;
  if (size == 0x7fu) {
    return 0x7fc00000u;
  }
  // Denormals count 2^-9.
  return sign | select((size << 20u) + 0x3c000000u, bitcast<u32>(f32(size) * 0x1p-9f), size < 8u);
}

// The elements of a word whose elements are all finite.
fn unpack_f16(word: u32) -> vec2f {
  return unpack2x16float(word);
}

fn unpack_bf16(word: u32) -> vec2f {
  return bitcast<vec2f>(vec2u(word << 16u, word & 0xffff0000u));
}

fn unpack_f8(word: u32) -> vec4f {
  let size = (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(0x7fu);
  let sign = (vec4u(word) << vec4u(24u, 16u, 8u, 0u)) & vec4u(0x80000000u);
  let denormal = bitcast<vec4u>(vec4f(size) * 0x1p-9f);
  return bitcast<vec4f>(sign | select((size << vec4u(20u)) + vec4u(0x3c000000u), denormal, size < vec4u(8u)));
}

// Not 0 iff some element of the word is NaN or Inf; answers for several words may be joined by |.
fn nonfinite(dtype: u32, word: u32) -> u32 {
  if (dtype == ${F32}u) {
    return ((word & 0x7f800000u) + 0x00800000u) & 0x80000000u;
  } else if (dtype == ${F16}u) {
    return ((word & 0x7c007c00u) + 0x04000400u) & 0x80008000u;
  } else if (dtype == ${BF16}u) {
    return ((word & 0x7f807f80u) + 0x00800080u) & 0x80008000u;
  }
  return ((word & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
}

// The same for each of several words.
fn nonfinite4(dtype: u32, words: vec4u) -> vec4u {
  if (dtype == ${F32}u) {
    return ((words & vec4u(0x7f800000u)) + vec4u(0x00800000u)) & vec4u(0x80000000u);
  } else if (dtype == ${F16}u) {
    return ((words & vec4u(0x7c007c00u)) + vec4u(0x04000400u)) & vec4u(0x80008000u);
  } else if (dtype == ${BF16}u) {
    return ((words & vec4u(0x7f807f80u)) + vec4u(0x00800080u)) & vec4u(0x80008000u);
  }
  return ((words & vec4u(0x7f7f7f7fu)) + vec4u(0x01010101u)) & vec4u(0x80808080u);
}

// ---- from float32

fn is_finite(bits: u32) -> bool {
  return (bits & 0x7f800000u) != 0x7f800000u;
}

// The bits of a result: its own, or NaN where arithmetic overflowed.
fn finite_or_nan(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return select(0x7fc00000u, bits, is_finite(bits));
}

// Float32 bits rounded to the bits of a dtype, to nearest even. F8 saturates at 448, the others overflow to Inf.
fn narrow(dtype: u32, bits: u32) -> u32 {
  if (dtype == ${F32}u) {
    return widen_f32(bits);
  } else if (dtype == ${F16}u) {
    return narrow_f16(bits);
  } else if (dtype == ${BF16}u) {
    return narrow_bf16(bits);
  }
  return narrow_f8(bits);
}

fn narrow_bf16(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return 0x7fc0u;
  }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn narrow_f16(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let size = bits & 0x7fffffffu;
  // Below 2^-14 results count 2^-24, and a shift by 25 leaves nothing. No branch: this is what most kernels end with, and its
  // code is run once.
  let small = size < 0x38800000u;
  let shift = select(13u, min(126u - (size >> 23u), 25u), small);
  let mantissa = select(size - 0x38000000u, (size & 0x7fffffu) | 0x800000u, small);
  let rounded = (mantissa + (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u)) >> shift;
  // From 65520 on, half way between the largest number and the next power of two, it is Inf.
  return select(sign | min(rounded, 0x7c00u), 0x7e00u, size > 0x7f800000u);
}

fn narrow_f8(bits: u32) -> u32 {
  let sign = (bits >> 24u) & 0x80u;
  let size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) {
    return 0x7fu;
  }
  if (size >= 0x43e00000u) {
    return sign | 0x7eu;
  }
  if (size >= 0x3c800000u) {
    return sign | ((size - 0x3c000000u + 0x7ffffu + ((size >> 20u) & 1u)) >> 20u);
  }
  return sign | round_denormal(size, 141u);
}

// How many times 2^(exponent - 150) a small float32 without sign is, to nearest even.
fn round_denormal(size: u32, exponent: u32) -> u32 {
  let shift = exponent - (size >> 23u);
  if (shift > 24u) {
    return 0u;
  }
  let mantissa = (size & 0x7fffffu) | 0x800000u;
  let whole = mantissa >> shift;
  let rest = mantissa & ((1u << shift) - 1u);
  let half = 1u << (shift - 1u);
  return whole + select(0u, 1u, rest > half || (rest == half && (whole & 1u) == 1u));
}

// Two results of a 16-bit dtype as a word; x lies in the low half.
fn pack2(dtype: u32, x: vec2u) -> u32 {
  return narrow(dtype, x.x) | (narrow(dtype, x.y) << 16u);
}
