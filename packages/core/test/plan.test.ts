import { describe, expect, test } from "vitest";
import type { Capabilities } from "../src/backend.ts";
import { describePlan, plan, refusalError, type KernelRow, type Plan, type Refusal } from "../src/plan.ts";
import { attentionProblem, linearProblem, type CastProblem, type TensorSpec } from "../src/problem.ts";
import { SCORE_STEPS } from "../src/score-program.ts";

const spec = (shape: readonly number[], dtype: TensorSpec["dtype"] = "float32"): TensorSpec => ({ shape, dtype });
const q = spec([2, 4, 100, 64]);
const kv = spec([2, 2, 70, 64]);
const attention = attentionProblem({ q, k: kv, v: kv }, { causal: true });
const linear = linearProblem("linear", { x: spec([100, 32]), weight: spec([96, 32]) }, [32, 64]);
const cast: CastProblem = { op: "cast", dtype: "float32", resultDType: "bfloat16", elements: 1000 };

const device: Capabilities = {
  dtypes: ["float32", "float16"],
  maxHeadDim: 128,
  sharedBytes: 48 * 1024,
  maxBufferBytes: 2 ** 20,
  features: ["simd"],
};
const row: KernelRow = {
  id: "plain",
  op: "attention",
  dtypes: ["float32"],
  headDim: { min: 1, max: 256 },
  steps: SCORE_STEPS,
  needs: [],
  tile: { q: 32, kv: 16 },
  maxTile: { q: 64, kv: 64 },
  workspaceBytes: () => 0,
};
const reasonsOf = (result: Plan | Refusal): string[] => (result.ok ? [] : result.reasons.map(({ reason }) => reason));

describe("the planner takes the first row that takes the problem", () => {
  test("and says which, with its tile, grid and memory", () => {
    const workspaceBytes: KernelRow["workspaceBytes"] = (_, tile) => tile.q * 8;
    const rows = [
      { ...row, id: "fast", needs: ["relaxed-simd"] },
      { ...row, workspaceBytes },
      { ...row, id: "later" },
    ];
    expect(plan(attention, device, rows)).toEqual({
      ok: true,
      problem: attention,
      kernel: rows[1],
      tile: { q: 32, kv: 16 },
      grid: [4, 4, 2],
      splits: 1,
      workspaceBytes: 256,
    });
  });

  test("rows of other operations do not count", () => {
    const rows = [
      { ...row, op: "linear" as const },
      { ...row, id: "right" },
    ];
    expect(plan(attention, device, rows)).toMatchObject({ kernel: { id: "right" } });
  });

  test("a row for few query rows takes up to so many a key head", () => {
    const few = (maxRows: number): KernelRow[] => [{ ...row, id: "few", maxRows }, row];
    expect(plan(attention, device, few(200))).toMatchObject({ kernel: { id: "few" } });
    expect(plan(attention, device, few(199))).toMatchObject({ kernel: { id: "plain" } });
    expect(reasonsOf(plan(attention, device, few(199).slice(0, 1)))).toEqual([
      "takes at most 199 query rows a key head, not 200",
    ]);
  });

  test("a row may refuse a problem for a reason of its own", () => {
    const picky: KernelRow = { ...row, id: "picky", refuses: () => "does not like it" };
    expect(plan(attention, device, [picky, row])).toMatchObject({ kernel: { id: "plain" } });
    expect(reasonsOf(plan(attention, device, [picky]))).toEqual(["does not like it"]);
  });

  test("a row for short problems takes up to so many query rows in all", () => {
    const short = (maxTotalRows: number): KernelRow[] => [{ ...row, id: "short", maxTotalRows }, row];
    expect(plan(attention, device, short(800))).toMatchObject({ kernel: { id: "short" } });
    expect(plan(attention, device, short(799))).toMatchObject({ kernel: { id: "plain" } });
    expect(reasonsOf(plan(attention, device, short(799).slice(0, 1)))).toEqual([
      "takes at most 799 query rows in all, not 800",
    ]);
  });

  test("a row may take head dims that are multiples of something, and no mask", () => {
    const eights = { ...row, id: "eights", headDim: { min: 8, max: 128, multipleOf: 8 }, takesMask: false };
    expect(plan(attention, device, [eights, row])).toMatchObject({ kernel: { id: "eights" } });
    const [q60, kv60] = [spec([2, 4, 100, 60]), spec([2, 2, 70, 60])];
    const odd = attentionProblem({ q: q60, k: kv60, v: kv60 }, {});
    expect(plan(odd, device, [eights, row])).toMatchObject({ kernel: { id: "plain" } });
    expect(reasonsOf(plan(odd, device, [eights]))).toEqual(["takes head dims that are multiples of 8, not 60"]);
    const masked = attentionProblem({ q, k: kv, v: kv }, { causal: true, mask: spec([1, 1, 1, 70], "bool") });
    expect(plan(masked, device, [eights, row])).toMatchObject({ kernel: { id: "plain" } });
    expect(reasonsOf(plan(masked, device, [eights]))).toEqual(["does not apply a mask"]);
  });

  test("is pure: the same arguments give the same plan, and none is changed", () => {
    const frozen = [Object.freeze({ ...row })];
    expect(plan(Object.freeze({ ...attention }), Object.freeze({ ...device }), Object.freeze(frozen))).toEqual(
      plan(attention, device, [row]),
    );
  });
});

