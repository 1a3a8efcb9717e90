// The contest of CUDA: what is required of ours, the tables, PyTorch's process, and all of it in small where CUDA is played
// on the processor.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { naiveAttention } from "@fa/core/reference";
import { findEmulatedCuda } from "../../../tools/emulated-cuda.ts";
import { attentionCase, type AttentionCase } from "../src/cases.ts";
import { ContestantError } from "../src/contest.ts";
import { cudaTables } from "../src/cuda-comparison.ts";
import {
  CUDA_OURS,
  CUDA_PEER,
  CUDA_QUICK_SCALE,
  CUDA_SCALE,
  CudaProgramme,
  keySets,
  type CudaScale,
} from "../src/cuda-targets.ts";
import type { Arena } from "../src/field.node.ts";
import { main } from "../src/main.node.ts";
import { generate, PERIOD } from "../src/numbers.ts";
import { remoteContestant, type RemoteContestant } from "../src/peers/remote.node.ts";
import { rowsAlone } from "../src/peers/rows.ts";
import { numbersPart } from "../src/readme.ts";
import { formatResults, parseResults, type Entry } from "../src/results.ts";
import { cudaTable } from "../src/table.ts";
import { worstOf } from "../src/target.ts";
import { drawn, numbersOf, truthFrom, forwardAnswer } from "../src/truth.ts";
import { headsToCheck } from "../src/verify.ts";
import { madeCudaContest, playedOnCuda, recorder } from "./made.ts";

