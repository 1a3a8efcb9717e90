import type { BackendProvider } from "@fa/core";
import { webgpu } from "@fa/backend-webgpu";
import { describe, it } from "vitest";
import { playedRow } from "../../../tools/played-matrix.ts";
import { SOFTWARE, useDriver } from "../../../tools/software-gpu.ts";
import { describeConformance } from "./suite.ts";

/** `webgpu`, and float16 attention by the matrix kernel whose matrices are played: see played-matrix.ts. */
function played(float16Scores: boolean): BackendProvider {
  const provider = webgpu(SOFTWARE);
  const tuning = { subgroups: 2, rowTiles: 2, unroll: 1, apart: false, float16Scores };
  const row = { ...playedRow("matrix-played", 128, tuning), needs: [] };
  return {
    ...provider,
    async open() {
      const backend = await provider.open();
      return Object.defineProperty(backend, "kernels", { value: [row, ...backend.kernels] });
    },
  };
}

// lavapipe compiles the kernel for half a minute: one check each, with masks, sinks, tiles of all kinds and large logits.
const only = "float16 golden huge_logits_causal_sinks";
const driver = useDriver("lavapipe", { subgroup: 16 });
if (driver.here) {
  await describeConformance("Matrix kernels, played", played(false), { only, timeoutMs: 900_000 });
  await describeConformance("Matrix kernels with scores in float16, played", played(true), {
    only,
    timeoutMs: 900_000,
  });
} else {
  describe("Matrix kernels, played", () => {
    it.skip(driver.why, () => {});
  });
}