describe("the grid covers the result", () => {
  const grid = (problem: Parameters<typeof plan>[0], op: KernelRow["op"]) => {
    const planned = plan(problem, { ...device, dtypes: ["float32", "bfloat16"] }, [
      { ...row, op, dtypes: ["float32", "bfloat16"] },
    ]);
    return planned.ok && planned.grid;
  };

  test("attention: blocks of rows, query heads, batches", () => {
    expect(grid(attention, "attention")).toEqual([4, 4, 2]);
  });
  test("attentionBackward: blocks of keys, key heads, batches", () => {
    expect(grid({ ...attention, op: "attentionBackward" }, "attentionBackward")).toEqual([5, 2, 2]);
  });
  test("linear: blocks of rows and of features", () => {
    expect(grid(linear, "linear")).toEqual([4, 6, 1]);
    expect(grid({ ...linear, op: "linearBackward" }, "linearBackward")).toEqual([4, 6, 1]);
  });
  test("cast: blocks of elements", () => {
    expect(grid(cast, "cast")).toEqual([63, 1, 1]);
  });
});

describe("the tile", () => {
  const tileFor = (blockSize: number | { q?: number; kv?: number }) => {
    const planned = plan(attentionProblem({ q, k: kv, v: kv }, { blockSize }), device, [row]);
    return planned.ok && planned.tile;
  };

  test("is what blockSize asks for", () => {
    expect(tileFor(8)).toEqual({ q: 8, kv: 8 });
    expect(tileFor({ q: 1, kv: 64 })).toEqual({ q: 1, kv: 64 });
  });
  test("on the side that is left out, is the kernel's own", () => {
    expect(tileFor({ kv: 48 })).toEqual({ q: 32, kv: 48 });
    expect(tileFor({})).toEqual({ q: 32, kv: 16 });
  });
  test("is at most the kernel's largest", () => {
    expect(tileFor(4096)).toEqual({ q: 64, kv: 64 });
  });
});

