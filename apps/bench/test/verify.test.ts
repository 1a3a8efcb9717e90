import { describe, expect, test } from "vitest";
import { attentionProblem, roundTo, type AttentionOptionsOf } from "@fa/core";
import { naiveAttention } from "@fa/core/reference";
import { generate } from "../src/numbers.ts";
import { attentionAtRows, FLOAT32, halfBounds, rowsToCheck, sumBounds, takeRows, verdict } from "../src/verify.ts";

const random = (elements: number, stream: number): Float64Array =>
  generate(elements, { key: [1, 2], stream, factor: 2 });

function problemOf(options: AttentionOptionsOf<never>, S = 40) {
  const spec = { shape: [2, 3, S, 8], dtype: "float32" } as const;
  const elements = 2 * 3 * S * 8;
  const data = { q: random(elements, 0), k: random(elements, 1), v: random(elements, 2) };
  return { problem: attentionProblem({ q: spec, k: spec, v: spec }, options), data };
}

describe("attentionAtRows", () => {
  test.each([
    {},
    { causal: true },
    { window: [5, 2] as const },
    { softcap: 2, causal: "top-left" as const },
    { dropout: { p: 0.5, seed: 1 } },
  ])("rows standing alone are the rows of the whole, %j", (options) => {
    const { problem, data } = problemOf(options);
    const whole = naiveAttention(problem, data);
    const rows = [0, 1, 17, 39];
    const some = attentionAtRows(problem, data, rows);
    expect(some.out).toEqual(takeRows(whole.out, 40, 8, rows));
    expect(some.lse).toEqual(takeRows(whole.lse, 40, 1, rows));
  });
});

describe("rowsToCheck", () => {
  test("all rows of a small problem", () => {
    expect(rowsToCheck(problemOf({}).problem)).toHaveLength(40);
  });

  test("of a large one some, ascending, the first and the last among them", () => {
    const spec = { shape: [1, 8, 4096, 64], dtype: "float32" } as const;
    const rows = rowsToCheck(attentionProblem({ q: spec, k: spec, v: spec }));
    expect(rows.length).toBeGreaterThanOrEqual(64);
    expect(rows.length).toBeLessThan(100);
    expect([rows[0], rows.at(-1)]).toEqual([0, 4095]);
    expect(rows).toEqual([...new Set(rows)].toSorted((a, b) => a - b));
  });
});

describe("verdict", () => {
  const truth = random(4096, 5);
  const judge = (change: (got: Float64Array) => void, bounds = FLOAT32) => {
    const got = Float64Array.from(truth, Math.fround);
    change(got);
    return verdict("a test", [{ tensor: "out", got, truth, bounds }]);
  };

  test("passes rounding to float32", () => {
    expect(judge(() => {})).toMatchObject({ ok: true });
  });

  test("one element off by ten times its bound is wrong, and named", () => {
    const wrong = judge((got) => (got[100] += 3e-4));
    expect(wrong).toMatchObject({ ok: false, worst: "out" });
    expect(wrong.maxError).toBeCloseTo(3e-4, 6);
  });

  test("NaN is wrong, wherever it stands", () => {
    for (const n of [0, 1000, 4095]) {
      const wrong = judge((got) => (got[n] = NaN));
      expect(wrong.ok).toBe(false);
      expect(wrong.maxError).toBeNaN();
    }
  });

  test("a bias that every element's bound lets through is wrong by the mean square", () => {
    const loose = { ...FLOAT32, absolute: 1e-3 };
    expect(judge((got) => got.forEach((x, n) => (got[n] = x + 5e-4)), loose)).toMatchObject({ ok: false });
  });

  test("-Infinity is right where the truth is, and wrong where it is a number", () => {
    const bounds = FLOAT32;
    const compare = (got: number[], want: number[]) => verdict("", [{ tensor: "lse", got, truth: want, bounds }]).ok;
    expect(compare([-Infinity, 1], [-Infinity, 1])).toBe(true);
    expect(compare([-Infinity, 1], [0, 1])).toBe(false);
    expect(compare([0, 1], [-Infinity, 1])).toBe(false);
  });

  test("too few elements are wrong", () => {
    expect(verdict("", [{ tensor: "out", got: [1], truth: [1, 2], bounds: FLOAT32 }]).ok).toBe(false);
  });
});

test("half bounds let rounding once through, and not three times the naive error", () => {
  const { problem, data } = problemOf({});
  const { out: truth } = naiveAttention(problem, data);
  for (const dtype of ["float16", "bfloat16"] as const) {
    const { out: naive } = naiveAttention(problem, data, (x) => roundTo(dtype, x));
    const bounds = halfBounds(dtype, dtype, truth, naive);
    const once = truth.map((x) => roundTo(dtype, x));
    expect(verdict("", [{ tensor: "out", got: once, truth, bounds }]).ok).toBe(true);
    const off = once.with(7, truth[7] + 1.5 * bounds.absolute);
    expect(verdict("", [{ tensor: "out", got: off, truth, bounds }]).ok).toBe(false);
  }
});

test("bounds of sums follow the largest value, and never fall below those of float32", () => {
  expect(sumBounds(Float64Array.of(0.001, -0.002)).absolute).toBe(FLOAT32.absolute);
  expect(sumBounds(Float64Array.of(1, -100)).absolute).toBeCloseTo(2e-4, 12);
});
