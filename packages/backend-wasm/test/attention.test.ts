import {
  attentionProblem,
  createAttention,
  reference,
  type Backend,
  type DeviceBuffer,
  type TensorSpec,
} from "@fa/core";
import { describe, expect, test } from "vitest";
import { wasm, createModule, loadBinary } from "../src/index.ts";
import { WasmBackend } from "../src/backend.ts";
import { compute, LINEAR_CASES, planFor, randomCase, type Case, type Tensors } from "./problems.ts";
import { openVariant, random, variants } from "./variants.ts";

function largest(...arrays: Float64Array[]): number {
  let top = 0;
  for (const array of arrays) for (const x of array) if (Number.isFinite(x)) top = Math.max(top, Math.abs(x));
  return top;
}

/** Right to 1e-5 of itself, 1e-6, and a share of the size of the terms that may have cancelled. */
function expectClose(label: string, got: Float64Array, want: Float64Array, slack: number): void {
  const wrong: string[] = [];
  want.forEach((x, n) => {
    const y = got[n];
    const near = y === x || Math.abs(y - x) <= 1e-5 * Math.abs(x) + 1e-6 + slack;
    // Of infinities that meet in a sum only the order decides what comes out; -Infinity is the lse of an empty row.
    const same = Number.isFinite(x) ? near : x === -Infinity && label.endsWith("lse") ? y === x : !Number.isFinite(y);
    if (!same && wrong.length < 3) wrong.push(`${label}[${n}] is ${y} instead of ${x}`);
  });
  expect(wrong).toEqual([]);
}

const naive = await reference({ algorithm: "naive" }).open();

/** @param termsCancel a whole gradient may be 0 in exact arithmetic, as that of q is where each row sees one key */
async function checkCase(
  backend: Backend,
  { forward, backward, inputs, dout }: Case,
  label: string,
  termsCancel: boolean,
): Promise<void> {
  const sizes = (names: readonly string[]) =>
    Object.fromEntries(names.map((name) => [name, { dtype: "float32", length: lengths[name] }] as const));
  const lengths: Record<string, number> = { lse: forward.B * forward.H * forward.Sq, out: dout.length };
  for (const name of ["q", "k", "v", "bias", "sinks"]) lengths[`d${name}`] = inputs[name]?.values.length ?? 0;
  const want = await compute(naive, forward, inputs, sizes(["out", "lse"]));
  const got = await compute(backend, forward, inputs, sizes(["out", "lse"]));
  for (const name of ["out", "lse"]) {
    expectClose(`${label} ${name}`, got[name], want[name], 1e-6 * largest(want[name]));
  }

  const gradients = ["dq", "dk", "dv", ...["bias", "sinks"].filter((name) => inputs[name]).map((name) => `d${name}`)];
  const given = { ...inputs, dout: { dtype: "float32", values: dout } } as Tensors;
  for (const name of ["out", "lse"]) given[name] = { dtype: "float32", values: want[name] };
  const wantGradients = await compute(naive, backward, given, sizes(gradients));
  const gotGradients = await compute(backend, backward, given, sizes(gradients));
  for (const name of gradients) {
    const size = largest(...(termsCancel ? Object.values(wantGradients) : [wantGradients[name]]));
    expectClose(`${label} ${name}`, gotGradients[name], wantGradients[name], 4e-6 * size);
  }
}

describe.each(variants)("%s", async (variant) => {
  const backend = await openVariant(variant);

  test("random problems with random options give what the definition gives, forward and backward", async () => {
    for (let seed = 1; seed <= 120; seed++) await checkCase(backend, randomCase(seed, false), `seed ${seed}`, true);
  });

  test("NaN and infinities reach exactly the rows and gradients that they reach in the definition", async () => {
    for (let seed = 1; seed <= 120; seed++) await checkCase(backend, randomCase(seed, true), `seed ${seed}`, true);
  });

  test.each([30, 300, 3000, 30_000])("logits of size %i keep their digits, forward and backward", async (size) => {
    const next = random(size);
    const spec: TensorSpec = { shape: [1, 1, 70, 48], dtype: "float32" };
    const specs = { q: spec, k: spec, v: spec };
    // Exact in float32, so that the definition sees the same numbers; scale 2^-3 does not round them.
    const whole = (factor: number): number[] => Array.from({ length: 70 * 48 }, () => Math.round(next() * 64) * factor);
    const options = { scale: 0.125, causal: true };
    const forward = attentionProblem(specs, options);
    const inputs: Tensors = {
      q: { dtype: "float32", values: Float32Array.from(whole(size / 64 / 2)) },
      k: { dtype: "float32", values: whole(1 / 64) },
      v: { dtype: "float32", values: whole(1 / 64) },
    };
    const backward = attentionProblem(specs, options, "attentionBackward");
    await checkCase(backend, { forward, backward, inputs, dout: whole(1 / 64) }, `size ${size}`, false);
  });

  test("linear and its backward over odd sizes and splits give what the definition gives", async () => {
    for (const { label, forward, withoutBias, ...c } of LINEAR_CASES) {
      for (const [problem, inputs, sizes] of [
        [forward, c.withBias, c.results],
        [withoutBias, c.inputs, c.results],
        [c.backward, c.inputs, c.gradients],
      ] as const) {
        const want = await compute(naive, problem, inputs, sizes);
        const got = await compute(backend, problem, inputs, sizes);
        for (const name of Object.keys(sizes))
          expectClose(`${label} ${name}`, got[name], want[name], 4e-6 * largest(want[name]));
      }
    }
  });
});

