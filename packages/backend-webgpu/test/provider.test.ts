import {
  createAttention,
  plan,
  reference,
  type Attention,
  type AttentionProblem,
  type Plan,
  type Tensor,
} from "@fa/core";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { SOFTWARE, useDriver } from "../../../tools/software-gpu.ts";
import { findGpu } from "../src/gpu.ts";
import { webgpu, type Tuning } from "../src/index.ts";
import type { Pass, WebgpuRow } from "../src/kernels/row.ts";
import { KERNELS } from "../src/kernels/table.ts";
import { distrust } from "../src/trust.ts";
import { tune, tuned } from "../src/tune.ts";

const driver = useDriver("swiftshader");
const shape = [1, 2, 40, 16];
const numbers = Float32Array.from({ length: 2 * 40 * 16 }, (_, n) => Math.sin(n * n));

describe.skipIf(!driver.here)("encode", () => {
  let device: GPUDevice;
  let fa: Attention;
  let q: Tensor;
  beforeAll(async () => {
    const found = await findGpu(SOFTWARE.dawn);
    if (found.reason !== undefined) throw new Error(found.reason);
    device = await (await found.gpu.requestAdapter())!.requestDevice();
    fa = await createAttention({ backends: [webgpu({ device })] });
    q = fa.tensor(numbers, { shape });
  });
  afterAll(async () => {
    await fa.dispose();
    device.destroy();
  });

  test.each([
    ["many rows", shape],
    ["few rows, whose workgroups pass on parts", [1, 2, 1, 16]],
  ])("records what attention runs, for the caller to submit: %s", async (_, rows) => {
    using few = fa.tensor(
      numbers.subarray(
        0,
        rows.reduce((size, n) => size * n),
      ),
      { shape: rows },
    );
    const before = fa.memory().currentBytes;
    const expected = await fa.attention(few, q, q, { causal: true, returnLse: true });
    const encoder = device.createCommandEncoder();
    const { out, lse } = fa.encode(encoder, few, q, q, { causal: true, returnLse: true });
    device.queue.submit([encoder.finish()]);
    expect(await out.data()).toEqual(await expected.out.data());
    expect(await lse!.data()).toEqual(await expected.lse.data());
    for (const tensor of [out, lse!, expected.out, expected.lse]) tensor.dispose();
    expect(fa.memory().currentBytes).toBe(before);
  });

  test("records several calls into one compute pass of the caller's, each behind the one before", async () => {
    const first = await fa.attention(q, q, q);
    const expected = await fa.attention(first.out, q, q);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    const { out: between } = fa.encode(pass, q, q, q);
    const { out } = fa.encode(pass, between, q, q);
    pass.end();
    device.queue.submit([encoder.finish()]);
    expect(await out.data()).toEqual(await expected.out.data());
    for (const tensor of [first.out, expected.out, between, out]) tensor.dispose();
  });

  test("uses the memory of what is disposed again, though nobody waited for it", () => {
    const create = vi.spyOn(device, "createBuffer");
    for (let n = 0; n < 20; n++) {
      const encoder = device.createCommandEncoder();
      const { out } = fa.encode(encoder, q, q, q);
      device.queue.submit([encoder.finish()]);
      out.dispose();
    }
    expect(create.mock.calls.length).toBeLessThan(3);
    create.mockRestore();
  });

  test("what was recorded runs right though a call came between that needs more state", async () => {
    using few = fa.tensor(numbers.subarray(0, 32), { shape: [1, 2, 1, 16] });
    using many = fa.empty({ shape: [8, 2, 40, 16] });
    using rows = fa.empty({ shape: [8, 2, 1, 16] });
    const expected = await fa.attention(few, q, q);
    const encoder = device.createCommandEncoder();
    const { out } = fa.encode(encoder, few, q, q);
    const { out: other } = await fa.attention(rows, many, many);
    await fa.sync();
    device.queue.submit([encoder.finish()]);
    expect(await out.data()).toEqual(await expected.out.data());
    const { out: again } = await fa.attention(few, q, q);
    expect(await again.data()).toEqual(await expected.out.data());
    for (const tensor of [out, other, again, expected.out]) tensor.dispose();
  });
  test("compiles in place what was not compiled before", () => {
    const encoder = device.createCommandEncoder();
    const { out } = fa.encode(encoder, q, q, q, { softcap: 7 });
    device.queue.submit([encoder.finish()]);
    out.dispose();
  });

  test("refuses what is no encoder, and keeps nothing", () => {
    const before = fa.memory().currentBytes;
    expect(() => fa.encode({}, q, q, q)).toThrow(expect.objectContaining({ code: "FA_TENSOR" }));
    expect(fa.memory().currentBytes).toBe(before);
  });

  test("a call of a kind that ran before costs the processor less than a millisecond", async () => {
    (await fa.attention(q, q, q)).out.dispose();
    const costs = [];
    for (let n = 0; n < 50; n++) {
      const start = performance.now();
      const { out } = await fa.attention(q, q, q);
      costs.push(performance.now() - start);
      out.dispose();
    }
    await fa.sync();
    expect(costs.toSorted((a, b) => a - b)[25]).toBeLessThan(1);
  });
});

