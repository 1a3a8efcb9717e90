import { attentionProblem, plan, type AttentionOptionsOf, type AttentionProblem, type TensorSpec } from "@fa/core";
import { beforeAll, describe, expect, test } from "vitest";
import { MATRIX } from "../src/kernels/matrix.ts";
import { KERNELS } from "../src/kernels/table.ts";
import { limitsOf, nullDevice, shaderText } from "./passes.ts";
import { planOf } from "./problems.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await nullDevice();
});

interface Sizes {
  readonly D: number;
  readonly Dv?: number;
  readonly layout?: "bhsd" | "bshd";
}

function problemOf(
  { D, Dv = D, layout = "bhsd" }: Sizes,
  options: AttentionOptionsOf<TensorSpec> = {},
): AttentionProblem {
  const [B, H, Hkv, S] = [2, 4, 2, 300];
  const spec = (heads: number, dim: number): TensorSpec => ({
    dtype: "float16",
    shape: layout === "bhsd" ? [B, heads, S, dim] : [B, S, heads, dim],
  });
  return attentionProblem({ q: spec(H, D), k: spec(Hkv, D), v: spec(Hkv, Dv) }, { layout, ...options }, "attention");
}

const SIZES: readonly Sizes[] = [
  { D: 8 },
  { D: 16, Dv: 64 },
  { D: 40, Dv: 24 },
  { D: 64, layout: "bshd" },
  { D: 72, Dv: 80 },
  { D: 80 },
  { D: 96, Dv: 128 },
  { D: 128 },
  { D: 160, layout: "bshd" },
  { D: 192, Dv: 128 },
  { D: 256 },
];
const OPTIONS: readonly AttentionOptionsOf<TensorSpec>[] = [
  {},
  { causal: true },
  { window: [40, 3], sinks: { dtype: "float16", shape: [4] } },
];

/** What a row says a tile takes, against what the shader declares: each variable is filled up to 16 bytes. */
function declaredBytes(code: string): number {
  const sizes: Readonly<Record<string, number>> = { vec4u: 16, vec4f: 16, "atomic<u32>": 4 };
  let bytes = 0;
  for (const [, type] of code.matchAll(/var<workgroup> \w+: (.*);/g)) {
    const [, element, count] = /^array<(.*), (\d+)>$/.exec(type) ?? [undefined, type, "1"];
    bytes += Math.ceil(((sizes[element] ?? 4) * Number(count)) / 16) * 16;
  }
  return bytes;
}

describe.each(MATRIX)("$id", (row) => {
  test("is valid WGSL for every head dim, layout and option that it takes, and fits the memory it claims", async () => {
    let valid = 0;
    for (const sizes of SIZES) {
      if (Math.max(sizes.D, sizes.Dv ?? 0) > row.headDim!.max) continue;
      for (const options of OPTIONS) {
        for (const bound of [["out"], ["out", "lse"]]) {
          const problem = problemOf(sizes, options);
          const made = planOf(row, problem);
          for (const pass of row.passes(made, limitsOf(device), new Set(bound))) {
            const code = shaderText(pass.shader, pass.params);
            // A pipeline would take more workgroup memory than a device without a GPU has.
            const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
            expect(messages.filter(({ type }) => type === "error").map(({ message }) => message)).toEqual([]);
            expect(declaredBytes(code)).toBe(row.sharedBytes!(problem, made.tile));
            expect(row.sharedBytes!(problem, made.tile)).toBeLessThanOrEqual(48 * 1024);
            valid++;
          }
        }
      }
    }
    expect(valid).toBeGreaterThan(0);
  }, 180_000);

  test("lengths are no part of what is compiled", () => {
    const params = (S: number): unknown => {
      const spec = { dtype: "float16", shape: [1, 2, S, 64] } as const;
      const problem = attentionProblem({ q: spec, k: spec, v: spec }, { causal: true }, "attention");
      return row.passes(planOf(row, problem), limitsOf(device), new Set(["out"]))[0].params;
    };
    expect(params(100)).toEqual(params(4096));
  });
});

describe("who takes float16", () => {
  const capabilities = {
    dtypes: ["float32", "float16"] as const,
    maxHeadDim: 256,
    sharedBytes: 48 * 1024,
    maxBufferBytes: 2 ** 30,
    features: ["subgroups", "shader-f16", "subgroup-matrix"],
  };
  const kernelOf = (problem: AttentionProblem, features = capabilities.features): string => {
    const made = plan(problem, { ...capabilities, features }, KERNELS);
    return made.ok ? made.kernel.id : "none";
  };

  test("the row of its head dim, where the device has subgroup matrices", () => {
    expect(kernelOf(problemOf({ D: 64 }))).toBe("matrix-64");
    expect(kernelOf(problemOf({ D: 80 }, { causal: true }))).toBe("matrix-128");
    expect(kernelOf(problemOf({ D: 192 }))).toBe("matrix-256");
    expect(kernelOf(problemOf({ D: 64 }), ["subgroups", "shader-f16"])).not.toContain("matrix");
  });

  test("with scores in float16 only where they were asked for", () => {
    const features = [...capabilities.features, "float16-scores"];
    expect(kernelOf(problemOf({ D: 64 }), features)).toBe("matrix-float16-scores-64");
    expect(kernelOf(problemOf({ D: 128 }), features)).toBe("matrix-float16-scores-128");
  });

  test("another, for what the matrices do not take", () => {
    expect(kernelOf(problemOf({ D: 60 }))).not.toContain("matrix");
    expect(kernelOf(problemOf({ D: 64 }, { softcap: 5 }))).not.toContain("matrix");
    expect(kernelOf(problemOf({ D: 64 }, { mask: { dtype: "bool", shape: [1, 1, 1, 300] } }))).not.toContain("matrix");
    expect(kernelOf(problemOf({ D: 64 }, { dropout: { p: 0.5, seed: 1 } }))).not.toContain("matrix");
  });
});
