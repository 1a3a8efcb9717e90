import { attentionProblem, FLOAT_DTYPES, plan, type FloatDType, type TensorSpec } from "@fa/core";
import { expect, test } from "vitest";
import { KERNELS } from "../src/kernels/table.ts";

/** The default limits, without a feature. */
const portable = {
  dtypes: FLOAT_DTYPES,
  maxHeadDim: 256,
  sharedBytes: 16_384,
  maxBufferBytes: 2 ** 28,
  features: [],
};

/** The row for B heads of S rows and keys. */
function rowFor(
  B: number,
  S: number,
  D: number,
  dtype: FloatDType = "float32",
  masked = false,
  capabilities = portable,
): string {
  const spec: TensorSpec = { shape: [B, 1, S, D], dtype };
  const mask: TensorSpec = { shape: [1, 1, S, S], dtype: "bool" };
  const made = plan(attentionProblem({ q: spec, k: spec, v: spec }, masked ? { mask } : {}), capabilities, KERNELS);
  return made.ok ? made.kernel.id : "none";
}

test("problems of up to 8192 query rows in all take small tiles, larger ones large tiles", () => {
  expect(rowFor(64, 128, 64)).toBe("forward-short-128");
  expect(rowFor(65, 128, 64)).toBe("forward-64");
  expect(rowFor(16, 512, 128)).toBe("forward-short-128");
  expect(rowFor(16, 513, 128)).toBe("forward-128");
  expect(rowFor(1, 8192, 129)).toBe("forward-short-256");
  expect(rowFor(1, 8193, 129)).toBe("forward-256");
});

test("up to 16384 rows of head dims up to 64 take medium tiles where these have room", () => {
  const roomy = { ...portable, sharedBytes: 32_768 };
  expect(rowFor(64, 128, 64, "float32", true, roomy)).toBe("forward-short-128");
  expect(rowFor(65, 128, 64, "float32", true, roomy)).toBe("forward-medium-64");
  expect(rowFor(16, 1024, 64, "float16", false, roomy)).toBe("forward-medium-64");
  expect(rowFor(16, 1025, 64, "float32", false, roomy)).toBe("forward-64");
  expect(rowFor(16, 1024, 65, "float32", false, roomy)).toBe("forward-128");
  expect(rowFor(16, 1024, 64)).toBe("forward-64");
});

test("few rows a key head decode on subgroups where these have numbers, and by workgroup memory elsewhere", () => {
  let sharedBytes = 49_152;
  const rowOf = (H: number, Sq: number, D: number, ...features: string[]): string => {
    const q: TensorSpec = { shape: [1, H, Sq, D], dtype: "float16" };
    const k: TensorSpec = { shape: [1, 2, 4096, D], dtype: "float16" };
    const made = plan(attentionProblem({ q, k, v: k }), { ...portable, sharedBytes, features }, KERNELS);
    return made.ok ? made.kernel.id : "none";
  };
  expect(rowOf(8, 1, 128, "subgroups", "subgroup-id")).toBe("decode-subgroups-16");
  expect(rowOf(2, 4, 37, "subgroups", "subgroup-id")).toBe("decode-subgroups-16");
  expect(rowOf(8, 1, 128, "subgroups")).toBe("decode");
  expect(rowOf(8, 2, 128, "subgroups", "subgroup-id")).toBe("decode-subgroups-16");
  // 16 rows a key head, and 20.
  expect(rowOf(8, 4, 128, "subgroups", "subgroup-id")).toBe("decode-subgroups-16");
  expect(rowOf(8, 5, 128, "subgroups", "subgroup-id")).toBe("forward-short-128");
  expect(rowOf(8, 1, 129, "subgroups", "subgroup-id")).toBe("decode");
  sharedBytes = 32_768;
  expect(rowOf(8, 1, 128, "subgroups", "subgroup-id")).toBe("decode-subgroups-8");
  sharedBytes = 16_384;
  expect(rowOf(8, 1, 128, "subgroups", "subgroup-id")).toBe("decode");
});

test("a mask has room beside small tiles, and beside large ones", () => {
  expect(rowFor(1, 100, 64, "float32", true)).toBe("forward-short-128");
  expect(rowFor(1, 100, 256, "float32", true)).toBe("forward-short-256");
  expect(rowFor(100, 100, 64, "float32", true)).toBe("forward-64");
  expect(rowFor(100, 100, 256, "float32", true)).toBe("forward-256");
});

test("every dtype and head dim has a row of either kind within the default limits", () => {
  for (const dtype of FLOAT_DTYPES) {
    for (let D = 1; D <= 256; D++) {
      expect(rowFor(1, 100, D, dtype)).toMatch(/^forward-short-/);
      expect(rowFor(100, 100, D, dtype)).toMatch(/^forward-\d/);
    }
  }
});
