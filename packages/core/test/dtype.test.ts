import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decode, encode, roundTo, resultDType, typedArray, DTYPES } from "../src/dtype.ts";

const allBits = (width: 8 | 16): Uint8Array<ArrayBuffer> => {
  if (width === 8) return Uint8Array.from({ length: 256 }, (_, n) => n);
  return new Uint8Array(Uint16Array.from({ length: 65536 }, (_, n) => n).buffer);
};
const bitsOf = (dtype: "float16" | "bfloat16" | "float8e4m3", bytes: Uint8Array<ArrayBuffer>) =>
  dtype === "float8e4m3" ? bytes : new Uint16Array(bytes.buffer);
const WIDTH = { float16: 16, bfloat16: 16, float8e4m3: 8 } as const;
const NARROW = ["float16", "bfloat16", "float8e4m3"] as const;

/** Every finite number of a format, in order, built from its bits alone. */
const finite = Object.fromEntries(
  NARROW.map((dtype) => [
    dtype,
    [...new Set(decode(dtype, allBits(WIDTH[dtype])).filter(Number.isFinite))].toSorted((a, b) => a - b),
  ]),
) as Record<(typeof NARROW)[number], number[]>;

describe("every bit pattern", () => {
  test.each(NARROW)("%s: reads and writes back the same bits; NaNs become one NaN", (dtype) => {
    const bytes = allBits(WIDTH[dtype]);
    const values = decode(dtype, bytes);
    const again = bitsOf(dtype, encode(dtype, values));
    const original = bitsOf(dtype, bytes);
    const changed = [...values.keys()].filter((n) => again[n] !== original[n]);
    expect(changed.filter((n) => !Number.isNaN(values[n]))).toEqual([]);
    expect([...decode(dtype, encode(dtype, [NaN]))]).toEqual([NaN]);
  });

  test("float16 reads as Float16Array does", () => {
    const bytes = allBits(16);
    expect(decode("float16", bytes)).toEqual(Float64Array.from(new Float16Array(bytes.buffer)));
  });

  test("bfloat16 reads as the upper half of a float32", () => {
    const bits = new Uint16Array(allBits(16).buffer);
    const float32 = new Float32Array(Uint32Array.from(bits, (half) => half * 65536).buffer);
    expect(decode("bfloat16", allBits(16))).toEqual(Float64Array.from(float32));
  });

  test("float8e4m3 reads as OCP E4M3: no infinities, one NaN a sign, 448 the largest, 2^-9 the smallest", () => {
    const values = decode("float8e4m3", allBits(8));
    expect([...values.keys()].filter((bits) => Number.isNaN(values[bits]))).toEqual([0x7f, 0xff]);
    expect(values.includes(Infinity)).toBe(false);
    expect([values[0x00], values[0x80], values[0x01], values[0x07], values[0x08]]).toEqual([
      0,
      -0,
      2 ** -9,
      7 * 2 ** -9,
      2 ** -6,
    ]);
    expect([values[0x38], values[0x3c], values[0x7e], values[0xfe]]).toEqual([1, 1.5, 448, -448]);
  });
});

/** The nearest of the format's numbers by search, and of two as near the one whose last bit is 0. */
function nearestBySearch(dtype: (typeof NARROW)[number], x: number): number {
  const numbers = finite[dtype];
  let at = 0;
  for (let step = 2 ** 16; step >= 1; step /= 2) if (at + step < numbers.length && numbers[at + step] <= x) at += step;
  const [below, above] = [numbers[at], numbers[Math.min(at + 1, numbers.length - 1)]];
  // Both differences are exact: the numbers are within a factor of two of x, or x is below the smallest.
  if (x - below !== above - x) return x - below < above - x ? below : above;
  return bitsOf(dtype, encode(dtype, [below]))[0] % 2 === 0 ? below : above;
}