describe("a refusal says why, for each row", () => {
  test.each<[string, Partial<KernelRow>, string]>([
    ["a feature that the device lacks", { needs: ["simd", "threads"] }, "needs threads, which the device lacks"],
    ["a dtype that the kernel lacks", { dtypes: ["float16"] }, "does not take float32; it takes float16"],
    ["a head dim below the kernel's", { headDim: { min: 65, max: 128 } }, "takes head dims 65 to 128, not 64"],
    ["a head dim above the kernel's", { headDim: { min: 1, max: 32 } }, "takes head dims 1 to 32, not 64"],
    ["a step that the kernel lacks", { steps: ["scale", "softcap"] }, "does not apply visibility"],
    ["no steps at all", { steps: undefined }, "does not apply scale"],
    [
      "a tile beyond the device's fast memory",
      { sharedBytes: (_, tile) => tile.q * tile.kv * 100 },
      "a tile takes 51200 bytes of fast memory; the device has 49152",
    ],
    [
      "workspace beyond a buffer of the device",
      { workspaceBytes: () => 2 ** 20 + 1 },
      "needs 1048577 bytes of workspace; a buffer holds 1048576",
    ],
  ])("%s", (_, change, reason) => {
    expect(reasonsOf(plan(attention, device, [{ ...row, ...change }]))).toEqual([reason]);
  });

  test("a head dim beyond the device's", () => {
    const reason = "takes head dims 1 to 32, not 64";
    expect(reasonsOf(plan(attention, { ...device, maxHeadDim: 32 }, [row]))).toEqual([reason]);
    expect(reasonsOf(plan(attention, { ...device, maxHeadDim: 32 }, [{ ...row, headDim: undefined }]))).toEqual([
      reason,
    ]);
  });

  test("Dv counts as D does", () => {
    const wide = attentionProblem({ q, k: kv, v: spec([2, 2, 70, 200]) });
    expect(reasonsOf(plan(wide, device, [row]))).toEqual(["takes head dims 1 to 128, not 200"]);
  });

  test("a dtype that the device lacks, of the inputs or of the results", () => {
    const rows = [{ ...row, op: "cast" as const, dtypes: ["float32", "bfloat16"] as const }];
    expect(reasonsOf(plan(cast, device, rows))).toEqual(["the device does not take bfloat16"]);
    expect(reasonsOf(plan({ ...cast, dtype: "float8e4m3" }, device, rows))).toEqual([
      "does not take float8e4m3; it takes float32, bfloat16",
    ]);
  });

  test("no row for the operation", () => {
    expect(plan(linear, device, [row])).toEqual({
      ok: false,
      problem: linear,
      reasons: [{ kernel: "linear", reason: "the kernel table has no row for it" }],
    });
  });

  test("as an error, it is FA_UNSUPPORTED and lists every row's reason", () => {
    const refused = plan(attention, device, [
      { ...row, id: "a", needs: ["threads"] },
      { ...row, id: "b", dtypes: ["float16"] },
    ]);
    const error = refusalError("attention", "wasm", refused as Refusal);
    expect(error.code).toBe("FA_UNSUPPORTED");
    expect(error.message).toBe(
      "attention: back end wasm must have a kernel for the problem; got none: a needs threads, which the device lacks; " +
        "b does not take float32; it takes float16. Use another back end or change the problem.",
    );
  });
});

describe("describePlan", () => {
  const described = (problem: Parameters<typeof plan>[0]): string => {
    const planned = plan(problem, { ...device, dtypes: ["float32", "bfloat16"] }, [
      { ...row, op: problem.op, dtypes: ["float32", "bfloat16"] },
    ]);
    return planned.ok ? describePlan(planned) : "";
  };

  test("prints the problem, its scores, the kernel, tile, grid and workspace", () => {
    expect(described(attention)).toBe(
      [
        "attention B=2 H=4 Hkv=2 Sq=100 Skv=70 D=64 Dv=64 float32 bhsd",
        "scores     scale(0.125), visibility(j <= i - 30)",
        "kernel     plain",
        "tile       32 x 16",
        "grid       4 x 4 x 2",
        "workspace  0 bytes",
      ].join("\n"),
    );
  });

  test("prints linear with its split, and cast", () => {
    expect(described(linear)).toContain("linear [100, 32] x [96, 32]^T float32, split 32 + 64\n");
    expect(described({ ...linear, split: [96] })).toContain("linear [100, 32] x [96, 32]^T float32\n");
    expect(described(cast)).toContain("cast 1000 elements, float32 to bfloat16\n");
  });

  test("prints into how many pieces the keys are split", () => {
    const planned = plan(attention, device, [row]) as Plan;
    expect(describePlan({ ...planned, splits: 2 })).toContain("grid       4 x 4 x 2, keys split in 2\n");
  });
});
