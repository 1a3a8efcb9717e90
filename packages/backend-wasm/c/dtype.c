// Conversion of whole rows, and the cast between dtypes.
#include "dtype.h"

#define CONVERSIONS(name, dtype)                                                                                       \
  HOT static void read##name(f32 *to, const u8 *from, u32 n) {                                                         \
    const u32 unit = dtypeBytes(dtype);                                                                                \
    u32 i = 0;                                                                                                         \
    for (; i + 4 <= n; i += 4) store(to + i, load4(from + i * unit, dtype));                                           \
    if (i < n) {                                                                                                       \
      f32 last[4], result[4];                                                                                          \
      copyBytes(last, from + i * unit, (n - i) * unit);                                                                \
      store(result, load4(last, dtype));                                                                               \
      copyBytes(to + i, result, (n - i) * 4);                                                                          \
    }                                                                                                                  \
  }                                                                                                                    \
  HOT static void write##name(u8 *to, const f32 *from, u32 n) {                                                        \
    const u32 unit = dtypeBytes(dtype);                                                                                \
    u32 i = 0;                                                                                                         \
    for (; i + 4 <= n; i += 4) store4(to + i * unit, load(from + i), dtype);                                           \
    if (i < n) {                                                                                                       \
      f32 last[4] = {0, 0, 0, 0}, result[4];                                                                           \
      copyBytes(last, from + i, (n - i) * 4);                                                                          \
      store4(result, load(last), dtype);                                                                               \
      copyBytes(to + i * unit, result, (n - i) * unit);                                                                \
    }                                                                                                                  \
  }
CONVERSIONS(F16, FLOAT16)
CONVERSIONS(BF16, BFLOAT16)
CONVERSIONS(F8, FLOAT8E4M3)

HOT static void copyF32(f32 *to, const f32 *from, u32 n) {
  u32 i = 0;
  for (; i + 4 <= n; i += 4) store(to + i, load(from + i));
  for (; i < n; i++) to[i] = from[i];
}

void toF32(f32 *to, const void *from, u32 n, u32 dtype) {
  switch (dtype) {
    case FLOAT32: copyF32(to, from, n); break;
    case FLOAT16: readF16(to, from, n); break;
    case BFLOAT16: readBF16(to, from, n); break;
    default: readF8(to, from, n);
  }
}

void fromF32(void *to, const f32 *from, u32 n, u32 dtype) {
  switch (dtype) {
    case FLOAT32: copyF32(to, from, n); break;
    case FLOAT16: writeF16(to, from, n); break;
    case BFLOAT16: writeBF16(to, from, n); break;
    default: writeF8(to, from, n);
  }
}

// Any dtype to any other: through f32, which holds every value of the narrow ones, so there is one rounding.
EXPORT(faCast) void faCast(void *to, u32 toDtype, const void *from, u32 fromDtype, u32 n) {
  f32 piece[256];
  for (u32 i = 0; i < n; i += 256) {
    u32 count = minU(256, n - i);
    toF32(piece, elementAt(from, fromDtype, i), count, fromDtype);
    fromF32(elementAtW(to, toDtype, i), piece, count, toDtype);
  }
}

// Sums that were kept in double, to a dtype.
EXPORT(faRound) void faRound(void *to, u32 toDtype, const f64 *from, u32 n) {
  f32 piece[256];
  for (u32 i = 0; i < n; i += 256) {
    u32 count = minU(256, n - i);
    for (u32 c = 0; c < count; c++) piece[c] = (f32)from[i + c];
    fromF32(elementAtW(to, toDtype, i), piece, count, toDtype);
  }
}
