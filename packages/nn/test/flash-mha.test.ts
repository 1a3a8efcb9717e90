// What holds of the module besides PyTorch's numbers: repeatability, dropout, gradients, memory, and weights that move.

import { FaError, reference, type Attention, type Backend, type BackendProvider, type Tensor } from "@fa/core";
import { readSafetensors } from "@fa/core/safetensors";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FlashMHA, type FlashMHAConfig, type MHAParameters } from "../src/index.ts";
import { bitsOf, deviations, goldenFile, noise, open, PROVIDERS, TOLERANCE, upload, valuesOf } from "./support.ts";

const [B, S, E] = [2, 11, 24];
const CONFIG: FlashMHAConfig = { embedDim: E, numHeads: 4, numHeadsKv: 2, causal: true, dropout: 0.25, seed: 3 };

describe.each(PROVIDERS)("$name", (provider) => {
  let fa: Attention;
  let x: Tensor;
  let dout: Tensor;
  beforeAll(async () => {
    fa = await open(provider);
    x = upload(fa, noise(B * S * E, 1), [B, S, E]);
    dout = upload(fa, noise(B * S * E, 2), [B, S, E]);
  });
  afterAll(() => fa.dispose());

  /** All results of one training step, as bits. */
  async function step(mha: FlashMHA, options?: Parameters<FlashMHA["forwardTraining"]>[1]) {
    const { out, saved } = await mha.forwardTraining(x, options);
    const { dx, gradients } = await mha.backward(saved, dout);
    return Promise.all([out, dx, ...Object.values(gradients as unknown as Record<string, Tensor>)].map(bitsOf));
  }

  test("two forwards, and two training steps of one seed, give the same bits", async () => {
    using mha = new FlashMHA(fa, CONFIG);
    expect(await bitsOf(await mha.forward(x))).toEqual(await bitsOf(await mha.forward(x)));
    expect(await step(mha, { seed: 9, offset: 4 })).toEqual(await step(mha, { seed: 9, offset: 4 }));
  });

  test("dropout drops in training only, by seed and offset", async () => {
    using mha = new FlashMHA(fa, CONFIG);
    using without = new FlashMHA(fa, { ...CONFIG, dropout: 0 });
    const train = async (options?: Parameters<FlashMHA["forwardTraining"]>[1]) =>
      bitsOf((await mha.forwardTraining(x, options)).out);
    const inference = await bitsOf(await mha.forward(x));
    expect(inference).toEqual(await bitsOf(await without.forward(x)));
    expect(inference).toEqual(await bitsOf((await without.forwardTraining(x)).out));

    const seeded = await train({ seed: 9 });
    expect(seeded).not.toEqual(inference);
    expect(await train({ seed: 9n, offset: 0 })).toEqual(seeded);
    expect(await train({ seed: 9, offset: 1 })).not.toEqual(seeded);
    expect(await train({ seed: 10 })).not.toEqual(seeded);
  });

  test("without options each training forward drops anew, and a module made alike drops the same", async () => {
    using mha = new FlashMHA(fa, CONFIG);
    using twin = new FlashMHA(fa, CONFIG);
    const first = await step(mha);
    const second = await step(mha);
    expect(second[0]).not.toEqual(first[0]);
    expect([await step(twin), await step(twin)]).toEqual([first, second]);
    expect(await step(twin, { seed: CONFIG.seed, offset: 1 })).toEqual(second);
  });

  test("dropout 1 leaves the bias of the output projection", async () => {
    using mha = new FlashMHA(fa, { ...CONFIG, dropout: 1 });
    const { out } = await mha.forwardTraining(x);
    const bias = await valuesOf(mha.parameters()["out_proj.bias"]!);
    expect((await valuesOf(out)).subarray(-E)).toEqual(bias);
  });

  test("an empty batch or sequence gives empty results and gradients of 0", async () => {
    using mha = new FlashMHA(fa, CONFIG);
    for (const shape of [
      [0, S, E],
      [B, 0, E],
    ]) {
      const { out, saved } = await mha.forwardTraining(fa.empty({ shape }));
      expect(out.shape).toEqual(shape);
      const { dx, gradients } = await mha.backward(saved, fa.empty({ shape }));
      expect(dx.shape).toEqual(shape);
      expect((await valuesOf(gradients["Wqkv.weight"])).every((value) => value === 0)).toBe(true);
    }
  });

  // On instances of their own: a tensor that another test dropped may be collected at any time.
  test("forward, backward and dispose leave the memory that there was", async () => {
    await using own = await open(provider);
    const before = own.memory().currentBytes;
    const input = upload(own, noise(B * S * E, 1), [B, S, E]);
    const mha = new FlashMHA(own, CONFIG);
    (await mha.forward(input)).dispose();
    const { out, saved } = await mha.forwardTraining(input);
    const { dx, gradients } = await mha.backward(saved, input);
    const unused = await mha.forwardTraining(input);
    for (const one of [input, out, dx, ...Object.values(gradients as unknown as Record<string, Tensor>)]) one.dispose();
    unused.out.dispose();
    expect(own.memory().currentBytes).toBeGreaterThan(before);
    unused.saved.dispose();
    unused.saved.dispose();
    mha.dispose();
    mha.dispose();
    expect(own.memory().currentBytes).toBe(before);
  });

  test("loading weights many times keeps no more than one set", async () => {
    await using own = await open(provider);
    using mha = new FlashMHA(own, { embedDim: 48, numHeads: 4 });
    const before = own.memory().currentBytes;
    for (let n = 0; n < 20; n++) {
      mha.loadSafetensors(goldenFile("mha-flash-attn.safetensors"));
      mha.loadSafetensors(goldenFile("mha-pytorch.safetensors"));
    }
    expect(own.memory().currentBytes).toBe(before);
  });

  test("backward uses the weights and the x of its forward, whatever became of them", async () => {
    using mha = new FlashMHA(fa, CONFIG);
    const expected = await step(mha, { seed: 1 });
    const passing = upload(fa, noise(B * S * E, 1), [B, S, E]);
    const { saved } = await mha.forwardTraining(passing, { seed: 1 });
    passing.dispose();
    using others = new FlashMHA(fa, { ...CONFIG, seed: 4 });
    mha.setParameters(others.parameters());
    const { dx, gradients } = await mha.backward(saved, dout);
    expect(await bitsOf(dx)).toEqual(expected[1]);
    expect(await bitsOf(gradients["Wqkv.weight"])).toEqual(expected[2]);
  });

  test("a forward under way keeps its weights when others are loaded or the module is disposed", async () => {
    const mha = new FlashMHA(fa, CONFIG);
    const expected = await bitsOf(await mha.forward(x));
    const others = new FlashMHA(fa, { ...CONFIG, seed: 4 });
    const running = mha.forward(x);
    mha.setParameters(others.parameters());
    others.dispose();
    const running2 = mha.forward(x);
    mha.dispose();
    expect(await bitsOf(await running)).toEqual(expected);
    expect(await bitsOf(await running2)).not.toEqual(expected);
  });

  test("setParameters replaces what it names, by views of its own", async () => {
    using mha = new FlashMHA(fa, CONFIG);
    const bias = fa.tensor(new Float32Array(E).fill(7), { shape: [E] });
    const [weight, out] = [await bitsOf(mha.parameters()["out_proj.weight"]), await valuesOf(await mha.forward(x))];
    const old = await valuesOf(mha.parameters()["out_proj.bias"]!);
    mha.setParameters({ "out_proj.bias": bias });
    bias.dispose();
    expect(await bitsOf(mha.parameters()["out_proj.weight"])).toEqual(weight);
    const moved = out.map((value, n) => value - old[n % E] + 7);
    expect(deviations(await valuesOf(await mha.forward(x)), moved, TOLERANCE.float32, "out")).toEqual([]);
  });

  test.each(["flash-attn", "pytorch"] as const)("weights in %s naming come back bit for bit", async (naming) => {
    for (const dtype of ["float32", "float16", "bfloat16"] as const) {
      const config = { ...CONFIG, numHeadsKv: 4, dtype };
      using mha = new FlashMHA(fa, config);
      const bytes = await mha.toSafetensors({ naming, prefix: "layers.0.attn" });
      expect([...readSafetensors(bytes).values()].every((stored) => stored.dtype === dtype)).toBe(true);
      using other = FlashMHA.fromSafetensors(fa, bytes, { ...config, seed: 5 }, { prefix: "layers.0.attn." });
      for (const [name, tensor] of Object.entries(mha.parameters()) as [keyof MHAParameters, Tensor][]) {
        expect([name, await bitsOf(other.parameters()[name]!)]).toEqual([name, await bitsOf(tensor)]);
      }
    }
  });
});

