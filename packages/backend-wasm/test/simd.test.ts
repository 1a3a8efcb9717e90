import { describe, expect, test } from "vitest";
import { openProbe, random, variants } from "./variants.ts";

/** Every 997th float32 bit pattern, so that all exponents, signs, subnormals, infinities and NaNs come up. */
const EVERYWHERE = (() => {
  const bits = Uint32Array.from({ length: 4_000_000 }, (_, n) => n * 1073);
  return new Float32Array(bits.buffer);
})();

describe.each(variants)("%s", async (variant) => {
  const { probe, put, get } = await openProbe(variant);

  const map = (name: "_exp2Array", values: Float32Array): Float32Array => {
    const [from, to] = [put(values), put(values)];
    probe[name](to, from, values.length);
    return get(to, values.length);
  };

  test("exp2 is right to 2e-7 from -100 to 126, 0 from -101 down, 1 at 0, and NaN for NaN", () => {
    const dense = Float32Array.from({ length: 1_000_000 }, (_, n) => (n - 790_000) / 8000 + n * 1e-9);
    for (const values of [EVERYWHERE, dense, Float32Array.of(0, -0, -101, -Infinity)]) {
      const results = map("_exp2Array", values);
      let worst = 0;
      let wrong = "";
      values.forEach((x, n) => {
        const y = results[n];
        if (Number.isNaN(x) ? !Number.isNaN(y) : x <= -101 && y !== 0) wrong ||= `exp2(${x}) = ${y}`;
        if (x >= -100 && x <= 126) worst = Math.max(worst, Math.abs(y / 2 ** x - 1));
      });
      expect(wrong).toBe("");
      expect(worst).toBeLessThan(2e-7);
    }
    expect([...map("_exp2Array", Float32Array.of(0, -0, -1, 3))]).toEqual([1, 1, 0.5, 8]);
  });

  test("tanh is right to 1.5e-7, and to 3e-7 of itself; its derivative to 1e-6 (1 + |x|) of itself", () => {
    const values = [...EVERYWHERE].filter((x) => !(Math.abs(x) > 34));
    while (values.length % 4 !== 0) values.push(0);
    const [from, to, derivatives] = [put(values), put(values), put(values)];
    probe._tanhArray(to, derivatives, from, values.length);
    const [y, slope] = [get(to, values.length), get(derivatives, values.length)];
    let worst = 0;
    let worstRelative = 0;
    let worstSlope = 0;
    let notNaN = 0;
    values.forEach((x, n) => {
      if (Number.isNaN(x)) notNaN += Number.isNaN(y[n]) ? 0 : 1;
      else {
        const exact = Math.tanh(x);
        const error = Math.abs(y[n] - exact);
        worst = Math.max(worst, error);
        worstRelative = Math.max(worstRelative, error / Math.max(Math.abs(exact), 1e-37));
        worstSlope = Math.max(worstSlope, Math.abs(slope[n] * Math.cosh(x) ** 2 - 1) / (1 + Math.abs(x)));
      }
    });
    expect(notNaN).toBe(0);
    expect(worst).toBeLessThan(1.5e-7);
    expect(worstRelative).toBeLessThan(3e-7);
    // The argument of exp2 is rounded, so the relative error of e^-2x grows with x.
    expect(worstSlope).toBeLessThan(1e-6);
  });

  test("tanh of what is large is 1, of infinity too", () => {
    const [from, to, derivatives] = [put([100, -100, Infinity, -Infinity]), put([0, 0, 0, 0]), put([9, 9, 9, 9])];
    probe._tanhArray(to, derivatives, from, 4);
    expect([...get(to, 4)]).toEqual([1, -1, 1, -1]);
    expect([...get(derivatives, 4)]).toEqual([0, 0, 0, 0]);
  });

  test("log and exp in double are right to 1e-14, at the ends of the range too", () => {
    const next = random(3);
    for (let n = 0; n < 100_000; n++) {
      const x = 2 ** (next() * 1020) * (1.5 + next() / 2);
      expect(Math.abs(probe._logOf(x) - Math.log(x))).toBeLessThanOrEqual(1e-14 * Math.max(1, Math.abs(Math.log(x))));
      const y = next() * 690;
      expect(Math.abs(probe._expOf(y) / Math.exp(y) - 1)).toBeLessThanOrEqual(2e-14 * Math.max(1, Math.abs(y) / 50));
    }
    const edges = [0, 1, Infinity, 5e-324, Number.MAX_VALUE, -1, NaN].map((x) => probe._logOf(x));
    expect(edges).toEqual([
      -Infinity,
      0,
      Infinity,
      expect.closeTo(Math.log(5e-324), 10),
      expect.closeTo(Math.log(Number.MAX_VALUE), 10),
      NaN,
      NaN,
    ]);
    expect([0, -Infinity, Infinity, NaN].map((x) => probe._expOf(x))).toEqual([1, 0, Infinity, NaN]);
  });
});
