import {
  attentionProblem,
  bytesPerElement,
  decode,
  encode,
  roundTo,
  step,
  type AttentionOptionsOf,
  type AttentionProblem,
  type AttentionSizes,
  type DType,
  type FloatDType,
  type TensorSpec,
} from "@fa/core";
import { compare } from "@fa/conformance";
import { naiveAttention, naiveAttentionBackward, type AttentionData } from "@fa/core/reference";
import { beforeAll, describe, expect, test } from "vitest";
import { BACKWARD } from "../src/kernels/backward.ts";
import type { DeviceLimits } from "../src/kernels/row.ts";
import { limitsOf, runPasses, softwareDevice } from "./passes.ts";
import { planOf } from "./problems.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await softwareDevice();
});

/** Options with the tensors' shapes in their places. */
interface Asked extends Omit<AttentionOptionsOf<TensorSpec>, "bias" | "mask" | "alibiSlopes" | "sinks"> {
  readonly bias?: readonly number[];
  readonly mask?: readonly number[];
  readonly alibiSlopes?: readonly number[];
  readonly sinks?: boolean;
}

interface Case {
  readonly sizes?: Partial<AttentionSizes>;
  readonly options?: Asked;
  readonly dtype?: FloatDType;
  /** Of bias, slopes and sinks. */
  readonly optionDType?: FloatDType;
}

function problemOf({ sizes, options = {}, dtype = "float32", optionDType = "float32" }: Case): AttentionProblem {
  const { B = 2, H = 2, Hkv = H, Sq = 33, Skv = 70, D = 24, Dv = D } = sizes ?? {};
  const tensor = (heads: number, length: number, dim: number): TensorSpec => ({
    shape: options.layout === "bshd" ? [B, length, heads, dim] : [B, heads, length, dim],
    dtype,
  });
  const { bias, mask, alibiSlopes, sinks, ...plain } = options;
  const spec = (shape: readonly number[] | undefined, of: DType) => shape && { shape, dtype: of };
  return attentionProblem(
    { q: tensor(H, Sq, D), k: tensor(Hkv, Skv, D), v: tensor(Hkv, Skv, Dv) },
    {
      ...plain,
      bias: spec(bias, optionDType),
      mask: spec(mask, "bool"),
      alibiSlopes: spec(alibiSlopes, optionDType),
      sinks: sinks ? { shape: [H], dtype: optionDType } : undefined,
    },
    "attentionBackward",
  );
}

function numbers(dtype: FloatDType, elements: number, seed: number): Float64Array {
  return Float64Array.from({ length: elements }, (_, n) => roundTo(dtype, 1.2 * Math.sin((n + 1) * (seed + 0.37))));
}

const elementsOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** Runs the row on what the definition gives as out and lse, and compares each gradient with the definition in float64. */
async function check(c: Case, limits: DeviceLimits = limitsOf(device)) {
  const problem = problemOf(c);
  const { B, H, Hkv, Sq, Skv, D, Dv, dtype, resultDType, program } = problem;
  const [bias, alibi, sinks] = [step(program, "bias"), step(program, "alibi"), step(program, "sinks")];
  const maskShape = step(program, "visibility")?.mask?.shape;
  const data: AttentionData = {
    q: numbers(dtype, B * H * Sq * D, 1),
    k: numbers(dtype, B * Hkv * Skv * D, 2),
    v: numbers(dtype, B * Hkv * Skv * Dv, 3),
    bias: bias && numbers(bias.dtype, elementsOf(bias.operand.shape), 4),
    mask:
      maskShape && Uint8Array.from({ length: elementsOf(maskShape) }, (_, n) => (Math.sin(n * 12.9) > -0.2 ? 1 : 0)),
    alibiSlopes: alibi && numbers(alibi.dtype, alibi.perBatch ? B * H : H, 5).map((x) => roundTo(alibi.dtype, x / 16)),
    sinks: sinks && numbers(sinks.dtype, H, 6),
  };
  const round = (x: number): number => roundTo(resultDType, x);
  const dout = numbers(resultDType, B * H * Sq * Dv, 7);
  const { out, lse } = naiveAttention(problem, data);
  const exact = naiveAttentionBackward(problem, data, dout);
  const rounded = resultDType === "float32" ? undefined : naiveAttentionBackward(problem, data, dout, round);

  const plan = planOf(BACKWARD, problem);
  const contents: Record<string, Uint8Array> = {
    q: encode(dtype, data.q),
    k: encode(dtype, data.k),
    v: encode(dtype, data.v),
    dout: encode(resultDType, dout),
    out: encode(resultDType, out),
    lse: encode("float32", lse),
    workspace: new Uint8Array(plan.workspaceBytes).fill(0xff),
    ...(bias && { bias: encode(bias.dtype, data.bias!) }),
    ...(maskShape && { mask: data.mask! }),
    ...(alibi && { alibiSlopes: encode(alibi.dtype, data.alibiSlopes!) }),
    ...(sinks && { sinks: encode(sinks.dtype, data.sinks!) }),
  };
  const dtypes: Record<string, FloatDType> = {
    dq: resultDType,
    dk: resultDType,
    dv: resultDType,
    ...(bias && { dbias: bias.dtype }),
    ...(sinks && { dsinks: sinks.dtype }),
  };
  const names = Object.keys(dtypes) as ("dq" | "dk" | "dv" | "dbias" | "dsinks")[];
  for (const name of names) {
    contents[name] = new Uint8Array(exact[name]!.length * bytesPerElement(dtypes[name])).fill(0xa5);
  }
  const passes = BACKWARD.passes(plan, limits, new Set(Object.keys(contents)));
  const got = await runPasses(device, passes, contents, names);
  for (const name of names) {
    const { ok, text } = compare(decode(dtypes[name], got[name]), {
      truth: exact[name]!,
      naive:
        rounded?.[name] ?? (dtypes[name] === "float32" ? undefined : exact[name]!.map((x) => roundTo(dtypes[name], x))),
      kind: "gradient",
      dtype: dtypes[name] === "float32" ? resultDType : dtypes[name],
    });
    expect(ok, `${name}: ${text}`).toBe(true);
  }
  return { passes, got };
}

