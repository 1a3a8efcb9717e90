/**
 * The same kernels with the warps and blocks run in the other order: a missing barrier shows as another answer. And those for
 * sm_90a, where 16 bits go to them.
 */
import { cuda } from "@fa/backend-cuda";
import { describe, test } from "vitest";
import { findEmulatedCuda } from "../../../tools/emulated-cuda.ts";
import { describeConformance } from "./suite.ts";

const { path: addon, why } = findEmulatedCuda();
process.env["FA_EMULATE_ORDER"] = "reverse";
process.env["FA_EMULATED_CAPABILITY"] = "90";

if (addon === undefined) {
  describe("cuda, emulated in reverse", () => {
    test("conformance", ({ skip }) => skip(why));
  });
} else {
  const capabilities = [
    "plain",
    "causal",
    "window",
    "mask",
    "gqa",
    "nan",
    "sinks",
    "block-size",
    "linear",
    "float16",
    "bfloat16",
  ];
  await describeConformance("cuda, emulated in reverse", cuda({ addon, poison: true }), { capabilities, runs: 4 });
}