const folder = mkdtempSync(join(tmpdir(), "fa-cuda-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("the targets", () => {
  const programme = new CudaProgramme(CUDA_SCALE);
  const judge = (change?: (entry: Entry) => Entry, callCost: readonly number[] | string = [0.008, 0.02, 0.008]) =>
    Object.fromEntries(programme.targets(playedOnCuda(programme, change), callCost).map((one) => [one.id, one]));
  const slower =
    (times: number, whose: string, which: (entry: Entry) => boolean) =>
    (entry: Entry): Entry =>
      entry.outcome === "measured" && entry.contestant === whose && which(entry)
        ? { ...entry, timing: { ...entry.timing, medianMs: times * entry.timing.medianMs } }
        : entry;
  const missed = (found: ReturnType<typeof judge>) =>
    Object.values(found)
      .filter(({ state }) => state !== "met")
      .map(({ id, state }) => `${id} ${state}`);

  test("the grid is 36 cases of as many tokens, heads times D and bytes each", () => {
    expect(programme.grid).toHaveLength(36);
    expect(new Set(programme.grid.map(({ facts }) => facts.id)).size).toBe(36);
    for (const { facts } of programme.grid) expect([facts.B * facts.Sq, facts.H * facts.D]).toEqual([16384, 2048]);
    expect(programme.decode.map(({ facts }) => [facts.B, facts.Skv])).toEqual(CUDA_SCALE.decode.shapes);
  });

  test("a back end that reaches every number meets them all", () => {
    const found = judge();
    expect(missed(found)).toEqual([]);
    expect(worstOf(found.mean)!.value).toBeCloseTo(1.1, 9);
    expect(worstOf(found["decode-one"])!.value).toBeCloseTo(1.25, 9);
    expect(worstOf(found.float32)).toMatchObject({ case: "S 4096, D 128, full, float32", value: 80 });
    expect(worstOf(found.call)!.value).toBeCloseTo(8, 9);
  });

  test("the mean is geometric, and that of long sequences has 18 of the 36", () => {
    const found = judge(slower(1.1 / 0.95, CUDA_OURS, ({ id, Sq }) => isGrid(id) && Sq >= 4096));
    expect(worstOf(found["mean-long"])!.value).toBeCloseTo(0.95, 9);
    expect(worstOf(found.mean)!.value).toBeCloseTo(Math.sqrt(1.1 * 0.95), 9);
    expect(missed(found)).toEqual(["mean-long missed"]);
    expect(found["mean-long"].readings[0].case).toBe("18 cases");
  });

  test("one slow case misses what it is read for, and the mean hides it", () => {
    const found = judge(slower(1.3, CUDA_OURS, ({ id }) => id === "contest/bfloat16/4x16x16/4096/128/causal"));
    // The same case beside which ragged rows and grouped heads are measured is in their matches too.
    expect(missed(found)).toEqual(["each missed"]);
    expect(worstOf(found.each)).toMatchObject({ case: "S 4096, D 128, causal, bfloat16" });
  });

  test("ragged, grouped and float16 are held to the aligned bfloat16 case of the same turns", () => {
    const ragged = judge(slower(1.1, CUDA_OURS, ({ Sq }) => Sq === 8191));
    expect(missed(ragged)).toEqual(["ragged missed"]);
    expect(worstOf(ragged.ragged)!.value).toBeCloseTo(1 / 1.1, 9);
    const grouped = judge(slower(1.08, CUDA_OURS, ({ H, Hkv, Sq }) => Hkv < H && Sq > 1));
    expect(grouped.ragged.state).toBe("met");
    expect(missed(judge(slower(1.05, CUDA_OURS, ({ dtype }) => dtype === "float16")))).toEqual(["float16 missed"]);
  });

  test("decode of one sequence has a bound of its own", () => {
    const found = judge(slower(1.1, CUDA_OURS, ({ Sq, B, Skv }) => Sq === 1 && B === 1 && Skv === 8192));
    expect(missed(found)).toEqual(["decode-one missed"]);
  });

  test("a peer that fails has lost its case; one that takes no part leaves nothing to compare with", () => {
    const failing = judge((entry) =>
      entry.contestant === CUDA_PEER && entry.D === 256
        ? ({ ...entry, outcome: "failed", reason: "no" } as never)
        : entry,
    );
    expect(missed(failing)).toEqual([]);
    expect(worstOf(failing.mean)!.value).toBeCloseTo(1.1, 9);
    const absent = judge((entry) =>
      entry.contestant === CUDA_PEER ? ({ ...entry, outcome: "skipped", reason: "not installed" } as never) : entry,
    );
    expect(missed(absent)).toEqual(
      ["mean", "mean-long", "each", "decode", "decode-one"].map((id) => `${id} unmeasured`),
    );
  });

  test("a wrong or failed case of ours misses, an error beyond the bound too", () => {
    const wrong = judge((entry) =>
      entry.contestant === CUDA_OURS && entry.Sq === 512 && entry.outcome === "measured"
        ? { ...entry, outcome: "wrong", verification: { ...entry.verification, ok: false } }
        : entry,
    );
    expect(missed(wrong)).toEqual(["mean missed", "each missed"]);
    const erring = judge((entry) =>
      entry.dtype === "float32" && entry.outcome === "measured"
        ? { ...entry, verification: { ...entry.verification, maxError: 2e-5 } }
        : entry,
    );
    expect(missed(erring)).toEqual(["float32-error missed"]);
    expect(judge(undefined, "no kernel").call).toMatchObject({ state: "missed", readings: [{ because: "failed" }] });
  });

  test("decode reads so many sets in turn that no cache holds them, everything else one", () => {
    expect(programme.decode.map(keySets)).toEqual([16, 2, 1, 1, 1]);
    expect(programme.grid.map(keySets)).toEqual(programme.grid.map(() => 1));
  });

  function isGrid(id: string): boolean {
    return programme.grid.some(({ facts }) => facts.id === id);
  }
});

