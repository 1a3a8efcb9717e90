/** The same kernels with the warps and blocks run in the other order: a missing barrier shows as another answer. */
import { cuda } from "@fa/backend-cuda";
import { describe, test } from "vitest";
import { findEmulatedCuda } from "../../../tools/emulated-cuda.ts";
import { describeConformance } from "./suite.ts";

const { path: addon, why } = findEmulatedCuda();
process.env["FA_EMULATE_ORDER"] = "reverse";

if (addon === undefined) {
  describe("cuda, emulated in reverse", () => {
    test("conformance", ({ skip }) => skip(why));
  });
} else {
  const capabilities = ["plain", "causal", "window", "mask", "gqa", "nan", "sinks", "block-size", "linear"];
  await describeConformance("cuda, emulated in reverse", cuda({ addon, poison: true }), { capabilities, runs: 4 });
}
