import { expect, test } from "vitest";
import { D, traceOf, type Settings } from "../src/tiles/trace.ts";

const SETTINGS: Settings = { S: 8, Br: 3, Bc: 2, causal: false, window: [-1, -1], seed: 1 };

test.each<Partial<Settings>>([
  {},
  { causal: true },
  { Br: 8, Bc: 8 },
  { S: 16, Br: 1, Bc: 1, causal: true },
  { S: 4, Br: 8, Bc: 3 },
  { S: 12, window: [2, 1] },
  { S: 12, causal: true, window: [0, 0], seed: 7 },
])("after its last tile a row holds the exact result: %o", (changes) => {
  const { steps, exact, settings } = traceOf({ ...SETTINGS, ...changes });
  const ends = steps.filter(({ last }) => last);
  expect(ends.flatMap(({ rows }) => rows).at(-1)).toBe(settings.S);
  for (const { rows, out, error } of ends) {
    expect(Math.max(...error)).toBeLessThan(1e-14);
    out.forEach((value, n) => expect(value).toBeCloseTo(exact[rows[0] * D + n], 12));
  }
});

test("each step is the algorithm's: m is the max so far, alpha rescales l", () => {
  const { steps } = traceOf(SETTINGS);
  for (const { before, S, P, m, l, alpha, keys } of steps) {
    const Bc = keys[1] - keys[0];
    m.forEach((max, r) => {
      const row = S.subarray(r * Bc, (r + 1) * Bc);
      expect(max).toBe(Math.max(before.m[r], ...row));
      expect(alpha[r]).toBe(Math.exp(before.m[r] - max));
      const sum = P.subarray(r * Bc, (r + 1) * Bc).reduce((total, p) => total + p, 0);
      expect(l[r]).toBeCloseTo(alpha[r] * before.l[r] + sum, 12);
    });
  }
});

test("tiles that show nothing are not steps, and are counted", () => {
  const all = traceOf({ ...SETTINGS, Br: 2, Bc: 2 });
  const causal = traceOf({ ...SETTINGS, Br: 2, Bc: 2, causal: true });
  expect([all.steps.length, all.emptyTiles]).toEqual([16, 0]);
  expect([causal.steps.length, causal.emptyTiles]).toEqual([10, 6]);
  expect(causal.visible(3, 3)).toBe(true);
  expect(causal.visible(3, 4)).toBe(false);
});

test("other numbers are other numbers, and the same seed the same", () => {
  const of = (seed: number) => [...traceOf({ ...SETTINGS, seed }).exact];
  expect(of(1)).toEqual(of(1));
  expect(of(1)).not.toEqual(of(2));
});