test("workspace is given back: memory in use is the same after a run, and after one that failed", async () => {
  const memory = new WebAssembly.Memory({ initial: 30, maximum: 30 });
  const module = await createModule({ wasmMemory: memory, wasmBinary: await loadBinary("plain") });
  const backend = new WasmBackend(module, "plain", "small memory");
  const rows = 17; // too many to be decoded, which takes next to no workspace
  const specs = (S: number) => ({
    q: { shape: [1, 1, rows, 64], dtype: "float32" as const },
    k: { shape: [1, 1, S, 64], dtype: "float32" as const },
    v: { shape: [1, 1, S, 64], dtype: "float32" as const },
  });
  const bindings = {
    q: backend.allocate(rows * 256, "zero"),
    k: backend.allocate(2000 * 256, "zero"),
    v: backend.allocate(2000 * 256, "zero"),
    out: backend.allocate(rows * 256),
  };
  const { currentBytes } = backend.memory();
  const run = (S: number) => backend.run(planFor(backend, attentionProblem(specs(S))), bindings);
  await run(100);
  expect(backend.memory().currentBytes).toBe(currentBytes);
  expect(() => run(2000)).toThrow(expect.objectContaining({ code: "FA_OUT_OF_MEMORY" }));
  expect(backend.memory().currentBytes).toBe(currentBytes);
  await run(100);
});

test("a view on the back end's own memory is copied, though making room for the copy detaches it", async () => {
  const module = await createModule();
  const backend = new WasmBackend(module, "plain", "own memory");
  const source = backend.allocate(4, Uint8Array.of(1, 2, 3, 4)) as DeviceBuffer & { address: number };
  const big = 32 * 2 ** 20;
  const view = new Uint8Array(module.wasmMemory.buffer, source.address, 4);
  const copy = backend.allocate(big, view);
  expect(view.length).toBe(0);
  expect([...(await backend.read(copy)).subarray(0, 4)]).toEqual([1, 2, 3, 4]);
});

test("buffers that were freed, or are another's, are refused; freeing twice is harmless", async () => {
  const [backend, other] = [await wasm().open(), await wasm().open()];
  const buffer = backend.allocate(16, "zero");
  const foreign = other.allocate(16, "zero");
  await expect(backend.read(foreign)).rejects.toMatchObject({ code: "FA_TENSOR" });
  backend.free(buffer);
  backend.free(buffer);
  backend.free(foreign);
  await expect(backend.read(buffer)).rejects.toMatchObject({ code: "FA_TENSOR" });
  expect(backend.memory().currentBytes).toBe(0);
});

test("the same call gives the same bits, and the planner takes the row of the variant that runs", async () => {
  const fa = await createAttention({ backends: [wasm()] });
  const next = random(5);
  const tensor = () => fa.tensor(Float32Array.from({ length: 2 * 100 * 40 }, next), { shape: [1, 2, 100, 40] });
  const [q, k, v] = [tensor(), tensor(), tensor()];
  const runs = [];
  for (let n = 0; n < 5; n++) {
    const { out, lse } = await fa.attention(q, k, v, { causal: true, returnLse: true });
    const gradients = await fa.attentionBackward({ q, k, v, out, lse, dout: q }, { causal: true });
    runs.push(await Promise.all([out, lse, ...Object.values(gradients)].map((result) => result!.data())));
  }
  for (const run of runs) expect(run).toEqual(runs[0]);
  expect(fa.plan(q, k, v).kernel.id).toBe(`forward-${variants.at(-1)}`);
  await fa.dispose();
});