test("the same seed trains alike on every back end", async () => {
  const results = await Promise.all(
    PROVIDERS.map(async (provider) => {
      await using fa = await open(provider);
      const mha = new FlashMHA(fa, CONFIG);
      const { out, saved } = await mha.forwardTraining(upload(fa, noise(B * S * E, 1), [B, S, E]));
      const { dx } = await mha.backward(saved, upload(fa, noise(B * S * E, 2), [B, S, E]));
      return [await valuesOf(out), await valuesOf(dx)] as const;
    }),
  );
  for (const [out, dx] of results.slice(1)) {
    expect(deviations(out, results[0][0], TOLERANCE.float32, "out")).toEqual([]);
    expect(deviations(dx, results[0][1], TOLERANCE.float32, "dx")).toEqual([]);
  }
});

test("weights start uniform in +-1 / sqrt(embedDim), each by its own draws and by the seed", async () => {
  await using fa = await open(reference());
  const parametersOf = async (seed: number | bigint) => {
    using mha = new FlashMHA(fa, { embedDim: 64, numHeads: 4, seed });
    return Promise.all(Object.values(mha.parameters() as unknown as Record<string, Tensor>).map(valuesOf));
  };
  const parameters = await parametersOf(7);
  const bound = 1 / 8;
  for (const values of parameters) {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const variance = values.reduce((sum, value) => sum + value ** 2, 0) / values.length;
    expect(values.every((value) => Math.abs(value) <= bound)).toBe(true);
    // Five standard errors: bound / sqrt(3) is the deviation of a draw, bound^2 sqrt(4 / 45) that of its square.
    expect(Math.abs(mean)).toBeLessThan((5 * bound) / Math.sqrt(3 * values.length));
    expect(Math.abs(variance - bound ** 2 / 3)).toBeLessThan(
      (5 * bound ** 2 * Math.sqrt(4 / 45)) / Math.sqrt(values.length),
    );
  }
  const firsts = parameters.map((values) => values[0]);
  expect(new Set(firsts).size).toBe(firsts.length);
  expect(await parametersOf(7n)).toEqual(parameters);
  for (const seed of [8, 7n + (1n << 32n)]) expect(await parametersOf(seed)).not.toEqual(parameters);
});

