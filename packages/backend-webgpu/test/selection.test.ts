import { wasm } from "@fa/backend-wasm";
import { createAttention, reference } from "@fa/core";
import { describe, expect, test } from "vitest";
import { SOFTWARE, useDriver } from "../../../tools/software-gpu.ts";
import { webgpu } from "../src/index.ts";

const driver = useDriver("swiftshader");

describe.skipIf(!driver.here)("select: measured, on a machine whose GPU is a CPU", () => {
  const measured = { backends: [webgpu(SOFTWARE), wasm(), reference()], select: "measured" } as const;

  test("takes wasm before the software adapter, and says how fast each was", async () => {
    await using fa = await createAttention(measured);
    expect(fa.report).toMatchObject([
      { name: "webgpu", ok: true, taken: false, ms: expect.any(Number) },
      { name: "wasm", ok: true, taken: true, reason: expect.stringMatching(/^the fastest: [\d.]+ ms$/) },
      { name: "reference", ok: true, taken: false, ms: expect.any(Number) },
    ]);
  });

  test("takes it neither for the smallest problem nor for a large one", async () => {
    await using small = await createAttention({ ...measured, problem: { H: 1, Sq: 1, Skv: 1, D: 1 } });
    await using large = await createAttention({ ...measured, problem: { H: 4, Sq: 512, D: 64 } });
    expect(["wasm", "reference"]).toContain(small.backend.name);
    expect(large.backend.name).toBe("wasm");
  });
});
