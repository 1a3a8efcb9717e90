import { attentionProblem, countFlops, type Backend, type Problem, type TensorSpec } from "@fa/core";
import { afterAll, describe, expect, test } from "vitest";
import { bytesPerElement, encode } from "@fa/core";
import { THREADS_FROM_FLOPS } from "../src/backend.ts";
import { pool } from "../src/pool.ts";
import { compute, LINEAR_CASES, planFor, randomCase, type Tensors } from "./problems.ts";
import { openThreads, openVariant, random, variants } from "./variants.ts";

const COUNTS = [2, 3, 8];

type Sizes = Parameters<typeof compute>[3];

describe.each(variants)("%s: the same bits on 1, 2, 3 and 8 threads", async (variant) => {
  const one = await openVariant(variant);
  const teams = await Promise.all(COUNTS.map(async (count) => (await openThreads(count, variant)).backend));
  afterAll(() => Promise.all(teams.map((team) => team.dispose())));

  /** Gives the results of one thread. */
  async function expectSame(label: string, problem: Problem, inputs: Tensors, sizes: Sizes) {
    const want = await compute(one, problem, inputs, sizes);
    for (const team of teams) {
      const got = await compute(team, problem, inputs, sizes);
      for (const name of Object.keys(sizes)) {
        // Object.is on every number; comparing arrays of this size with toEqual takes longer than computing them.
        const differs = want[name].findIndex((x, n) => !Object.is(x, got[name][n]));
        expect(differs, `${label} ${name} on ${team.device}`).toBe(-1);
      }
    }
    return want;
  }

  async function checkAttention(label: string, { forward, backward, inputs, dout }: ReturnType<typeof randomCase>) {
    const sizes = (lengths: Readonly<Record<string, number>>): Sizes =>
      Object.fromEntries(Object.entries(lengths).map(([name, length]) => [name, { dtype: "float32", length }]));
    const { B, H, Sq } = forward;
    const results = await expectSame(label, forward, inputs, sizes({ out: dout.length, lse: B * H * Sq }));
    const gradients: Record<string, number> = {};
    for (const name of ["q", "k", "v", "bias", "sinks"])
      if (inputs[name]) gradients[`d${name}`] = inputs[name].values.length;
    const given: Tensors = { ...inputs, dout: { dtype: "float32", values: dout } };
    for (const name of ["out", "lse"]) given[name] = { dtype: "float32", values: results[name] };
    await expectSame(label, backward, given, sizes(gradients));
  }

  test("forward and backward, random problems with random options", async () => {
    for (let seed = 1; seed <= 60; seed++) await checkAttention(`seed ${seed}`, randomCase(seed, seed % 3 === 0));
  });

  test.each([
    ["one for all", 1, 1],
    ["one a head", 1, 6],
    ["one a batch", 2, 1],
    ["one a (batch, head)", 2, 6],
  ])("dbias as large as the scores, %s, and one summed over rows, and over keys", async (_, biasB, biasH) => {
    const [B, H, Hkv, Sq, Skv, D] = [2, 6, 2, 200, 130, 16];
    const next = random(biasB * 10 + biasH);
    for (const [rows, keys] of [
      [Sq, Skv],
      [1, Skv],
      [Sq, 1],
      [1, 1],
    ]) {
      const spec = (...shape: number[]): TensorSpec => ({ shape, dtype: "float32" });
      const specs = { q: spec(B, H, Sq, D), k: spec(B, Hkv, Skv, D), v: spec(B, Hkv, Skv, D) };
      const optional = { bias: spec(biasB, biasH, rows, keys), sinks: spec(H) };
      const options = { ...optional, causal: true, blockSize: { q: 24, kv: 48 } };
      const fill = ({ shape }: TensorSpec) => Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, next);
      const inputs: Tensors = Object.fromEntries(
        Object.entries({ ...specs, ...optional }).map(([name, s]) => [name, { dtype: "float32", values: fill(s) }]),
      );
      const [forward, backward] = [
        attentionProblem(specs, options),
        attentionProblem(specs, options, "attentionBackward"),
      ];
      await checkAttention(`bias ${biasB} ${biasH} ${rows} ${keys}`, {
        forward,
        backward,
        inputs,
        dout: fill(specs.q),
      });
    }
  });

  test("linear, its backward and casts", async () => {
    for (const { label, forward, backward, inputs, withBias, results, gradients } of LINEAR_CASES) {
      await expectSame(label, forward, withBias, results);
      await expectSame(label, backward, inputs, gradients);
    }
    for (const elements of [0, 1, 1001, 2 ** 18, 2 ** 18 + 7, 3 * 2 ** 18 - 1]) {
      const values = Float32Array.from({ length: elements }, random(elements));
      const problem = { op: "cast", dtype: "float32", resultDType: "bfloat16", elements } as const;
      const sizes = { y: { dtype: "bfloat16", length: elements } } as const;
      await expectSame(`${elements}`, problem, { x: { dtype: "float32", values } }, sizes);
    }
  });
});