test("gradients are those of finite differences, with dropout and grouped heads", async () => {
  await using fa = await open(reference());
  const [b, s, e] = [1, 4, 4];
  const mha = new FlashMHA(fa, { embedDim: e, numHeads: 2, numHeadsKv: 1, dropout: 0.3 });
  const dropout = { seed: 11, offset: 2 };
  const weights = noise(b * s * e, 8);

  // Multiples of 2^-6, so that a step of 2^-4 to either side is exact in float32.
  const rounded = (values: Float64Array) => values.map((value) => Math.round(value * 64) / 64);
  const values: Record<string, Float64Array> = { x: rounded(noise(b * s * e, 5)) };
  const shapes: Record<string, readonly number[]> = { x: [b, s, e] };
  for (const [n, [name, tensor]] of Object.entries(mha.parameters() as unknown as Record<string, Tensor>).entries()) {
    values[name] = rounded(noise(tensor.size, 20 + n).map((value) => 0.4 * value));
    shapes[name] = tensor.shape;
  }
  /** Uploads the values, and runs a training forward with them. */
  async function forward() {
    const { x, ...parameters } = Object.fromEntries(
      Object.entries(values).map(([name, array]) => [name, upload(fa, array, shapes[name])]),
    );
    mha.setParameters(parameters);
    return mha.forwardTraining(x, dropout);
  }
  /** The sum of out times fixed weights, of which `backward` gives the gradient. */
  async function loss(): Promise<number> {
    const { out } = await forward();
    return (await valuesOf(out)).reduce((sum, value, n) => sum + value * weights[n], 0);
  }

  const { saved } = await forward();
  const { dx, gradients } = await mha.backward(saved, upload(fa, weights, [b, s, e]));
  const h = 2 ** -4;
  for (const [name, gradient] of Object.entries({ x: dx, ...gradients } as Record<string, Tensor>)) {
    const got = await valuesOf(gradient);
    for (const [n, at] of values[name].entries()) {
      const lossAt = (value: number) => {
        values[name][n] = value;
        return loss();
      };
      // Fourth order: what is left of the curve is about h^4, and rounding about 1e-6 / h.
      const difference =
        (8 * ((await lossAt(at + h)) - (await lossAt(at - h))) -
          (await lossAt(at + 2 * h)) +
          (await lossAt(at - 2 * h))) /
        (12 * h);
      values[name][n] = at;
      expect(Math.abs(got[n] - difference), `${name}[${n}] ${got[n]} against ${difference}`).toBeLessThan(3e-4);
    }
  }
});