test("wrap, native and encode say that other back ends have nothing of the kind", async () => {
  const fa = await createAttention({ backends: [reference()] });
  using q = fa.tensor(numbers, { shape });
  const refusal = expect.objectContaining({ code: "FA_UNSUPPORTED", message: expect.stringMatching(/webgpu\(\)/) });
  expect(() => fa.wrap({}, { shape })).toThrow(refusal);
  expect(() => fa.native(q)).toThrow(refusal);
  expect(() => fa.encode({}, q, q, q)).toThrow(refusal);
  await fa.dispose();
});

describe.skipIf(!driver.here)("a kernel that rests on an experiment", () => {
  const row = KERNELS.find(({ id }) => id === "forward-128")!;

  test("is trusted when its answers are right", async () => {
    const backend = await webgpu(SOFTWARE).open();
    expect(await distrust(backend, { ...row, dtypes: ["float16"] })).toBeUndefined();
    await backend.dispose();
  });

  test("is not when they are wrong, for a reason", async () => {
    // As if the device ignored causal.
    const wrong: WebgpuRow<AttentionProblem> = {
      ...row,
      id: "wrong",
      dtypes: ["float16"],
      passes: ({ problem, ...rest }: Plan<AttentionProblem>, limits, bound): readonly Pass[] => {
        const program = problem.program.filter(({ kind }) => kind !== "visibility");
        return row.passes({ ...rest, problem: { ...problem, program } }, limits, bound);
      },
    };
    const backend = await webgpu(SOFTWARE).open();
    expect(await distrust(backend, wrong)).toMatch(/^wrong: its result is off by/);
    await backend.dispose();
  });
});

describe("tuning", () => {
  const ms = { "forward-short-128": 2, "forward-64": 2, "forward-128": 1 };
  const forClass = { dtype: "float32" as const, headDim: { min: 1, max: 64 }, ms };
  // Up to 200 rows in all, which are 100 of each of two heads, and beyond.
  const choices = [
    { ...forClass, kernel: "forward-128", maxTotalRows: 200 },
    { ...forClass, kernel: "forward-short-128" },
  ];
  const capabilities = {
    dtypes: ["float32", "float16"] as const,
    maxHeadDim: 256,
    sharedBytes: 49_152,
    maxBufferBytes: 2 ** 30,
    features: [],
  };
  const kernelFor = (table: readonly WebgpuRow[], rows: number, D: number, dtype: "float32" | "float16"): string => {
    const problem = {
      op: "attention",
      B: 1,
      H: 2,
      Hkv: 2,
      Sq: rows,
      Skv: 64,
      D,
      Dv: D,
      dtype,
      resultDType: dtype,
    } as const;
    const more = { rank: 4, layout: "bhsd", program: [{ kind: "scale", scale: 1 }], blockSize: {} } as const;
    const planned = plan({ ...problem, ...more }, capabilities, table);
    return planned.ok ? planned.kernel.id : "none";
  };

  test("puts the fastest kernel of a class first for that class, and for no other", () => {
    const table = tuned(KERNELS, { device: "any", choices });
    expect(kernelFor(table, 100, 64, "float32")).toBe("forward-128");
    expect(kernelFor(table, 101, 64, "float32")).toBe("forward-short-128");
    // Beyond what the table says that it is for.
    expect(kernelFor(KERNELS, 100_000, 64, "float32")).toBe("forward-64");
    expect(kernelFor(table, 100_000, 64, "float32")).toBe("forward-short-128");
    for (const [rows, D, dtype] of [
      [64, 128, "float32"],
      [64, 64, "float16"],
      [1, 64, "float32"],
    ] as const)
      expect(kernelFor(table, rows, D, dtype)).toBe(kernelFor(KERNELS, rows, D, dtype));
  });

  test.skipIf(!driver.here)(
    "is used on the device that it was made on, and on no other",
    async () => {
      const open = async (tuning: Tuning): Promise<string> => {
        const fa = await createAttention({ backends: [webgpu({ ...SOFTWARE, tuning })] });
        const q = fa.tensor(numbers, { shape });
        const { id } = fa.plan(q, q, q).kernel;
        await fa.dispose();
        return id;
      };
      const usual = await open({ device: "another", choices: [] });
      const other = usual === "forward-128" ? "forward-256" : "forward-128";
      const backend = await webgpu(SOFTWARE).open();
      const { device, choices: made } = await tune(backend, { dtypes: ["float32"], headDims: [8], lengths: [20, 24] });
      await backend.dispose();
      const measured = { dtype: "float32", headDim: { min: 1, max: 8 } };
      expect(made).toMatchObject([
        { ...measured, maxTotalRows: 320 },
        { ...measured, maxTotalRows: undefined },
      ]);
      for (const { kernel, ms: times } of made) {
        expect(Object.keys(times)).toEqual(expect.arrayContaining(["forward-short-128", "forward-64"]));
        expect(times[kernel]).toBe(Math.min(...Object.values(times)));
      }
      const choice = {
        kernel: other,
        dtype: "float32",
        headDim: { min: 1, max: 64 },
        ms: { [usual]: 2, [other]: 1 },
      } as const;
      expect(await open({ device, choices: [choice] })).toBe(other);
      expect(await open({ device: "another", choices: [choice] })).toBe(usual);
    },
    300_000,
  );

  test("of another shape is refused", () => {
    expect(() => webgpu({ tuning: [] as never })).toThrow(/tuneWebgpu/);
  });
});
