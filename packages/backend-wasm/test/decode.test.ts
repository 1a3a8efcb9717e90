import {
  attentionProblem,
  bytesPerElement,
  decode,
  encode,
  plan,
  type AttentionOptionsOf,
  type AttentionProblem,
  type Backend,
  type DeviceBuffer,
  type FloatDType,
  type TensorSpec,
} from "@fa/core";
import { describe, expect, test } from "vitest";
import { openVariant, random, variants } from "./variants.ts";

/** A problem, planned as it would be or on the row for any number of query rows. */
function planned(backend: Backend, problem: AttentionProblem, general = false) {
  const rows = backend.kernels.filter(({ maxRows }) => !general || maxRows === undefined);
  const made = plan(problem, backend.capabilities, rows);
  if (!made.ok) throw new Error(made.reasons.map(({ reason }) => reason).join("; "));
  return made;
}

interface Shape {
  readonly H: number;
  readonly Hkv: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly Dv: number;
  readonly dtype: FloatDType;
}

const specsOf = ({ H, Hkv, Sq, Skv, D, Dv, dtype }: Shape) => ({
  q: { shape: [2, H, Sq, D], dtype },
  k: { shape: [2, Hkv, Skv, D], dtype },
  v: { shape: [2, Hkv, Skv, Dv], dtype },
});

describe.each(variants)("%s", async (variant) => {
  const backend = await openVariant(variant);

  test.each([
    [2, 1, "decode"],
    [8, 4, "decode"],
    [32, 1, "decode"],
    [34, 1, "forward"],
    [2, 17, "forward"],
  ])("H=%i Hkv=2 Sq=%i is planned as %s", (H, Sq, kind) => {
    const problem = attentionProblem(specsOf({ H, Hkv: 2, Sq, Skv: 300, D: 8, Dv: 8, dtype: "float32" }));
    expect(planned(backend, problem).kernel.id).toBe(`${kind}-${variant}`);
  });

  /** out and lse of a problem on both rows, from the same random tensors. */
  async function both(shape: Shape, options: AttentionOptionsOf<TensorSpec>, seed: number, size = 1) {
    const { q, k, v } = specsOf(shape);
    const problem = attentionProblem({ q, k, v }, options);
    const { bias, mask, alibiSlopes, sinks } = options;
    const bindings: Record<string, DeviceBuffer> = {};
    const next = random(seed);
    for (const [name, spec] of Object.entries({ q, k, v, bias, mask, alibiSlopes, sinks })) {
      if (!spec) continue;
      const values = Float64Array.from({ length: spec.shape.reduce((a, b) => a * b, 1) }, next);
      if (spec.dtype === "bool") values.forEach((x, n) => (values[n] = x > -0.2 ? 1 : 0));
      else if (name === "q") values.forEach((x, n) => (values[n] = x * size));
      else if (name === "alibiSlopes") values.forEach((x, n) => (values[n] = x / 20));
      // A key that causal hides from all rows but the last of each head, and that must not reach them.
      else if (name === "v" && options.causal) values[values.length - 1] = NaN;
      const bytes = encode(spec.dtype, values);
      bindings[name] = backend.allocate(bytes.length, bytes);
    }
    const elements = 2 * shape.H * shape.Sq;
    bindings.out = backend.allocate(elements * shape.Dv * bytesPerElement(shape.dtype));
    bindings.lse = backend.allocate(elements * 4);
    const results: Float64Array[] = [];
    for (const general of [false, true]) {
      const made = planned(backend, problem, general);
      expect(made.kernel.id).toBe(`${general ? "forward" : "decode"}-${variant}`);
      await backend.run(made, bindings);
      const [out, lse] = [await backend.read(bindings.out), await backend.read(bindings.lse)];
      results.push(Float64Array.of(...decode(shape.dtype, out), ...decode("float32", lse)));
    }
    for (const buffer of Object.values(bindings)) backend.free(buffer);
    return results;
  }

  function expectSame([got, want]: Float64Array[], tolerance: number, label: string): void {
    const wrong = [...want.keys()].filter((n) => {
      const [x, y] = [want[n], got[n]];
      return !(Object.is(x, y) || Math.abs(x - y) <= tolerance * (1 + Math.abs(x)));
    });
    expect(`${label}: ${wrong.map((n) => `[${n}] is ${got[n]} instead of ${want[n]}`).join()}`).toBe(`${label}: `);
  }

  const programs: readonly ((shape: Shape) => AttentionOptionsOf<TensorSpec>)[] = [
    () => ({}),
    () => ({ causal: true, blockSize: { kv: 5 } }),
    ({ H, Sq, Skv }) => ({
      mask: { shape: [2, H, Sq, Skv], dtype: "bool" },
      bias: { shape: [1, H, Sq, Skv], dtype: "float32" },
      softcap: 3,
    }),
    ({ H }) => ({
      alibiSlopes: { shape: [2, H], dtype: "float32" },
      sinks: { shape: [H], dtype: "float32" },
      window: [40, 2],
      dropout: { p: 0.3, seed: 5 },
    }),
  ];

  test("every number of rows, head dim, dtype and score program gives what the general row gives", async () => {
    let seed = 0;
    for (const dtype of ["float32", "float16", "bfloat16"] as const) {
      const tolerance = { float32: 2e-6, float16: 1e-3, bfloat16: 8e-3 }[dtype];
      for (const [H, Hkv, Sq] of [
        [1, 1, 1],
        [4, 2, 1],
        [3, 1, 1],
        [8, 2, 4],
        [2, 2, 7],
        [15, 1, 1],
      ]) {
        for (const [D, Dv] of [
          [64, 64],
          [20, 5],
          [3, 40],
          [128, 24],
        ]) {
          const shape = { H, Hkv, Sq, Skv: 203, D, Dv, dtype };
          for (const [n, options] of programs.entries()) {
            expectSame(await both(shape, options(shape), ++seed), tolerance, `${JSON.stringify(shape)}, program ${n}`);
          }
        }
      }
    }
  });

  test("logits of hundreds keep their digits", async () => {
    const shape = { H: 4, Hkv: 2, Sq: 2, Skv: 203, D: 64, Dv: 64, dtype: "float32" } as const;
    for (const options of [{}, { causal: true }]) expectSame(await both(shape, options, 1, 300), 2e-6, "long");
  });
});