/** A back end that runs out of memory at the n-th allocation or run from now. */
function failing(provider: BackendProvider): { provider: BackendProvider; failAt: (n: number) => void } {
  let left = Infinity;
  const count = (): void => {
    if (--left === 0) throw new FaError("FA_OUT_OF_MEMORY", "planted");
  };
  const openFailing = async (): Promise<Backend> => {
    const backend = await provider.open();
    const [allocate, run] = [backend.allocate.bind(backend), backend.run.bind(backend)];
    return Object.assign(backend, {
      allocate: (...args: Parameters<Backend["allocate"]>) => (count(), allocate(...args)),
      run: (...args: Parameters<Backend["run"]>) => (count(), run(...args)),
    });
  };
  return {
    provider: { name: provider.name, probe: () => provider.probe(), open: openFailing },
    failAt: (n) => (left = n),
  };
}

test("a failure at any step frees what the call had made, and the next call works", async () => {
  const { provider, failAt } = failing(reference());
  await using fa = await open(provider);
  const x = upload(fa, noise(B * S * E, 1), [B, S, E]);
  const mha = new FlashMHA(fa, CONFIG);
  const file = await mha.toSafetensors();
  /** Out as bits, leaving nothing for the garbage collector, which would free memory at a time of its own. */
  const forward = async () => {
    const out = await mha.forward(x);
    const bits = await bitsOf(out);
    out.dispose();
    return bits;
  };
  const expected = await forward();
  const disposeAll = (tensors: object) => Object.values(tensors).forEach((tensor: Tensor) => tensor.dispose());
  const calls: Record<string, () => unknown> = {
    constructor: () => new FlashMHA(fa, CONFIG).dispose(),
    loadSafetensors: () => mha.loadSafetensors(file),
    forward,
    forwardTraining: async () => disposeAll(await mha.forwardTraining(x)),
    backward: async () => {
      const { out, saved } = await mha.forwardTraining(x);
      out.dispose();
      const { dx, gradients } = await mha.backward(saved, x);
      disposeAll({ dx, ...gradients });
    },
  };
  for (const [name, call] of Object.entries(calls)) {
    const before = fa.memory().currentBytes;
    let failures = 0;
    for (let n = 1; ; n++) {
      failAt(n);
      const error: unknown = await Promise.resolve()
        .then(call)
        .then(
          () => undefined,
          (reason: unknown) => reason,
        );
      const used = fa.memory().currentBytes;
      failAt(Infinity);
      expect(used, `${name}, failing at step ${n}`).toBe(before);
      if (error === undefined) break;
      expect(error).toMatchObject({ code: "FA_OUT_OF_MEMORY" });
      failures++;
    }
    // Every parameter is allocated; a forward has three runs and five results.
    expect(failures).toBeGreaterThanOrEqual(name === "constructor" || name === "loadSafetensors" ? 4 : 8);
    expect(await forward()).toEqual(expected);
  }
  mha.dispose();
  x.dispose();
  expect(fa.memory().currentBytes).toBe(0);
});
