import { createAttention, reference, type Attention, type Tensor } from "@fa/core";
import { Random, compare } from "@fa/conformance";
import { FlashMHA, type FlashMHAConfig } from "@fa/nn";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SOFTWARE, useDriver } from "../../../tools/software-gpu.ts";
import { webgpu } from "../src/index.ts";

const driver = useDriver("swiftshader");
const SHAPE = [2, 37, 48];
const CONFIG: FlashMHAConfig = { embedDim: 48, numHeads: 4, numHeadsKv: 2, causal: true, dropout: 0.2, seed: 5 };

/** One training step and one inference, as float32 numbers by name. */
async function step(fa: Attention, config: FlashMHAConfig): Promise<Map<string, Float32Array>> {
  const draw = new Random("FlashMHA on WebGPU");
  const tensor = (): Tensor => fa.tensor(Float32Array.from(draw.numbers(SHAPE).values), { shape: SHAPE });
  using mha = new FlashMHA(fa, config);
  using x = await fa.cast(tensor(), config.dtype ?? "float32");
  using dout = await fa.cast(tensor(), config.dtype ?? "float32");
  const inference = await mha.forward(x);
  const { out, saved } = await mha.forwardTraining(x, { seed: 11 });
  const { dx, gradients } = await mha.backward(saved, dout);
  const results = new Map<string, Float32Array>();
  for (const [name, result] of Object.entries({ inference, out, dx, ...gradients })) {
    results.set(name, Float32Array.from((await (await fa.cast(result, "float32")).data()) as Float32Array));
  }
  return results;
}

describe.skipIf(!driver.here)("FlashMHA", () => {
  let fa: Attention;
  let truth: Attention;
  beforeAll(async () => {
    fa = await createAttention({ backends: [webgpu(SOFTWARE)] });
    truth = await createAttention({ backends: [reference()] });
  });
  afterAll(async () => {
    await fa?.dispose();
    await truth?.dispose();
  });

  test.each(["float32", "bfloat16"] as const)(
    "in %s trains on WebGPU as on the reference",
    async (dtype) => {
      const config = { ...CONFIG, dtype };
      const [got, expected] = [await step(fa, config), await step(truth, config)];
      expect([...got.keys()]).toEqual([...expected.keys()]);
      for (const [name, values] of expected) {
        // In bfloat16 each of six steps rounds, in either back end.
        const far = Math.max(...values.map(Math.abs)) * 0.03;
        if (dtype === "float32") {
          const { ok, text } = compare(got.get(name)!, { truth: values, kind: "gradient", dtype });
          expect(ok, `${name}: ${text}`).toBe(true);
        } else {
          expect(Math.max(...values.map((x, n) => Math.abs(x - got.get(name)![n]))), name).toBeLessThan(far);
        }
      }
    },
    300_000,
  );
});