describe("roundTo", () => {
  test("float16 agrees with Float16Array, which rounds float64 once", () => {
    const one = new Float16Array(1);
    const asFloat16Array = (x: number): number => {
      one[0] = x;
      return one[0];
    };
    const doubles = fc.oneof(
      fc.double(),
      fc.double({ min: -70000, max: 70000 }),
      fc.double({ min: -(2 ** -13), max: 2 ** -13 }),
    );
    fc.assert(
      fc.property(doubles, (x) => {
        expect(roundTo("float16", x)).toBe(asFloat16Array(x));
      }),
      { numRuns: 3000 },
    );
  });

  test.each(NARROW)("%s: a number of the format stays what it is", (dtype) => {
    expect(finite[dtype].filter((x) => !Object.is(roundTo(dtype, x), x))).toEqual([]);
  });

  test.each(NARROW)("%s: halfway between neighbours goes to the even one, a hair off it to the nearer", (dtype) => {
    const wrong: number[] = [];
    const numbers = finite[dtype];
    for (let n = 0; n + 1 < numbers.length; n++) {
      const [a, b] = [numbers[n], numbers[n + 1]];
      const middle = a + (b - a) / 2;
      const hair = (b - a) * 2 ** -20;
      const even = bitsOf(dtype, encode(dtype, [a]))[0] % 2 === 0 ? a : b;
      // A negative number that rounds to zero becomes -0; as a number it is the same.
      if (roundTo(dtype, middle) !== even) wrong.push(middle);
      if (roundTo(dtype, middle - hair) !== a) wrong.push(middle - hair);
      if (roundTo(dtype, middle + hair) !== b) wrong.push(middle + hair);
    }
    expect(wrong).toEqual([]);
  });

  test.each(NARROW)("%s: any number inside the range goes to the nearest by search", (dtype) => {
    const max = finite[dtype].at(-1)!;
    const inside = fc.oneof(fc.double({ min: -max, max, noNaN: true }), fc.double({ min: -2, max: 2, noNaN: true }));
    fc.assert(
      fc.property(inside, (x) => {
        // A sum, so that -0 is 0.
        expect(roundTo(dtype, x) + 0).toBe(nearestBySearch(dtype, x) + 0);
      }),
      { numRuns: 1000 },
    );
  });

  test.each([
    // 1 + half a unit + a bit that float32 cannot hold: through float32 the bit is lost, and the tie goes down to 1.
    ["float16", 1 + 2 ** -11 + 2 ** -30, 1 + 2 ** -10],
    ["bfloat16", 1 + 2 ** -8 + 2 ** -30, 1 + 2 ** -7],
    ["float8e4m3", 1 + 2 ** -4 + 2 ** -30, 1 + 2 ** -3],
    // And half a unit less a bit: through float32 it becomes a tie, which goes up to the even neighbour.
    ["float16", 1 + 3 * 2 ** -11 - 2 ** -30, 1 + 2 ** -10],
    ["bfloat16", 1 + 3 * 2 ** -8 - 2 ** -30, 1 + 2 ** -7],
    ["float8e4m3", 1 + 3 * 2 ** -4 - 2 ** -30, 1 + 2 ** -3],
  ] as const)("%s: %f is rounded once, not through float32", (dtype, x, expected) => {
    expect(roundTo(dtype, x)).toBe(expected);
    expect(roundTo(dtype, -x)).toBe(-expected);
    expect(roundTo(dtype, Math.fround(x))).not.toBe(expected);
  });

  test.each([
    ["float16", 65519.999, 65504],
    ["float16", 65520, Infinity],
    ["float16", -65520, -Infinity],
    ["float16", Infinity, Infinity],
    ["bfloat16", 3.3895313892515355e38, 3.3895313892515355e38],
    ["bfloat16", 3.4e38, Infinity],
    ["float8e4m3", 464, 448],
    ["float8e4m3", 1e30, 448],
    ["float8e4m3", -Infinity, -448],
    ["float32", 3.5e38, Infinity],
  ] as const)("%s: %d beyond the largest gives %d", (dtype, x, expected) => {
    expect(roundTo(dtype, x)).toBe(expected);
  });

  test.each([
    ["float16", 2 ** -24],
    ["bfloat16", 2 ** -133],
    ["float8e4m3", 2 ** -9],
  ] as const)(
    "%s: below its smallest number %d, half of it is a tie that goes to 0 and keeps its sign",
    (dtype, smallest) => {
      expect(roundTo(dtype, smallest)).toBe(smallest);
      expect(roundTo(dtype, smallest / 2)).toBe(0);
      expect(roundTo(dtype, -smallest / 2)).toBe(-0);
      expect(roundTo(dtype, (smallest / 2) * (1 + 2 ** -50))).toBe(smallest);
      expect(roundTo(dtype, smallest * 1.5)).toBe(smallest * 2);
      expect(roundTo(dtype, 5e-324)).toBe(0);
    },
  );

  test.each(NARROW)("%s: NaN stays NaN, zeros keep their sign", (dtype) => {
    expect([roundTo(dtype, NaN), roundTo(dtype, 0), roundTo(dtype, -0)]).toEqual([NaN, 0, -0]);
  });
});

describe("encode and decode", () => {
  test("float32 and int32 are the typed arrays' own bytes", () => {
    const values = [1.1, -0, 1e-45, 3e38];
    expect(decode("float32", encode("float32", values))).toEqual(Float64Array.from(Float32Array.from(values)));
    expect([...decode("int32", encode("int32", [-1, 2 ** 31 - 1]))]).toEqual([-1, 2 ** 31 - 1]);
  });

  test("bool is 0 or 1, whatever is not 0 being true", () => {
    expect([...encode("bool", [0, 1, 2, -0.5])]).toEqual([0, 1, 1, 1]);
  });

  test("bytes inside a larger buffer are read where they are", () => {
    const buffer = new ArrayBuffer(16);
    new Uint16Array(buffer, 4, 2).set([0x3c00, 0xc000]);
    expect([...decode("float16", new Uint8Array(buffer, 4, 4))]).toEqual([1, -2]);
    expect(typedArray("float16", new Uint8Array(buffer, 4, 4))).toEqual(Float16Array.of(1, -2));
  });
});

test("results have the dtype of the inputs, but float8e4m3 gives bfloat16", () => {
  expect(DTYPES.slice(0, 4).map((dtype) => resultDType(dtype as "float32"))).toEqual([
    "float32",
    "float16",
    "bfloat16",
    "bfloat16",
  ]);
});
