import { afterEach, expect, test, vi } from "vitest";
import { clockGrainMs } from "../src/clock.ts";

afterEach(() => vi.restoreAllMocks());

test("the grain of this clock is far below a millisecond", () => {
  const grain = clockGrainMs();
  expect(grain).toBeGreaterThan(0);
  expect(grain).toBeLessThan(0.5);
});

test.each([0.1, 1])("the grain of a clock that steps by %f ms is that", (step) => {
  let reads = 0;
  vi.spyOn(performance, "now").mockImplementation(() => 1000 + step * Math.floor(reads++ / 7));
  expect(clockGrainMs()).toBeCloseTo(step, 9);
});
