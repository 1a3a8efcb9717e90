import { createAttention, type Problem } from "@fa/core";
import { describe, expect, test } from "vitest";
import { BLOCK_ROWS, Calibration, TUNING, trialOn, type BlockRows } from "../src/calibration.ts";
import { createModule, wasm } from "../src/index.ts";
import { compute, LINEAR_CASES, randomCase, type Tensors } from "./problems.ts";
import { openVariant, variants } from "./variants.ts";

type Sizes = Parameters<typeof compute>[3];

/** So many long calls after each other. */
function run(calibration: Calibration, calls: number, trial: (rows: BlockRows) => number | undefined): void {
  for (let n = 0; n < calls; n++) calibration.after(1000, trial);
}

describe("a calibration", () => {
  test("takes the other block when it is faster by more than the margin", () => {
    const calibration = new Calibration(6);
    run(calibration, 1 + TUNING.steadyRounds, (rows) => (rows === 4 ? 0.1 : 0.2));
    expect(calibration).toMatchObject({ rows: 4, settled: true });
    expect(calibration.outcome).toBe("4 x 8 blocks, 94 GFLOP/s (6 x 8: 47)");
  });

  test("keeps the first one when the other is hardly faster", () => {
    const calibration = new Calibration(6);
    run(calibration, 1 + TUNING.steadyRounds, (rows) => (rows === 4 ? 0.1 : 0.102));
    expect(calibration).toMatchObject({ rows: 6, settled: true });
  });

  test("is not settled while the engine still makes one of them faster", () => {
    const calibration = new Calibration(6);
    let ms = 10;
    run(calibration, 30, (rows) => (rows === 4 ? (ms *= 0.9) : 1));
    expect(calibration).toMatchObject({ rows: 6, settled: false });
    run(calibration, TUNING.steadyRounds, (rows) => (rows === 4 ? ms : 1));
    expect(calibration).toMatchObject({ rows: 4, settled: true });
  });

  test("makes no trial after a short call, and takes no more than its share of the time", () => {
    const calibration = new Calibration(6);
    let trials = 0;
    const trial = () => (trials++, 0.1);
    calibration.after(TUNING.firstRoundMs / TUNING.share - 1, trial);
    expect(trials).toBe(0);
    for (let n = 0; n < 10; n++) calibration.after(1.1, trial);
    // The first round was allowed, and after it 0.2 ms are for each 4.
    expect(trials).toBe(2 * 3);
  });

  test("goes on later where there is no memory for a trial", () => {
    const calibration = new Calibration(6);
    run(calibration, 50, () => undefined);
    expect(calibration.settled).toBe(false);
    run(calibration, 1 + TUNING.steadyRounds, () => 1);
    expect(calibration.settled).toBe(true);
  });

  test("a trial takes time, and gives its memory back", async () => {
    const module = await createModule();
    for (const rows of BLOCK_ROWS) expect(trialOn(module)(rows)).toBeGreaterThan(0);
    expect(module.arena.currentBytes).toBe(0);
  });
});

describe.each(variants)("%s", async (variant) => {
  const [six, four] = await Promise.all(BLOCK_ROWS.map((rows) => openVariant(variant, rows)));

  async function expectSame(label: string, problem: Problem, inputs: Tensors, sizes: Sizes) {
    const want = await compute(six, problem, inputs, sizes);
    const got = await compute(four, problem, inputs, sizes);
    for (const name of Object.keys(sizes)) {
      const differs = want[name].findIndex((x, n) => !Object.is(x, got[name][n]));
      expect(differs, `${label} ${name}`).toBe(-1);
    }
    return want;
  }

  test("both blocks give the same bits, forward and backward, on random problems", async () => {
    const sizes = (lengths: Readonly<Record<string, number>>): Sizes =>
      Object.fromEntries(Object.entries(lengths).map(([name, length]) => [name, { dtype: "float32", length }]));
    for (let seed = 1; seed <= 60; seed++) {
      const { forward, backward, inputs, dout } = randomCase(seed, seed % 3 === 0);
      const lse = forward.B * forward.H * forward.Sq;
      const results = await expectSame(`seed ${seed}`, forward, inputs, sizes({ out: dout.length, lse }));
      const gradients: Record<string, number> = {};
      for (const name of ["q", "k", "v", "bias", "sinks"])
        if (inputs[name]) gradients[`d${name}`] = inputs[name].values.length;
      const given: Tensors = { ...inputs, dout: { dtype: "float32", values: dout } };
      for (const name of ["out", "lse"]) given[name] = { dtype: "float32", values: results[name] };
      await expectSame(`seed ${seed}`, backward, given, sizes(gradients));
    }
  });

  test("both blocks give the same bits, linear and its backward", async () => {
    for (const { label, forward, backward, inputs, withBias, results, gradients } of LINEAR_CASES) {
      await expectSame(label, forward, withBias, results);
      await expectSame(label, backward, inputs, gradients);
    }
  });
});

test("blockRows: the device and the report say which blocks are used", async () => {
  const fa = await createAttention({ backends: [wasm({ blockRows: 4, threads: 1 })] });
  expect(fa.backend.device).toMatch(/one thread, 4 x 8 blocks$/);
  expect(fa.report[0].reason).toMatch(/; 4 x 8 blocks, as asked for$/);
  await fa.dispose();
});

test("after enough calls the device tells both rates", async () => {
  const fa = await createAttention({ backends: [wasm({ threads: 1 })] });
  const q = fa.tensor(new Float32Array(8 * 512 * 64), { shape: [1, 8, 512, 64], dtype: "float32" });
  for (let n = 0; n < 400 && !fa.backend.device.includes("GFLOP/s"); n++) {
    const { out } = await fa.attention(q, q, q);
    out.dispose();
  }
  expect(fa.backend.device).toMatch(/one thread, [46] x 8 blocks, \d+ GFLOP\/s \([46] x 8: \d+\)$/);
  await fa.dispose();
});

test.each([5, 8, "6", null])("blockRows: %s is refused", (blockRows) => {
  expect(() => wasm({ blockRows: blockRows as never })).toThrow(expect.objectContaining({ code: "FA_OPTION" }));
});
