// The contest on a GPU: what is required of ours, the tables, and all of it in small on a software adapter.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { decode, encode } from "@fa/core";
import { naiveAttention } from "@fa/core/reference";
import { attentionCase } from "../src/cases.ts";
import { ContestantError } from "../src/contest.ts";
import type { Arena, GpuArena } from "../src/field.node.ts";
import { gpuTables } from "../src/gpu-comparison.ts";
import { main } from "../src/main.node.ts";
import { bytesOf, generate, toElevenBits } from "../src/numbers.ts";
import { chainsOf, firstSlope, roofSlope, slopeOf } from "../src/peers/chains.ts";
import { rowsAlone } from "../src/peers/rows.ts";
import { numbersPart } from "../src/readme.ts";
import { parseResults, type Entry } from "../src/results.ts";
import { gpuTable, targetsTable } from "../src/table.ts";
import { worstOf } from "../src/target.ts";
import { numbersOf, truthOf } from "../src/truth.ts";
import { FULL_SCALE, GPU_OURS, GPU_PEER, QUICK_SCALE, WebgpuProgramme } from "../src/webgpu-targets.ts";
import { madeGpuContest, playedOnGpu, recorder } from "./made.ts";

const folder = mkdtempSync(join(tmpdir(), "fa-webgpu-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("the targets", () => {
  const programme = new WebgpuProgramme(FULL_SCALE);
  const judge = (change?: (entry: Entry) => Entry, callCost: readonly number[] | string = [0.05, 0.2, 0.05]) =>
    Object.fromEntries(programme.targets(playedOnGpu(programme, change), callCost).map((one) => [one.id, one]));

  test("a back end that reaches every number meets them all", () => {
    const found = judge();
    expect(Object.values(found).filter(({ state }) => state !== "met")).toEqual([]);
    expect(worstOf(found["matrix-128"])!.value).toBeCloseTo(280, 9);
    expect(found["matrix-causal-64"].required).toBeCloseTo(140, 9);
    expect(worstOf(found["onnx-portable"])!.value).toBeCloseTo(1.5, 9);
    expect(worstOf(found["ramped-time"])!.value).toBeCloseTo(1, 9);
    // 33.6 MB of keys and values in 20 µs, beside 2000 GB/s.
    expect(worstOf(found.decode)!.value).toBeCloseTo((2 * 8 * 8192 * 128 * 2) / 20e-6 / 2e12, 9);
    expect(worstOf(found.call)!.value).toBeCloseTo(50, 9);
  });

  test("a slow case misses what it is read for, and nothing else", () => {
    const found = judge((entry) =>
      entry.outcome === "measured" &&
      entry.id === "contest/float16/8192/128/full" &&
      entry.contestant === GPU_OURS.matrix
        ? { ...entry, timing: { ...entry.timing, medianMs: entry.timing.medianMs * 1.5 } }
        : entry,
    );
    const missed = Object.values(found).filter(({ state }) => state === "missed");
    expect(missed.map(({ id }) => id)).toEqual(["matrix-128"]);
    expect(worstOf(found["matrix-128"])).toMatchObject({ case: "S 8192, D 128, full, float16" });
  });

  test("ramped keys are held to the time and the error of the plain keys of the same turns", () => {
    const found = judge((entry) =>
      entry.outcome === "measured" && entry.id.endsWith("/4096/64/ramped")
        ? {
            ...entry,
            verification: { ...entry.verification, meanSquareError: 25 * entry.verification.meanSquareError },
            timing: { ...entry.timing, medianMs: 1.9 * entry.timing.medianMs },
          }
        : entry,
    );
    expect(found["ramped-time"].state).toBe("met");
    expect(worstOf(found["ramped-time"])!.value).toBeCloseTo(1.9, 9);
    expect(found["ramped-error"].state).toBe("missed");
    expect(worstOf(found["ramped-error"])!.value).toBeCloseTo(5, 9);
  });

  test("without subgroup matrices their targets are unmeasured; a call that fails misses", () => {
    const found = judge(
      (entry) =>
        entry.contestant === GPU_OURS.matrix ? ({ ...entry, outcome: "skipped", reason: "none" } as never) : entry,
      "no kernel",
    );
    expect([found["matrix-64"].state, found["ramped-error"].state]).toEqual(["unmeasured", "unmeasured"]);
    expect(found.call).toMatchObject({ state: "missed", readings: [{ because: "failed", reason: "no kernel" }] });
  });

  test("without the peer nothing is said about it", () => {
    const alone = programme.matches(false).flatMap(({ entries }) => entries.map(({ contestant }) => contestant));
    expect(alone).not.toContain(GPU_PEER);
  });
});

