import { wasm } from "@fa/backend-wasm";
import { reference } from "@fa/core";
import { describe, it } from "vitest";
import { oracleFolder } from "./oracle.ts";
import { describeConformance } from "./suite.ts";

/** S <= 18 fits one tile of the usual size: small blocks are what exercises the online rescale. */
const BLOCKS = [undefined, 1, 2, 4];
const onnx = oracleFolder("onnx");
const torch = oracleFolder("torch");

if (onnx && torch) {
  for (const provider of [reference(), wasm()]) {
    await describeConformance(`PyTorch's cases on ${provider.name}`, provider, { torch, capabilities: ["torch"] });
    for (const blockSize of BLOCKS) {
      const title = `ONNX's node tests on ${provider.name}, block ${blockSize ?? "as planned"}`;
      await describeConformance(title, provider, { onnx, blockSize, capabilities: ["onnx"] });
    }
  }
} else {
  describe("PyTorch's and ONNX's cases", () => {
    it.skip("their folder ../shared/oracle is not beside this checkout (or set FA_ORACLE)", () => {});
  });
}