describe("the tables", () => {
  test("a head dim each, decode, float32, short calls, shapes, float16 and errors; they fit a terminal of 100 columns", () => {
    const file = madeCudaContest();
    const tables = cudaTables(file);
    expect(tables.map(({ heading }) => heading)).toEqual([
      "bfloat16, H 32, D 64, B S 16384",
      "bfloat16, H 16, D 128, B S 16384",
      "bfloat16, H 8, D 256, B S 16384",
      "decode, bfloat16, H 32, Hkv 8, D 128",
      "float32",
      "short calls, one after another",
      "shapes",
      "float16",
      "largest error",
    ]);
    expect(tables[0].rows[0]).toEqual(["S 512, B 32", "550 (1.10x)", "500", "550 (1.10x)", "500"]);
    expect(tables[3].rows[0]).toEqual(["B 1, Skv 8192", "1678 (1.25x)", "56 %", "1342"]);
    expect(tables[6].rows[0].slice(1)).toEqual(["550", "S 4096, D 128, full, bfloat16", "550", "100.0 %"]);
    for (const line of cudaTable(file).split("\n")) expect(line.length, line).toBeLessThanOrEqual(100);
  });

  test("a file comes back as it was written, and the README's part names the GPU and the library", () => {
    const file = madeCudaContest();
    expect(parseResults(formatResults(file), "made")).toEqual(file);
    const part = numbersPart(new Map([["cuda", file]]), new Set());
    expect(part).toContain("**a machine, CUDA**, a GPU, driver 1.2.3, sm_90, linux-x64");
    expect(part).toContain("780 TFLOP/s, made for a test; copying 3000 GB/s, read and written. PyTorch 1.2.3, cuDNN.");
    expect(part).toContain("What the cuda back end is required to reach");
  });
});

describe("numbers of large tensors", () => {
  test("begin again after a period, and can be drawn from any place", () => {
    const stream = { key: [1, 2], stream: 3, factor: 2 } as const;
    const start = generate(9, stream);
    expect(generate(5, stream, 4)).toEqual(start.subarray(4));
    expect(generate(7, stream, PERIOD - 2).subarray(2)).toEqual(start.subarray(0, 5));
    expect(generate(3, stream, 5 * PERIOD + 1)).toEqual(start.subarray(1, 4));
  });

  test.each([
    { dtype: "bfloat16", options: { causal: true }, ramped: false },
    { dtype: "float16", options: {}, ramped: true },
  ] as const)("of many heads some are checked, and stand for the whole: %j", (spec) => {
    const shapes = { q: [32, 8, 33, 64], kv: [32, 2, 600, 64] };
    const item = attentionCase({ group: "contest", name: "t", title: "t", ...shapes, ...spec });
    const heads = headsToCheck(item.problem);
    expect(heads).toHaveLength(8);
    expect([heads[0], heads.at(-1)]).toEqual([0, 255]);
    const out = Float32Array.from(naiveAttention(item.problem, numbersOf(item)).out);
    const truth = truthFrom(forwardAnswer(item));
    const some = rowsAlone(item.problem, "float32", 64, out);
    expect(some.length).toBe(8 * 32 * 64);
    for (const results of [{ out }, { out: some }]) {
      expect(truth.check(results)).toMatchObject({ ok: true, against: /32 of 33 rows a head, 8 of 256 heads/ });
    }
    // The first row of the second head that is checked.
    some[32 * 64] += 0.5;
    out[heads[7] * 33 * 64] += 0.5;
    for (const results of [{ out }, { out: some }]) expect(truth.check(results).ok).toBe(false);
  });

  test("all heads, where that is affordable", () => {
    const item = attentionCase({ group: "contest", name: "t", title: "t", q: [64, 2, 1, 64], kv: [64, 2, 90, 64] });
    expect(headsToCheck(item.problem)).toHaveLength(128);
  });
});

