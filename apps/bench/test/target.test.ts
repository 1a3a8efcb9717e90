import { describe, expect, test } from "vitest";
import type { GaugeName, MatchResult } from "../src/contest.ts";
import { OURS, PEERS } from "../src/matches.ts";
import type { Entry, MeasuredEntry } from "../src/results.ts";
import { amount, judged, worstOf, type Reading } from "../src/target.ts";
import { MEMORY_CASE, wasmMatches, wasmTargets, type Extras } from "../src/wasm-targets.ts";

describe("a target", () => {
  const of = (bound: "at least" | "at most", ...readings: (number | Reading)[]) =>
    judged({
      id: "x",
      title: "x",
      bound,
      required: 2,
      unit: "times",
      how: "",
      readings: readings.map((one, n) => (typeof one === "number" ? { case: `${n}`, value: one } : one)),
    });
  const lack = (because: "wrong" | "failed" | "skipped" | "peer"): Reading => ({ case: "c", because, reason: "r" });

  test.each([
    ["met", of("at least", 2, 3)],
    ["missed", of("at least", 3, 1.99)],
    ["met", of("at most", 2, 1)],
    ["missed", of("at most", 1, 2.01)],
    ["missed", of("at least", NaN)],
    ["met", of("at least", 3, lack("peer"))],
    ["missed", of("at least", 3, lack("wrong"))],
    ["missed", of("at least", 3, lack("failed"))],
    ["unmeasured", of("at least", 3, lack("skipped"))],
    ["missed", of("at least", 1, lack("skipped"))],
    ["unmeasured", of("at least", lack("peer"))],
    ["unmeasured", of("at least")],
  ])("is %s: %j", (state, target) => {
    expect(target.state).toBe(state);
  });

  test("is decided by the reading farthest on the wrong side", () => {
    expect(worstOf(of("at least", 3, 1, 2))).toEqual({ case: "1", value: 1 });
    expect(worstOf(of("at most", 3, 1, 2))).toEqual({ case: "0", value: 3 });
    expect(worstOf(of("at least", lack("peer")))).toBeUndefined();
  });

  test("says its amounts with units", () => {
    expect(amount(0.851, "share")).toBe("85.1 %");
    expect(amount(2.2, "times")).toBe("2.20 times");
    expect(amount(12.34, "ms")).toBe("12.3 ms");
    expect([amount(26400, "bytes"), amount(3e8, "bytes")]).toEqual(["26.4 kB", "300.0 MB"]);
  });
});