test("panels of many heads come in waves that fit the workspace's bound, and the bits stay", async () => {
  const [H, Sq, Skv, D] = [16, 20, 16384, 64];
  const spec = (S: number): TensorSpec => ({ shape: [1, H, S, D], dtype: "float16" });
  const problem = attentionProblem({ q: spec(Sq), k: spec(Skv), v: spec(Skv) });
  const next = random(4);
  // float16 bit patterns of small numbers, without converting two million of them.
  const bits = (S: number): Uint8Array => {
    const words = Uint16Array.from({ length: H * S * D }, () => 0x3000 + Math.floor((next() + 1) * 0x400));
    return new Uint8Array(words.buffer);
  };
  const inputs = { q: bits(Sq), k: bits(Skv), v: bits(Skv) };
  const results: Uint8Array[] = [];
  const { backend: team } = await openThreads(3);
  for (const backend of [await openVariant(variants.at(-1)!), team] as Backend[]) {
    const made = planFor(backend, problem);
    expect(made.kernel.id).toMatch(/^forward/); // decode packs nothing
    expect(made.workspaceBytes).toBeLessThan(80 * 2 ** 20);
    const out = backend.allocate(H * Sq * D * bytesPerElement("float16"));
    const buffers = Object.entries(inputs).map(([name, bytes]) => [name, backend.allocate(bytes.length, bytes)]);
    const { currentBytes } = backend.memory();
    await backend.run(made, { ...Object.fromEntries(buffers), out });
    expect(backend.memory().currentBytes).toBe(currentBytes);
    expect(backend.memory().peakBytes - currentBytes).toBeLessThanOrEqual(made.workspaceBytes + 64);
    results.push(await backend.read(out));
  }
  expect(Buffer.compare(results[0], results[1])).toBe(0);
  await team.dispose();
});

test("what is small runs at once on the calling thread; what is large starts workers; the last instance ends them", async () => {
  const shape = (S: number): TensorSpec => ({ shape: [1, 1, S, 16], dtype: "float32" });
  const problem = (S: number) => attentionProblem({ q: shape(S), k: shape(S), v: shape(S) });
  const [small, large] = [problem(32), problem(1024)];
  expect(countFlops(small)).toBeLessThan(THREADS_FROM_FLOPS);
  expect(countFlops(large)).toBeGreaterThan(THREADS_FROM_FLOPS);
  const open = await Promise.all([0, 1].map(() => openThreads(2, undefined, { fromFlops: THREADS_FROM_FLOPS })));
  const run = ({ backend }: (typeof open)[number], made: Problem & { Sq: number }) => {
    const bytes = encode("float32", new Float32Array(made.Sq * 16));
    const bindings = Object.fromEntries(
      ["q", "k", "v", "out"].map((name) => [name, backend.allocate(bytes.length, bytes)]),
    );
    return backend.run(planFor(backend, made), bindings);
  };
  expect(run(open[0], small)).toBeUndefined();
  expect(pool.all()).toHaveLength(0);
  const running = run(open[0], large);
  expect(running).toBeInstanceOf(Promise);
  await Promise.all([running, run(open[1], large)]);
  expect(pool.all()).toHaveLength(1);
  await open[0].backend.dispose();
  expect(pool.all()).toHaveLength(1);
  await run(open[1], large);
  await open[1].backend.dispose();
  expect(pool.all()).toHaveLength(0);
});
