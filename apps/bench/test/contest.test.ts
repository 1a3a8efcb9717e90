import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { naiveAttention } from "@fa/core/reference";
import { attentionCase, type AttentionCase } from "../src/cases.ts";
import { exitCodeOf } from "../src/compare.node.ts";
import { contest, ContestantError, WARM_MS, type Contestant, type MatchResult } from "../src/contest.ts";
import type { Arena } from "../src/field.node.ts";
import { main } from "../src/main.node.ts";
import { gridCase, matchOf } from "../src/matches.ts";
import { isMeasured, parseResults } from "../src/results.ts";
import { numbersOf } from "../src/truth.ts";
import { madeContest, recorder } from "./made.ts";

const folder = mkdtempSync(join(tmpdir(), "fa-contest-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Behaviour {
  readonly threads?: number;
  /** Milliseconds of a call, as it tells them. */
  readonly ms?: number;
  readonly open?: () => void;
  readonly spoil?: (out: Float64Array) => void;
  readonly first?: (item: AttentionCase) => void;
  readonly sample?: () => void;
}

/** A contestant that computes by the reference and behaves as told. It writes down what it is asked. */
function made(id: string, log: string[], behaviour: Behaviour = {}): Contestant {
  const { threads = 1, ms = 100, open, spoil, first, sample } = behaviour;
  return {
    id,
    name: id.replace(/\/\d$/, ""),
    threads,
    async open() {
      open?.();
      return "made for a test";
    },
    async place(item) {
      return {
        async first() {
          log.push(`first ${id}`);
          first?.(item);
          const { out } = naiveAttention(item.problem, numbersOf(item));
          const results = { out: Float32Array.from(out, Math.fround) };
          spoil?.(out);
          return { ms, results: spoil ? { out } : results, peakBytes: null };
        },
        async sample() {
          log.push(`sample ${id}`);
          sample?.();
          return ms;
        },
        async free() {
          log.push(`free ${id}`);
        },
      };
    },
    async close() {
      log.push(`close ${id}`);
    },
  };
}

const fail = (message: string) => () => {
  throw new ContestantError(message);
};
const small = gridCase(16, 64, true, 2);

async function play(players: readonly (Contestant | [string, string])[], signal = new AbortController().signal) {
  const contestants = new Map<string, Contestant | string>();
  for (const one of players) {
    if (Array.isArray(one)) contestants.set(...one);
    else contestants.set(one.id, one);
  }
  const match = matchOf([...contestants.keys()].map((contestant) => ({ contestant, item: small })));
  const settings = { contestants, gauge: async () => 64, rounds: 3, entryMs: 2000, signal };
  const results: MatchResult[] = [];
  for await (const result of contest([match], settings)) results.push(result);
  return results[0];
}

describe("a match", () => {
  test("all take turns, each round another first, and every entry is verified before its first sample", async () => {
    const log: string[] = [];
    const { entries, gauges } = await play([made("a/1", log, { ms: 600 }), made("b/1", log, { ms: 600 })]);
    const samples = ["a", "b", "b", "a", "a", "b"].map((who) => `sample ${who}/1`);
    expect(log).toEqual(["first a/1", "first b/1", ...samples, "free a/1", "free b/1"]);
    expect(gauges).toEqual({ relaxed: [64, 64, 64] });
    for (const entry of entries) {
      expect(entry).toMatchObject({ outcome: "measured", verification: { ok: true }, timing: { medianMs: 600 } });
      expect(entry).toMatchObject({ timing: { samples: 3, callsPerSample: 1 } });
    }
  });

  test.each<[string, (out: Float64Array) => void]>([
    ["one element", (out) => (out[7] += 1e-3)],
    ["a NaN", (out) => (out[out.length - 1] = NaN)],
    ["everything", (out) => out.fill(0)],
  ])("a contestant that answers wrong (%s) is not timed; the others are", async (_name, spoil) => {
    const log: string[] = [];
    const { entries } = await play([made("bad/1", log, { spoil }), made("good/1", log)]);
    expect(entries.map(({ outcome }) => outcome)).toEqual(["wrong", "measured"]);
    expect(entries[0]).not.toHaveProperty("timing");
    expect(log).not.toContain("sample bad/1");
    expect(log).toContain("sample good/1");
  });

  test("a library that accumulates in float16 may err more in float16 if that is said, and then it stands in the result", async () => {
    const half = attentionCase({ group: "contest", name: "h", title: "h", q: [1, 2, 16, 64], dtype: "float16" });
    const spoil = (out: Float64Array) => (out[7] += 0.02);
    const outcomeOf = async (item: AttentionCase, mayErr?: number) => {
      const one = { ...made("half/1", [], { spoil }), mayErr };
      const match = matchOf([{ contestant: "half/1", item }]);
      const contestants = new Map([["half/1", one]]);
      const settings = {
        contestants,
        gauge: async () => 64,
        rounds: 1,
        entryMs: 1,
        signal: new AbortController().signal,
      };
      for await (const { entries } of contest([match], settings)) return entries[0];
      throw new Error("nothing was played");
    };
    expect(await outcomeOf(half)).toMatchObject({ outcome: "wrong" });
    const against = "float64 reference, all rows, 1000 times the tolerance";
    expect(await outcomeOf(half, 1000)).toMatchObject({ outcome: "measured", verification: { ok: true, against } });
    expect(await outcomeOf(small, 1000)).toMatchObject({ outcome: "wrong" });
  });

  test("a contestant that gives too little is wrong, not timed", async () => {
    const { entries } = await play([
      {
        ...made("short/1", []),
        place: async () => ({
          first: async () => ({ ms: 1, results: { out: new Float32Array(3) }, peakBytes: null }),
          sample: fail("must not be asked"),
          free: async () => {},
        }),
      },
    ]);
    expect(entries[0]).toMatchObject({ outcome: "wrong", verification: { ok: false } });
  });

  test("one that fails is a failed entry with its reason, at its first call or later, and is closed", async () => {
    const log: string[] = [];
    let left = 3;
    const { entries } = await play([
      made("early/1", log, { first: fail("SafeIntOnOverflow: Integer overflow") }),
      made("late/1", log, { sample: () => --left < 0 && fail("out of memory")() }),
      made("good/1", log),
      ["absent/1", "not installed: npm install absent"],
    ]);
    expect(entries).toMatchObject([
      { outcome: "failed", reason: "SafeIntOnOverflow: Integer overflow" },
      { outcome: "failed", reason: "out of memory" },
      { outcome: "measured" },
      { outcome: "skipped", reason: "not installed: npm install absent" },
    ]);
    expect(log.filter((line) => line.startsWith("close"))).toEqual(["close early/1", "close late/1"]);
  });

  test("a fault that is not the contestant's is not hidden", async () => {
    const first = () => {
      throw new TypeError("a bug of the bench");
    };
    await expect(play([made("a/1", [], { first })])).rejects.toThrow("a bug of the bench");
  });

  test("a slow one has fewer samples, but one; a fast one several calls a sample, after one uncounted", async () => {
    const log: string[] = [];
    const { entries } = await play([made("slow/1", log, { ms: 1500 }), made("fast/1", log, { ms: 4 })]);
    expect(entries.map((entry) => isMeasured(entry) && entry.timing)).toMatchObject([
      { samples: 1, callsPerSample: 1 },
      { samples: 3, callsPerSample: 13 },
    ]);
    const asked = (who: string): number => log.filter((line) => line === `sample ${who}/1`).length;
    expect([asked("slow"), asked("fast")]).toEqual([1, Math.ceil((WARM_MS - 4) / 4) + 2 * 3]);
  });

  test("stops between two calls when told to", async () => {
    const stop = new AbortController();
    const log: string[] = [];
    const sample = () => stop.abort("enough");
    await expect(play([made("a/1", log, { sample, ms: 600 })], stop.signal)).rejects.toBe("enough");
    expect(log).toEqual(["first a/1", "sample a/1"]);
  });
});

describe("--peers", () => {
  function arenaOf(contestants: readonly Contestant[]) {
    const calls = { closed: 0 };
    const openArena = (): Arena => ({
      contestants,
      gauge: async () => 64,
      startUp: async () => 10,
      close: async () => void calls.closed++,
    });
    return { openArena, calls };
  }
  const argv = ["--backend", "wasm", "--peers", "--quick", "--sizes", "32", "--heads", "2"];

  test("tables with ratios, failures with reasons, absent ones named; results and chart written; exit code 0", async () => {
    const log: string[] = [];
    const { openArena, calls } = arenaOf([
      made("ours/1", log, { ms: 100 }),
      made("ours/2", log, { open: fail("the back end computes on one thread"), threads: 2 }),
      made("onnxruntime-web/1", log, { ms: 250 }),
      made("jax-js/1", log, { first: ({ facts }) => facts.causal && fail("no memory: none at all")() }),
      made("tfjs-wasm/1", log, { spoil: (out) => out.fill(1) }),
    ]);
    const terminal = recorder();
    const [json, plot] = [join(folder, "peers.json"), join(folder, "peers.svg")];
    expect(await main([...argv, "--json", json, "--plot", plot], { terminal, openArena })).toBe(0);
    const printed = terminal.printed.join("\n");
    expect(printed).toMatch(/^ours\/2 +takes no part: the back end computes on one thread$/m);
    expect(printed).toMatch(/^one thread, D 64 +ours +of roof +onnxruntime-web +jax-js +tfjs-wasm$/m);
    expect(printed).toMatch(/^S 32, full .*\(2\.5x\).*\(1\.0x\) +WRONG$/m);
    expect(printed).toMatch(/^S 32, causal .*\(2\.5x\) +fails: no memory +WRONG$/m);
    expect(printed).not.toMatch(/2 threads, D/);
    const file = parseResults(readFileSync(json, "utf8"), json);
    expect(file).toMatchObject({ kind: "contest", complete: true, targets: [], roof: { gflops: 64 } });
    expect(readFileSync(plot, "utf8")).toContain("onnxruntime-web");
    expect(calls.closed).toBe(1);
  });

  test("a wrong answer of ours makes the exit code 1", async () => {
    const wrong = made("ours/1", [], { spoil: (out) => out.fill(0) });
    const { openArena } = arenaOf([wrong, made("onnxruntime-web/1", [])]);
    expect(await main(argv, { terminal: recorder(), openArena })).toBe(1);
  });

  test("stopped: what was measured is saved, everybody is closed, exit code as the signal says", async () => {
    const stop = new AbortController();
    const log: string[] = [];
    const first = ({ facts }: AttentionCase) => facts.causal && stop.abort(130);
    const { openArena, calls } = arenaOf([made("ours/1", log, { first })]);
    const json = join(folder, "stopped.json");
    expect(await main([...argv, "--json", json], { terminal: recorder(), openArena, signal: stop.signal })).toBe(130);
    const file = parseResults(readFileSync(json, "utf8"), json);
    expect(file.complete).toBe(false);
    expect(file).toHaveProperty("entries.0.id", "contest/32/64/full");
    expect(calls.closed).toBeGreaterThan(0);
    expect(log).toContain("close ours/1");
  });

  test.each([
    [["--peers", "--backend", "cuda"], /--peers compares the wasm back end; got --backend cuda/],
    [["--peers", "--dtype", "float16"], /'--peers' cannot be used with option '--dtype/],
    [["--targets", "wsam"], /'wsam' is invalid\. Did you mean wasm\?/],
    [["--targets", "wasm", "--sizes", "64"], /'--targets <backend>' cannot be used with option '--sizes/],
  ])("%j is refused before any work", async (bad, message) => {
    const terminal = recorder();
    const json = join(folder, "refused.json");
    const { openArena } = arenaOf([made("ours/1", [], { open: fail("must not be opened") })]);
    expect(await main([...bad, "--json", json], { terminal, openArena })).toBe(1);
    expect(terminal.complaints.join("\n")).toMatch(message);
    expect(terminal.printed).toEqual([]);
    expect(existsSync(json)).toBe(false);
  });
});

test("a missed target is exit code 1 only when asked for; a failed entry of ours always, of a peer never", () => {
  const file = madeContest();
  expect([exitCodeOf(file, false), exitCodeOf(file, true)]).toEqual([0, 1]);
  expect(exitCodeOf({ ...file, targets: [] }, true)).toBe(0);
  const failed = { ...file.entries[0], outcome: "failed" as const, reason: "no memory" };
  expect(exitCodeOf({ ...file, entries: [failed] }, false)).toBe(1);
  expect(exitCodeOf({ ...file, entries: [{ ...failed, contestant: "jax-js/1" }] }, false)).toBe(0);
});