describe("the wasm targets", () => {
  /** Every match played: each contestant at its share of a roof of 64 GFLOP/s, reading at 10 GB/s. */
  function played(gflops: Readonly<Record<string, number>>, change: (entry: Entry) => Entry = (entry) => entry) {
    return wasmMatches().map((match): MatchResult => {
      const entries = match.entries.map(({ contestant, item }): Entry => {
        const ms = item.facts.flops / (gflops[contestant] ?? 1) / 1e6;
        return change({
          ...item.facts,
          contestant,
          outcome: "measured",
          verification: { ok: true, against: "", maxError: 0, meanSquareError: 0, ofTolerance: 0, worst: "" },
          timing: { medianMs: ms, lowMs: ms, highMs: ms, firstMs: ms, samples: 5, callsPerSample: 1, timer: "wall" },
          peakBytes: 100e6,
        });
      });
      const rates: Readonly<Partial<Record<GaugeName, number[]>>> = {
        relaxed: [60, 64, 62],
        plain: [40, 44, 42],
        read: [9e9, 10e9, 11e9],
      };
      return { match, entries, gauges: Object.fromEntries(match.gauges.map((name) => [name, rates[name]])) };
    });
  }
  const RATES = { [OURS.one]: 60, [OURS.two]: 110, [OURS.plain]: 40, [PEERS.onnx]: 10 };
  const extras: Extras = {
    startUps: { one: [12, 90, 11], byDefault: [10] },
    gzippedBytes: { "a.wasm": 10_000, "b.wasm": 16_000 },
  };
  const memory: MeasuredEntry = {
    ...MEMORY_CASE.facts,
    contestant: OURS.one,
    outcome: "measured",
    verification: { ok: true, against: "", maxError: 0, meanSquareError: 0, ofTolerance: 0, worst: "" },
    timing: { medianMs: 1, lowMs: 1, highMs: 1, firstMs: 1, samples: 1, callsPerSample: 1, timer: "wall" },
    peakBytes: 143e6,
  };
  const stateOf = (results: readonly MatchResult[], changes: Partial<Extras> = {}, used: Entry = memory) =>
    Object.fromEntries(wasmTargets(results, used, { ...extras, ...changes }).map((one) => [one.id, one]));

  test("a back end near every limit meets them all", () => {
    const found = stateOf(played(RATES));
    expect(Object.values(found).filter(({ state }) => state !== "met")).toEqual([]);
    expect(worstOf(found.full)!.value).toBeCloseTo(60 / 64, 9);
    expect(worstOf(found.threads)!.value).toBeCloseTo(110 / 128, 9);
    expect(worstOf(found.plain)!.value).toBeCloseTo(40 / 44, 9);
    expect(worstOf(found["onnx-causal"])!.value).toBeCloseTo(6, 9);
    expect(worstOf(found["start-up"])!.value).toBe(12);
    expect(worstOf(found.size)!.value).toBe(26_000);
  });

  test("a slower one misses, on the cases that are slow and no others", () => {
    const slow = played(RATES, (entry) =>
      entry.id === "contest/2048/128/causal" && entry.outcome === "measured"
        ? { ...entry, timing: { ...entry.timing, medianMs: entry.timing.medianMs * 2 } }
        : entry,
    );
    const found = stateOf(slow);
    const missed = Object.values(found).filter(({ state }) => state === "missed");
    expect(missed.map(({ id }) => id)).toEqual(["causal", "threads-causal"]);
    expect(worstOf(found.causal)).toMatchObject({ case: "S 2048, D 128, causal" });
  });

  test("decode is held to reading and to the lower of both limits, and says which binds", () => {
    const { decode, "decode-roofline": roofline } = stateOf(played({ ...RATES, [OURS.one]: 20 }));
    const value = (target: typeof decode, n: number) => (target.readings[n] as { value: number }).value;
    // D 64: 16.8 MB at 10 GB/s is 1.68 ms, 33.6 MFLOP at 64 GFLOP/s 0.52 ms; at 20 GFLOP/s the call takes 1.68 ms.
    expect(value(decode, 0)).toBeCloseTo(1, 2);
    expect(value(roofline, 0)).toBeCloseTo(value(decode, 0), 9);
    expect(roofline.how).toMatch(/D 64: reading takes 1\.68 ms, arithmetic 0\.52: reading binds/);
  });

  test("a peer that fails has no ratio, and ours that fails misses", () => {
    const broken = (name: string) =>
      played(RATES, (entry) =>
        entry.contestant === name && entry.id === "contest/4096/64/full"
          ? ({ ...entry, outcome: "failed", reason: "SafeIntOnOverflow: Integer overflow" } as never)
          : entry,
      );
    const peer = stateOf(broken(PEERS.onnx))["onnx-full"];
    expect(peer.state).toBe("met");
    const lacking = peer.readings.find((one) => one.case === "S 4096, D 64, full");
    expect(lacking).toMatchObject({ because: "peer", reason: /onnxruntime-web\/1 failed: SafeIntOnOverflow/ as never });
    expect(stateOf(broken(OURS.one)).full.state).toBe("missed");
  });

  test("one thread only leaves two threads unmeasured", () => {
    const single = played(RATES, (entry) =>
      entry.contestant === OURS.two ? ({ ...entry, outcome: "skipped", reason: "one thread" } as never) : entry,
    );
    expect(stateOf(single).threads.state).toBe("unmeasured");
  });

  test("memory, start-up and size have their limits", () => {
    const heavy = stateOf(
      played(RATES),
      { startUps: { one: [51, 60, 70], byDefault: [10] }, gzippedBytes: { "a.wasm": 70_000 } },
      { ...memory, peakBytes: 301e6 },
    );
    expect([heavy.memory.state, heavy["start-up"].state, heavy.size.state]).toEqual(["missed", "missed", "missed"]);
  });
});
