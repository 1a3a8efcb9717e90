import { describe, expect, it } from "vitest";
import { compare } from "../src/tolerance.ts";

const ramp = Float64Array.from({ length: 200 }, (_, n) => 1 + n / 100);
const changed = (n: number, value: number): Float64Array => ramp.with(n, value);
const float32 = { truth: ramp, kind: "value", dtype: "float32" } as const;

describe("the tolerance", () => {
  it("lets rounding of float32 through", () => {
    expect(compare(Float32Array.from(ramp), float32).ok).toBe(true);
  });
  it("fails one element that is off by 2e-5", () => {
    expect(compare(changed(7, ramp[7] * (1 + 2e-5)), float32).ok).toBe(false);
  });
  it("fails NaN, in one element and in all", () => {
    expect(compare(changed(7, NaN), float32).ok).toBe(false);
    expect(
      compare(
        ramp.map(() => NaN),
        float32,
      ).ok,
    ).toBe(false);
    expect(
      compare(
        ramp.map(() => NaN),
        { ...float32, dtype: "bfloat16" },
      ).ok,
    ).toBe(false);
  });
  it("fails another length", () => {
    expect(compare(ramp.slice(1), float32).ok).toBe(false);
  });
  it("wants the same infinity, and NaN where the truth is NaN", () => {
    const truth = changed(3, -Infinity);
    expect(compare(truth, { ...float32, truth }).ok).toBe(true);
    expect(compare(changed(3, Infinity), { ...float32, truth }).ok).toBe(false);
    expect(compare(ramp, { ...float32, truth: changed(3, NaN) }).ok).toBe(false);
    expect(compare(changed(3, NaN), { ...float32, truth: changed(3, NaN) }).ok).toBe(true);
  });
  it("fails a bias of every element that the elementwise bound lets through", () => {
    const zeroMean = Float64Array.from({ length: 4000 }, (_, n) => (n % 2 ? 0.01 : -0.01) + (n === 0 ? 100 : 0));
    const truth = zeroMean.map((x, n) => (n === 0 ? 0.01 : x));
    const biased = truth.map((x) => x + 1.05e-6);
    const { ok, text } = compare(biased, { ...float32, truth });
    expect(ok, text).toBe(false);
    expect(text).toMatch(/^0 of 4000 elements off/);
  });
  it("allows halves twice the error of naive attention in the same type, gradients three times", () => {
    const bounds = { truth: ramp, naive: ramp.map((x) => x + 0.01), dtype: "bfloat16" } as const;
    // Adding and taking away 0.3 moves bfloat16 numbers near 2 by 2^-7: 2 * 0.01 + 2 * 2^-7 = 0.0356.
    expect(compare(changed(0, ramp[0] + 0.034), { ...bounds, kind: "value" }).ok).toBe(true);
    expect(compare(changed(0, ramp[0] + 0.037), { ...bounds, kind: "value" }).ok).toBe(false);
    expect(compare(changed(0, ramp[0] + 0.044), { ...bounds, kind: "gradient" }).ok).toBe(true);
    expect(compare(changed(0, ramp[0] + 0.047), { ...bounds, kind: "gradient" }).ok).toBe(false);
  });
  it("allows twice as much of that where a kernel rounds scores to float16", () => {
    const bounds = { truth: ramp, naive: ramp.map((x) => x + 0.01), dtype: "float16", scores: "float16" } as const;
    // 4 * 0.01 + 2 * 2^-10 = 0.042.
    expect(compare(changed(0, ramp[0] + 0.041), { ...bounds, kind: "value" }).ok).toBe(true);
    expect(compare(changed(0, ramp[0] + 0.043), { ...bounds, kind: "value" }).ok).toBe(false);
    expect(compare(changed(0, ramp[0] + 0.041), { ...bounds, kind: "value", scores: undefined }).ok).toBe(false);
  });
});
