// Element types: bits in memory, float32 in registers. Each value is rounded once, to nearest even.
#pragma once

#include "platform.cuh"

namespace fa {

/** As launch.h numbers them. */
enum DType : int { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2, FLOAT8 = 3 };

struct Float16 {
  u16 bits;
};
struct Bfloat16 {
  u16 bits;
};
/** OCP E4M3: no infinities, NaN is 0x7f, the largest number 448. */
struct Float8 {
  u8 bits;
};

FA_DEVICE bool is_finite(Float16 x) { return (x.bits & 0x7c00u) != 0x7c00u; }
FA_DEVICE bool is_finite(Bfloat16 x) { return (x.bits & 0x7f80u) != 0x7f80u; }

FA_DEVICE float to_float(float x) { return x; }

FA_DEVICE float to_float(Bfloat16 x) { return bits_float(static_cast<u32>(x.bits) << 16); }

FA_DEVICE float to_float(Float16 x) {
  // Exponents of float16 are rebased by a multiplication, which is right for subnormals too.
  const u32 magnitude = (x.bits & 0x7fffu) << 13;
  const u32 sign = (x.bits & 0x8000u) << 16;
  if ((x.bits & 0x7c00u) == 0x7c00u) return bits_float(sign | 0x7f800000u | magnitude);
  return bits_float(float_bits(bits_float(magnitude) * 0x1p112f) | sign);
}

FA_DEVICE float to_float(Float8 x) {
  const u32 sign = (x.bits & 0x80u) << 24;
  if ((x.bits & 0x7fu) == 0x7fu) return quiet_nan();
  return bits_float(float_bits(bits_float((x.bits & 0x7fu) << 20) * 0x1p120f) | sign);
}

FA_DEVICE void from_float(float& to, float x) { to = x; }

FA_DEVICE void from_float(Bfloat16& to, float x) {
  const u32 bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    to.bits = 0x7fc0;
    return;
  }
  to.bits = static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/** Rounds the magnitude to `mantissa` bits below 2^minExponent's spacing or its own, whichever is coarser. */
FA_DEVICE float round_to(float magnitude, int mantissa, int minExponent) {
  const int exponent = most(static_cast<int>(float_bits(magnitude) >> 23) - 127, minExponent);
  // 1.5 * 2^(23 - mantissa) units: adding and taking it away leaves no bit below the unit.
  const float shift = bits_float(static_cast<u32>(exponent - mantissa + 23 + 127) << 23);
  return (magnitude + shift) - shift;
}

FA_DEVICE void from_float(Float16& to, float x) {
  const u32 sign = (float_bits(x) >> 16) & 0x8000u;
  const float magnitude = bits_float(float_bits(x) & 0x7fffffffu);
  if (magnitude != magnitude) {
    to.bits = 0x7e00;
    return;
  }
  u32 bits = 0x7c00;
  if (magnitude < 65520.f) {
    const float rounded = round_to(magnitude, 10, -14);
    bits = float_bits(rounded * 0x1p-112f) >> 13;
  }
  to.bits = static_cast<u16>(sign | bits);
}

/** Saturates at +-448. */
FA_DEVICE void from_float(Float8& to, float x) {
  const u32 sign = (float_bits(x) >> 24) & 0x80u;
  const float magnitude = bits_float(float_bits(x) & 0x7fffffffu);
  if (magnitude != magnitude) {
    to.bits = 0x7f;
    return;
  }
  const float rounded = magnitude < 448.f ? round_to(magnitude, 3, -6) : 448.f;
  to.bits = static_cast<u8>(sign | (float_bits(rounded * 0x1p-120f) >> 20));
}

/** Two neighbours as one word, the first in the low half. */
template <class T>
FA_DEVICE u32 pack2(float first, float second) {
  T a, b;
  from_float(a, first);
  from_float(b, second);
  return a.bits | static_cast<u32>(b.bits) << 16;
}
#ifndef FA_EMULATED
template <>
FA_DEVICE u32 pack2<Float16>(float first, float second) {
  u32 word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
template <>
FA_DEVICE u32 pack2<Bfloat16>(float first, float second) {
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
#endif

/** Element `n` of a tensor whose dtype is known at run time. */
FA_DEVICE float load_as(int dtype, const void* from_gmem, i64 n) {
  switch (dtype) {
    case FLOAT32:
      return static_cast<const float*>(from_gmem)[n];
    case FLOAT16:
      return to_float(static_cast<const Float16*>(from_gmem)[n]);
    case BFLOAT16:
      return to_float(static_cast<const Bfloat16*>(from_gmem)[n]);
    default:
      return to_float(static_cast<const Float8*>(from_gmem)[n]);
  }
}

FA_DEVICE void store_as(int dtype, void* to_gmem, i64 n, float x) {
  switch (dtype) {
    case FLOAT32:
      static_cast<float*>(to_gmem)[n] = x;
      return;
    case FLOAT16:
      from_float(static_cast<Float16*>(to_gmem)[n], x);
      return;
    case BFLOAT16:
      from_float(static_cast<Bfloat16*>(to_gmem)[n], x);
      return;
    default:
      from_float(static_cast<Float8*>(to_gmem)[n], x);
  }
}

}  // namespace fa
