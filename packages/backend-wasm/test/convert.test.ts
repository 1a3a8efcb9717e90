import { decode, encode, type FloatDType } from "@fa/core";
import { describe, expect, test } from "vitest";
import { DTYPE_CODES } from "../src/abi.ts";
import { createModule, loadBinary } from "../src/module.ts";
import { variants } from "./variants.ts";

const WIDTHS: Readonly<Record<FloatDType, number>> = { float32: 4, float16: 2, bfloat16: 2, float8e4m3: 1 };
const NARROW = ["float16", "bfloat16", "float8e4m3"] as const;

/** Every bit pattern of a narrow dtype, as bytes. */
function everyPattern(dtype: (typeof NARROW)[number]): Uint8Array<ArrayBuffer> {
  if (dtype === "float8e4m3") return Uint8Array.from({ length: 256 }, (_, n) => n);
  return new Uint8Array(Uint16Array.from({ length: 65536 }, (_, n) => n).buffer);
}

const EXTREMES = [Infinity, -Infinity, NaN, 1e30, -1e30, 3.4e38, 65519, 65520, 448, 464, 465, 1e-45, -1e-45];

describe.each(variants)("%s", async (variant) => {
  const module = await createModule({ wasmBinary: await loadBinary(variant) });

  const cast = (from: FloatDType, to: FloatDType, bytes: Uint8Array): Uint8Array<ArrayBuffer> => {
    const n = bytes.length / WIDTHS[from];
    const [source, target] = [module._malloc(bytes.length), module._malloc(n * WIDTHS[to])];
    module.HEAPU8.set(bytes, source);
    module._faCast(target, DTYPE_CODES[to], source, DTYPE_CODES[from], n);
    const result = module.HEAPU8.slice(target, target + n * WIDTHS[to]);
    module._free(source);
    module._free(target);
    return result;
  };

  test.each(NARROW)("every %s becomes the float32 of its value, and itself again", (dtype) => {
    const patterns = everyPattern(dtype);
    const wide = cast(dtype, "float32", patterns);
    expect(decode("float32", wide)).toEqual(decode(dtype, patterns));
    const again = decode(dtype, cast("float32", dtype, wide));
    expect(again).toEqual(decode(dtype, patterns));
    const zeros = [...again].filter((x) => x === 0).map((x) => Object.is(x, -0));
    expect(zeros).toEqual([false, true]);
  });

  test.each(NARROW)("float32 rounds to the nearest %s, ties to even, with its overflow and subnormals", (dtype) => {
    // Each value, the middle to its neighbour, and the float32 just beside each of them.
    const values = [...new Set(decode(dtype, everyPattern(dtype)))].filter(Number.isFinite).toSorted((x, y) => x - y);
    const middles = values.slice(1).map((x, n) => (x + values[n]) / 2);
    const around = new Float32Array([...values, ...middles, ...values.map((x) => x * 1.3)]);
    const bits = new Int32Array(around.buffer);
    const all = Float32Array.from([
      ...around,
      ...new Float32Array(bits.map((x) => x + 1).buffer),
      ...new Float32Array(bits.map((x) => x - 1).buffer),
      ...EXTREMES,
    ]);
    const numbers = (bytes: Uint8Array<ArrayBuffer>): Float64Array => decode(dtype, bytes);
    expect(numbers(cast("float32", dtype, new Uint8Array(all.buffer)))).toEqual(numbers(encode(dtype, all)));
  });

  test("any count: nothing is read or written past the end", () => {
    for (const dtype of NARROW) {
      for (let n = 0; n <= 9; n++) {
        const values = Float32Array.from({ length: n }, (_, i) => i - 4);
        const target = module._malloc(64);
        module.HEAPU8.fill(0xab, target, target + 64);
        const source = module._malloc(64);
        module.HEAPF32.set(values, source / 4);
        module._faCast(target, DTYPE_CODES[dtype], source, DTYPE_CODES.float32, n);
        const bytes = module.HEAPU8.slice(target, target + 64);
        expect([...decode(dtype, bytes.slice(0, n * WIDTHS[dtype]))]).toEqual([...values]);
        expect(bytes.slice(n * WIDTHS[dtype]).every((byte) => byte === 0xab)).toBe(true);
      }
    }
  });

  test("sums in double round once to float32", () => {
    const sums = Float64Array.from({ length: 301 }, (_, n) => Math.sin(n) * 10 ** (n % 30));
    const [source, target] = [module._malloc(sums.byteLength), module._malloc(sums.length * 4)];
    module.HEAPF64.set(sums, source / 8);
    module._faRound(target, DTYPE_CODES.float32, source, sums.length);
    expect(module.HEAPF32.slice(target / 4, target / 4 + sums.length)).toEqual(Float32Array.from(sums));
  });
});