const DROPOUT = { p: 0.3, seed: 20240611 };
const CASES: readonly Case[] = [
  {},
  { sizes: { B: 1, Sq: 130, Skv: 150, D: 64 }, options: { causal: true } },
  { sizes: { B: 1, Sq: 9, Skv: 21, D: 59, Dv: 256 }, options: { causal: "top-left" } },
  { sizes: { B: 1, Sq: 70, Skv: 9, D: 192, Dv: 3 }, options: { window: [20, 4] } },
  { sizes: { H: 6, Hkv: 2, D: 8 }, options: { layout: "bshd", causal: true } },
  { sizes: { D: 8 }, options: { softcap: 3, alibiSlopes: [2], sinks: true, causal: true } },
  { sizes: { D: 8 }, options: { alibiSlopes: [2, 2] } },
  { sizes: { D: 8, Sq: 100, Skv: 90 }, options: { dropout: DROPOUT, sinks: true } },
  { sizes: { D: 8 }, options: { bias: [2, 2, 33, 70], mask: [2, 1, 33, 70], alibiSlopes: [2], sinks: true } },
  { sizes: { D: 8, Sq: 66 }, options: { bias: [1, 2, 66, 70], softcap: 4, dropout: DROPOUT } },
  { sizes: { D: 8, Sq: 66, Skv: 130 }, options: { bias: [2, 1, 1, 130], causal: true } },
  { sizes: { D: 8, Sq: 66, Skv: 130 }, options: { bias: [1, 1, 66, 1], mask: [1, 1, 1, 130] } },
  { sizes: { D: 8, Sq: 66, Skv: 130 }, options: { bias: [1, 1, 1, 1] } },
  { sizes: { D: 8 }, options: { blockSize: { q: 7, kv: 13 }, causal: true, dropout: DROPOUT } },
  { sizes: { D: 24, Dv: 40, Sq: 70 }, dtype: "float16", options: { causal: true } },
  { sizes: { D: 5, Dv: 3, H: 4, Hkv: 2 }, dtype: "bfloat16", options: { layout: "bshd", bias: [1, 4, 33, 1] } },
  { sizes: { D: 7 }, dtype: "float8e4m3" },
  {
    sizes: { D: 8, H: 3 },
    dtype: "bfloat16",
    optionDType: "bfloat16",
    options: { bias: [2, 3, 33, 70], alibiSlopes: [3], sinks: true },
  },
];

describe("backward", () => {
  test.each(CASES)("%j agrees with the definition", async (c) => {
    await check(c);
  });
});

describe("what a binding cannot show at once", () => {
  test("is taken by batches and heads", async () => {
    const options = {
      bias: [3, 4, 33, 45],
      mask: [1, 1, 33, 45],
      alibiSlopes: [4],
      sinks: true,
      causal: true,
    } as const;
    for (const layout of ["bhsd", "bshd"] as const) {
      const c: Case = { sizes: { B: 3, H: 4, Hkv: 2, D: 12, Sq: 33, Skv: 45 }, options: { ...options, layout } };
      const { passes } = await check(c, { ...limitsOf(device), maxStorageBufferBindingSize: 25600 });
      expect(passes.filter(({ shader }) => shader === "backward-delta.wgsl").length).toBeGreaterThanOrEqual(3);
    }
  });
  test("is refused where a bias that heads share sums over it", async () => {
    const problem = problemOf({ options: { bias: [1, 1, 33, 70] } });
    const limits = { ...limitsOf(device), maxStorageBufferBindingSize: 16384 };
    expect(() => BACKWARD.passes(planOf(BACKWARD, problem), limits, new Set())).toThrow(
      /bias that batches or heads share/,
    );
  });
});

test("the same bits every run", async () => {
  const c: Case = { sizes: { Sq: 150, Skv: 140, D: 16 }, options: { causal: true, dropout: DROPOUT } };
  const first = await check(c);
  expect((await check(c)).got).toEqual(first.got);
});

test("no pass takes more than a default device grants", () => {
  const options: Asked = { bias: [1, 2, 33, 70], mask: [1, 1, 1, 70], alibiSlopes: [2], sinks: true, dropout: DROPOUT };
  for (const D of [1, 64, 65, 128, 129, 192, 256]) {
    const plan = planOf(BACKWARD, problemOf({ sizes: { D }, options }));
    expect(plan.kernel.sharedBytes!(plan.problem, plan.tile)).toBeLessThanOrEqual(16384);
    for (const { buffers } of BACKWARD.passes(plan, limitsOf(device), new Set())) {
      expect(buffers.length).toBeLessThanOrEqual(8);
    }
  }
});
