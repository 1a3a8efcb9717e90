import { afterEach, describe, expect, test, vi } from "vitest";
import { wasm } from "../src/index.ts";
import { bestRate } from "../src/roof.ts";

afterEach(() => vi.restoreAllMocks());

test.each([1, 2])("the roof of %i threads is finite, by a clock that steps by 1 ms too", async (threads) => {
  const backend = await wasm({ threads }).open();
  try {
    const fine = (await backend.roof()).gflops;
    const now = performance.now.bind(performance);
    vi.spyOn(performance, "now").mockImplementation(() => Math.floor(now()));
    for (const gflops of [fine, (await backend.roof()).gflops]) {
      expect(gflops).toBeGreaterThan(0.1);
      expect(gflops).toBeLessThan(10_000);
    }
  } finally {
    await backend.dispose();
  }
});

/** Time that passes by what is done, not by a machine that others use too. */
describe.each([0.005, 0.1, 1])("by a clock that steps by %f ms", (stepMs) => {
  /** Advances by a microsecond each time it is asked, and by what work takes. */
  let ms = 0;
  const clock = (): void => {
    vi.spyOn(performance, "now").mockImplementation(() => Math.floor((ms += 0.001) / stepMs) * stepMs);
  };

  test.each([
    { gflops: 50, leastMs: 0 },
    { gflops: 200, leastMs: 4 },
    { gflops: 5000, leastMs: 4 },
  ])("what does $gflops GFLOP/s is measured within 3 %", async ({ gflops, leastMs }) => {
    clock();
    const rate = await bestRate((rounds) => {
      const start = performance.now();
      ms += (rounds * 96) / gflops / 1e6;
      return { flops: rounds * 96, ms: performance.now() - start };
    }, leastMs);
    expect(rate / gflops).toBeGreaterThan(0.97);
    expect(rate / gflops).toBeLessThan(1.03);
  });

  test("of runs that others slow down, the best counts", async () => {
    clock();
    let runs = 0;
    const rate = await bestRate((rounds) => {
      const start = performance.now();
      ms += ((rounds * 96) / 1e8) * (++runs % 2 ? 1 : 3);
      return { flops: rounds * 96, ms: performance.now() - start };
    });
    expect(rate / 100).toBeGreaterThan(0.97);
    expect(rate / 100).toBeLessThan(1.03);
  });
});
