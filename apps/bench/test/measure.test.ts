import { expect, test, vi } from "vitest";
import { LEAST_SAMPLES, measure, wallClock, type Timing } from "../src/measure.ts";
import { quantile } from "../src/numbers.ts";

const measured = (
  call: () => Promise<void>,
  sync: () => Promise<void>,
  firstMs: number,
  options: { budgetMs: number; breathe: () => Promise<void> },
): Promise<Timing> => measure(wallClock(call, sync), { firstMs, warmMs: options.budgetMs / 4, ...options });

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test("the median lies between the quartiles, and near what a call takes", async () => {
  const timing = await measured(
    async () => {},
    () => sleep(8),
    8,
    { budgetMs: 100, breathe: async () => {} },
  );
  expect(timing.lowMs).toBeLessThanOrEqual(timing.medianMs);
  expect(timing.medianMs).toBeLessThanOrEqual(timing.highMs);
  expect(timing.medianMs).toBeGreaterThan(6);
  expect(timing.samples).toBeGreaterThanOrEqual(LEAST_SAMPLES);
  expect(timing).toMatchObject({ firstMs: 8, callsPerSample: 1 });
});

test("a slow call is still sampled the least number of times, with no more warm-up than one call", async () => {
  let calls = 0;
  const call = async (): Promise<void> => {
    calls++;
    await sleep(20);
  };
  const timing = await measured(call, async () => {}, 20, { budgetMs: 1, breathe: async () => {} });
  expect(timing.samples).toBe(LEAST_SAMPLES);
  expect(calls).toBe(1 + LEAST_SAMPLES);
  expect(timing.warmUpCalls).toBe(1);
});

test("quick calls are timed several at once, each sample their mean", async () => {
  let calls = 0;
  const call = async (): Promise<void> => void calls++;
  const timing = await measured(call, async () => {}, 0.01, { budgetMs: 20, breathe: async () => {} });
  expect(timing.callsPerSample).toBeGreaterThan(1);
  expect(timing.medianMs).toBeLessThan(0.5);
  expect(calls).toBeGreaterThan(timing.samples * timing.callsPerSample - 1);
});

test("by a clock that steps by 1 ms, calls of microseconds are timed as many at once as it shows", async () => {
  const now = performance.now.bind(performance);
  const spied = vi.spyOn(performance, "now").mockImplementation(() => Math.floor(now()));
  try {
    const call = async (): Promise<void> => {
      for (const until = now() + 0.02; now() < until;);
    };
    const timing = await measured(call, async () => {}, 0, { budgetMs: 100, breathe: async () => {} });
    expect(timing.callsPerSample).toBeGreaterThan(20);
    expect(timing.medianMs).toBeGreaterThan(0.015);
    expect(timing.medianMs).toBeLessThan(2);
  } finally {
    spied.mockRestore();
  }
});

test("a clock that stands still is an error, not a time of 0", async () => {
  const still = { timer: "gpu", sampleMs: 10, grainMs: 0.1, time: () => sleep(1).then(() => 0) } as const;
  let now = 0;
  const spied = vi.spyOn(performance, "now").mockImplementation(() => (now += 100));
  try {
    await expect(measure(still, { firstMs: 1, warmMs: 25, budgetMs: 100, breathe: async () => {} })).rejects.toThrow(
      /stands still/,
    );
  } finally {
    spied.mockRestore();
  }
});

test("breathing may stop it between samples", async () => {
  const stop = new Error("stop");
  let breaths = 0;
  const breathe = async (): Promise<void> => {
    if (++breaths > 2) throw stop;
  };
  await expect(
    measured(
      async () => {},
      () => sleep(3),
      3,
      { budgetMs: 1000, breathe },
    ),
  ).rejects.toBe(stop);
});

test("quantiles interpolate", () => {
  expect(quantile([1, 2, 3, 4], 0.5)).toBe(2.5);
  expect(quantile([1, 2, 3, 4, 5], 0.25)).toBe(2);
  expect(quantile([7], 0.75)).toBe(7);
});