describe("the tables", () => {
  test("one a dtype and head dim, ramped keys and decode; they fit a terminal of 100 columns", () => {
    const file = madeGpuContest();
    const tables = gpuTables(file);
    expect(tables.map(({ heading }) => heading)).toEqual([
      "float16, H 16, D 64",
      "float16, H 16, D 128",
      "float32, H 16, D 64",
      "float32, H 16, D 128",
      "float16, tier matrix, keys ramped 1 to 10 times",
      "decode, Skv 8192, H 32, Hkv 8, D 128, float16",
      "largest error",
    ]);
    expect(tables[0].rows.at(-1)).toEqual(["S 8192, causal", "280 (14x)", "300 (15x)", "40.0 (2.0x)", "20.0"]);
    expect(tables[0].rows[0]).toEqual(["S 128, full", "280 (14x)", "-", "40.0 (2.0x)", "20.0"]);
    expect(tables[4].rows[0]).toEqual(["S 4096, D 64", "280", "280", "2.0e-4", "2.0e-4"]);
    expect(tables[5].rows[0]).toEqual(["tier matrix", "20.0 µs", "1678", "84 %"]);
    expect(tables[6].rows[0]).toEqual(["tier matrix", "made", "2.0e-4", "-"]);
    const printed = `${gpuTable(file)}\n${targetsTable(file.targets)}`;
    expect(printed).toContain("roofs: 60.0 TFLOP/s float32 multiply-add, 640 TFLOP/s subgroup matrices");
    for (const line of gpuTable(file).split("\n")) expect(line.length, line).toBeLessThanOrEqual(100);
  });

  test("a peer that fails says why, and what nobody played is left out", () => {
    const file = madeGpuContest();
    const entries = file.entries.map((entry): Entry => {
      if (entry.contestant === GPU_PEER)
        return { ...entry, outcome: "failed", reason: "Program X requires f16. No" } as never;
      return entry.Sq === 1 ? ({ ...entry, outcome: "skipped", reason: "none" } as never) : entry;
    });
    const tables = gpuTables({ ...file, entries });
    expect(tables[0].rows[0]).toEqual(["S 128, full", "280", "-", "40.0", "fails: Program X requires f16"]);
    expect(tables.at(-2)!.rows).toEqual([["onnxruntime-node/webgpu", "fails: Program X requires f16", "-", "-"]]);
  });

  test("the README's part names the GPU, the roofs and the targets", () => {
    const part = numbersPart(new Map([["gpu", madeGpuContest()]]), new Set());
    expect(part).toContain("**a machine, WebGPU**, B 1, a GPU, driver 1.2.3, Dawn, npm webgpu 0.0.0, linux-x64");
    expect(part).toContain("copying a buffer 2000 GB/s, read and written");
    expect(part).toContain("| S 4096, full | 280 (14x) | 300 (15x) | 40.0 (2.0x) | 20.0 |");
    expect(part).toContain("What the webgpu back end is required to reach");
  });
});

describe("a chain of calls", () => {
  /** A device that takes 5 ms for anything, and 2 ms a call. */
  const asked: number[] = [];
  const run = async (calls: number): Promise<number> => {
    asked.push(calls);
    await new Promise((resolve) => setTimeout(resolve, 1));
    return 5 + 2 * calls;
  };

  test("is as long as the clock needs, and its slope leaves out what any chain costs", async () => {
    const { pace, slope } = chainsOf(run);
    const { callsPerSample, callMs } = await pace();
    expect(callsPerSample).toBeGreaterThanOrEqual(8);
    expect(callsPerSample).toBeLessThan(20);
    expect(callMs).toBeCloseTo(2 + 5 / callsPerSample, 9);
    expect(await slope(callsPerSample)).toBeCloseTo(2, 9);
    expect(asked.slice(-2)).toEqual([callsPerSample, 3 * callsPerSample]);
  });

  test("that grows no slower with its length is refused", async () => {
    await expect(slopeOf(async () => 3, 1, 9)).rejects.toThrow(/a chain of 9 calls took no longer than one of 1/);
    await expect(roofSlope(async () => 3, 3)).rejects.toThrow(/a chain of 9 calls took no longer than one of 3/);
  });

  test("of a first look is longer until its calls show", async () => {
    const lengths: number[] = [];
    // A clock that steps by 100 ms, and calls of 2 ms: 45 are the first that take a step more than one.
    const coarse = async (calls: number): Promise<number> => {
      lengths.push(calls);
      return 100 * Math.floor((15 + 2 * calls) / 100);
    };
    expect(await firstSlope(coarse, 5, 257)).toBeCloseTo(100 / 44, 9);
    expect(Math.max(...lengths)).toBe(45);
    expect(new Set(lengths)).toEqual(new Set([1, 5, 15, 45]));
    await expect(firstSlope(async () => 3, 5, 257)).rejects.toThrow(/a chain of 257 calls took no longer/);
  });

  test("of a roof: one that was disturbed does not count", async () => {
    let chains = 0;
    // The first short one, by so much that a slope from it would be a third of what it is.
    const disturbed = async (calls: number): Promise<number> => 5 + 2 * calls + (chains++ === 0 ? 8 : 0);
    expect(await roofSlope(disturbed, 3)).toBeCloseTo(2, 9);
  });
});

