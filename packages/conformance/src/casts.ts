import { decode, encode, FLOAT_DTYPES, roundTo, type FloatDType } from "@fa/core";
import { hold, same, type Check } from "./check.ts";
import { arrayOf, numbersOf } from "./subject.ts";

/** Every bit pattern of a narrow dtype. */
function allValues(dtype: Exclude<FloatDType, "float32">): Float64Array {
  const bytes =
    dtype === "float8e4m3"
      ? Uint8Array.from({ length: 256 }, (_, n) => n)
      : new Uint8Array(Uint16Array.from({ length: 65536 }, (_, n) => n).buffer);
  return decode(dtype, bytes);
}

/** float32 values around every number of a dtype and every tie between two: where rounding goes wrong. */
function float32Around(dtype: Exclude<FloatDType, "float32">): Float64Array {
  const numbers = allValues(dtype).filter(Number.isFinite).toSorted();
  const near = (x: number): number[] => {
    const bits = new Int32Array(new Float32Array([x]).buffer)[0];
    const neighbours = Int32Array.from([bits - 1, bits, bits + 1]);
    return [...new Float32Array(neighbours.buffer)].filter(Number.isFinite);
  };
  const values: number[] = [NaN, Infinity, -Infinity, 3e38, -3e38, 1e-45];
  for (let n = 0; n + 1 < numbers.length; n++) {
    const middle = (numbers[n] + numbers[n + 1]) / 2;
    values.push(...near(numbers[n]), ...near(middle));
  }
  return Float64Array.from(values, Math.fround);
}

/** `fa.cast` between every pair of float dtypes, on every value of the narrow ones. */
export const CASTS: readonly Check[] = FLOAT_DTYPES.flatMap((from) =>
  FLOAT_DTYPES.map((to): Check => ({
    name: `cast rounds once to nearest even: ${from} to ${to}`,
    capability: "cast",
    async run({ fa }) {
      const values = from === "float32" ? float32Around(to === "float32" ? "bfloat16" : to) : allValues(from);
      using x = fa.tensor(arrayOf(from, values), { shape: [values.length], dtype: from });
      using y = await fa.cast(x, to);
      hold(y.dtype === to && y.shape[0] === values.length, `gave ${y.dtype} [${y.shape.join()}]`);
      const expected = decode(
        to,
        encode(
          to,
          Float64Array.from(values, (value) => roundTo(to, value)),
        ),
      );
      same(`${from} to ${to}`, await numbersOf(y), expected);
    },
  })),
);
