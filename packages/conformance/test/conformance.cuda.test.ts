/** CUDA kernels, played on the CPU by the same sources (packages/backend-cuda/native/emulate). */
import { cuda } from "@fa/backend-cuda";
import { describe, test } from "vitest";
import { findEmulatedCuda } from "../../../tools/emulated-cuda.ts";
import { describeConformance } from "./suite.ts";

const { path: addon, why } = findEmulatedCuda();

if (addon === undefined) {
  describe("cuda, emulated", () => {
    test("conformance", ({ skip }) => skip(why));
  });
} else {
  await describeConformance("cuda, emulated", cuda({ addon, poison: true }));
}