describe("PyTorch", () => {
  const opened: RemoteContestant[] = [];
  const { PYTHON } = process.env;
  afterEach(async () => {
    if (PYTHON === undefined) delete process.env["PYTHON"];
    else process.env["PYTHON"] = PYTHON;
    for (const one of opened.splice(0)) await one.close();
  });
  const torch = (software: boolean): RemoteContestant => {
    const made = remoteContestant(CUDA_PEER, "PyTorch", { library: "torch", threads: 1, software });
    opened.push(made);
    return made;
  };

  test("without Python, one line", async () => {
    process.env["PYTHON"] = "no-such-python";
    const refused = torch(true).open();
    await expect(refused).rejects.toThrow(ContestantError);
    await expect(refused).rejects.toThrow(/^no-such-python is not installed, or not in PATH: name another Python/);
  });

  test("a Python that ends says how", async () => {
    process.env["PYTHON"] = "false";
    await expect(torch(true).open()).rejects.toThrow(/^Python ended/);
  });

  test("without PyTorch or without a GPU, one line", async (context) => {
    const why = await torch(false)
      .open()
      .catch((error: Error) => error.message);
    if (/scaled_dot_product_attention by cuDNN/.test(why)) return context.skip("there is a GPU with PyTorch");
    expect(why).toMatch(/^(PyTorch is not installed \(|PyTorch \S+ sees no GPU|python3 is not installed)/);
  });

  test("gives the float64 reference's answer on the processor, from the numbers that all draw from", async (context) => {
    const player = torch(true);
    const what = await player.open().catch((error: Error) => error);
    if (what instanceof Error) return context.skip(what.message);
    const spec = { group: "contest", name: "t", title: "t" } as const;
    const cases: AttentionCase[] = [
      attentionCase({ ...spec, dtype: "bfloat16", q: [2, 4, 96, 64], options: { causal: true } }),
      attentionCase({ ...spec, dtype: "float32", q: [2, 3, 50, 32] }),
      attentionCase({ ...spec, dtype: "float16", q: [3, 8, 1, 64], kv: [3, 2, 200, 64] }),
    ];
    for (const item of cases) {
      const placed = await player.place(item);
      const { results, kernel, ms } = await placed.first();
      expect(truthFrom(forwardAnswer(item)).check(results)).toMatchObject({ ok: true });
      expect(kernel).toBeTypeOf("string");
      expect(ms).toBeGreaterThan(0);
      expect(await placed.pace!()).toMatchObject({ callsPerSample: expect.any(Number), callMs: expect.any(Number) });
      await placed.free();
    }
    expect(await player.ask("gauge", { name: "copy", item: cases[0] })).toBeGreaterThan(1e8);
    const lower = attentionCase({
      ...spec,
      dtype: "float32",
      q: [1, 1, 4, 8],
      kv: [1, 1, 6, 8],
      options: { causal: true },
    });
    await expect(player.place(lower)).rejects.toThrow(/PyTorch's causal begins at the first key/);
  }, 60_000);
});

test("an operand longer than the period begins its stream again", () => {
  const from = PERIOD - 3;
  expect(drawn("k", 6, from).subarray(3)).toEqual(drawn("k", 3));
});

test("without a GPU: one line and exit code 1", async () => {
  const terminal = recorder();
  const arena: Arena = {
    contestants: [],
    gauge: async () => 1,
    startUp: async () => 1,
    close: async () => {},
    gpu: {
      facts: () => Promise.reject(new ContestantError("no NVIDIA driver")),
      callCost: async () => [1],
      truths: () => Promise.reject(new Error("must not be asked")),
    },
  };
  expect(await main(["--targets", "cuda"], { terminal, openArena: () => arena })).toBe(1);
  const line =
    "fa-bench: --targets cuda: there must be an NVIDIA GPU; got none: no NVIDIA driver. Run it where there is one.";
  expect(terminal.complaints).toEqual([line]);
});

const { path: addon, why } = findEmulatedCuda();

test.skipIf(addon === undefined)(
  `in small, CUDA played on the processor (${why}): every entry of ours is verified and timed`,
  async () => {
    process.env["FA_CUDA_ADDON"] = addon;
    const terminal = recorder();
    const json = join(folder, "quick.json");
    expect(await main(["--targets", "cuda", "--quick", "--json", json], { terminal })).toBe(0);
    const file = parseResults(readFileSync(json, "utf8"), json);
    if (file.kind !== "contest") throw new Error("of another kind");
    const roof = { what: "register-only mma.sync, bfloat16" };
    expect(file).toMatchObject({
      contestOf: "cuda",
      complete: true,
      roof,
      gpu: { adapter: /emulated/, copyGBs: null },
    });
    const scale: CudaScale = CUDA_QUICK_SCALE;
    const asked = new CudaProgramme(scale).matches(false).flatMap(({ entries }) => entries);
    expect(file.entries).toHaveLength(asked.length);
    for (const entry of file.entries) expect(entry, entry.id).toMatchObject({ outcome: "measured" });
    expect(file.targets.find(({ id }) => id === "call")!.readings[0]).toHaveProperty("value");
    expect(terminal.printed.join("\n")).toMatch(/^targets: \d+ met/m);
  },
  240_000,
);