describe("numbers", () => {
  test("bytes are those that core makes", () => {
    const values = generate(4096, { key: [3, 4], stream: 5, factor: 2 });
    for (const dtype of ["float16", "float32", "bfloat16"] as const) {
      expect(bytesOf(dtype, values)).toEqual(encode(dtype, values));
    }
    const odd = Float64Array.of(0, -0, 1, -65504, 2 ** -14, 2 ** -24, 2 ** 17, NaN, Infinity);
    expect(bytesOf("float16", odd)).toEqual(encode("float16", odd));
  });

  test("ramped keys are float16's own numbers and reach ten times the plain ones", () => {
    const spec = { group: "contest", name: "r", title: "r", q: [1, 2, 300, 16], dtype: "float16" } as const;
    const [plain, ramped] = [false, true].map((is) => numbersOf(attentionCase({ ...spec, ramped: is })));
    expect(decode("float16", encode("float16", ramped.k))).toEqual(ramped.k);
    expect([ramped.q, ramped.v]).toEqual([plain.q, plain.v]);
    for (const [j, factor] of [
      [0, 1],
      [150, 5.5],
      [299, 9.97],
    ] as const) {
      const at = (300 + j) * 16 + 3;
      expect(ramped.k[at] / plain.k[at]).toBeCloseTo(factor, 1);
    }
    expect(toElevenBits(1 + 2 ** -12)).toBe(1);
  });

  test("a result's checked rows stand for the whole", () => {
    const item = attentionCase({
      group: "contest",
      name: "t",
      title: "t",
      q: [1, 4, 1500, 64],
      options: { causal: true },
    });
    const data = numbersOf(item);
    const { out } = naiveAttention(item.problem, data);
    const rows = rowsAlone(item.problem, "float32", 64, Float32Array.from(out));
    expect(rows.length).toBeLessThan(out.length);
    const truth = truthOf(item, data);
    expect(truth.check({ out: rows })).toMatchObject({ ok: true });
    rows[rows.length - 1] += 1e-3;
    expect(truth.check({ out: rows })).toMatchObject({ ok: false });
  });
});

test("--quick --targets wasm is refused before any work", async () => {
  const terminal = recorder();
  expect(await main(["--targets", "wasm", "--quick"], { terminal })).toBe(1);
  expect(terminal.complaints.join("\n")).toMatch(/--quick has no --targets wasm/);
});

describe("before the first match", () => {
  const arena = (facts: GpuArena["facts"]): Arena => ({
    contestants: [],
    gauge: async () => 1,
    startUp: async () => 1,
    close: async () => {},
    gpu: { facts, callCost: async () => [1], truths: () => Promise.reject(new Error("must not be asked")) },
  });
  const none = () => Promise.reject(new ContestantError("no adapter"));

  test("without a GPU: one line and exit code 1", async () => {
    const terminal = recorder();
    expect(await main(["--targets", "webgpu"], { terminal, openArena: () => arena(none) })).toBe(1);
    const line = /^fa-bench: --targets webgpu: there must be a GPU; got none: no adapter\. With --quick a software/;
    expect(terminal.complaints.join("\n")).toMatch(line);
  });

  test("stopped: the exit code of the signal", async () => {
    const stop = new AbortController();
    const facts = () => {
      stop.abort(130);
      return none();
    };
    const surroundings = { terminal: recorder(), openArena: () => arena(facts), signal: stop.signal };
    expect(await main(["--targets", "webgpu", "--quick"], surroundings)).toBe(130);
  });
});

const { FA_VULKAN_ICD: driver } = process.env;

test.skipIf(!driver)(
  "in small, on a software adapter: every entry that can play is verified and timed",
  async () => {
    process.env["VK_DRIVER_FILES"] = driver;
    const terminal = recorder();
    const json = join(folder, "quick.json");
    expect(await main(["--targets", "webgpu", "--quick", "--json", json], { terminal })).toBe(0);
    const file = parseResults(readFileSync(json, "utf8"), json);
    if (file.kind !== "contest") throw new Error("of another kind");
    expect(file).toMatchObject({
      contestOf: "webgpu",
      complete: true,
      gpu: { adapter: expect.stringMatching(/swiftshader|llvmpipe/i) },
    });
    const isPlain = ({ contestant }: { contestant: string }): boolean =>
      contestant === GPU_OURS.subgroups || contestant === GPU_OURS.portable;
    const asked = new WebgpuProgramme(QUICK_SCALE).matches(false).flatMap(({ entries }) => entries);
    const own = file.entries.filter(isPlain);
    expect(own).toHaveLength(asked.filter(isPlain).length);
    for (const entry of own) expect(entry, entry.id).toMatchObject({ outcome: "measured" });
    expect(file.targets.find(({ id }) => id === "call")!.readings[0]).toHaveProperty("value");
    expect(terminal.printed.join("\n")).toMatch(/^targets: \d+ met/m);
  },
  240_000,
);
