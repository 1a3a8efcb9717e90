import { afterEach, expect, test, vi } from "vitest";
import { wasm } from "../src/index.ts";

afterEach(() => vi.restoreAllMocks());

test.each([1, 2])(
  "by a clock that steps by 1 ms the roof of %i threads is finite and about the same",
  async (threads) => {
    const backend = await wasm({ threads }).open();
    try {
      const fine = (await backend.roof()).gflops;
      const now = performance.now.bind(performance);
      vi.spyOn(performance, "now").mockImplementation(() => Math.floor(now()));
      const coarse = (await backend.roof()).gflops;
      expect(coarse).toBeGreaterThan(fine / 4);
      expect(coarse).toBeLessThan(fine * 2);
    } finally {
      await backend.dispose();
    }
  },
);
