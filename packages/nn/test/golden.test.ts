// Against torch.nn.MultiheadAttention itself (grouped heads: the same by plain torch operations), in float64, with the same
// weights: forward, and the gradients of x and of every parameter.

import { philox4x32, show, typedArray, type Attention } from "@fa/core";
import { writeSafetensors, type StoredTensor } from "@fa/core/safetensors";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FlashMHA, type ModuleDType } from "../src/index.ts";
import {
  bitsOf,
  CASES,
  deviations,
  goldenCase,
  goldenFile,
  goldenTensor,
  goldenValues,
  open,
  PROVIDERS,
  TOLERANCE,
  upload,
  valuesOf,
  type GoldenCase,
} from "./support.ts";

const SMALL = CASES.filter(({ generated }) => !generated);
const PARAMETERS = ["Wqkv.weight", "Wqkv.bias", "out_proj.weight", "out_proj.bias"] as const;

function namesOf({ options }: GoldenCase) {
  return PARAMETERS.filter((name) => options.bias || !name.endsWith("bias"));
}

/** The case's weights as a file in flash-attn's naming. */
function weightFile(one: GoldenCase): Uint8Array {
  return writeSafetensors(new Map(namesOf(one).map((name) => [name, goldenTensor(`${one.name}/${name}`)])));
}

/** What a module does other than PyTorch's: in forward, in a training forward, and in each gradient. */
async function deviationsOf(fa: Attention, one: GoldenCase, mha: FlashMHA): Promise<string[]> {
  const { dtype } = mha.config;
  const { B, S, E } = one.shape;
  const input = (name: string) => upload(fa, goldenValues(`${one.name}/${name}`), [B, S, E], dtype);
  const x = input("x");
  const { out, saved } = await mha.forwardTraining(x);
  const { dx, gradients } = await mha.backward(saved, input("dout"));
  const results = [
    ["out", await mha.forward(x)],
    ["out", out],
    ["dx", dx],
    ...namesOf(one).map((name) => [`grad.${name}`, gradients[name]!] as const),
  ] as const;
  const found = Object.keys(gradients).map((name) => `grad.${name}`);
  const missing = found.filter((name) => !results.some(([wanted]) => wanted === name)).map((name) => `unasked ${name}`);
  const differing = results.map(async ([name, tensor]) => {
    const { shape } = goldenTensor(`${one.name}/${name}`);
    const kind = `${tensor.dtype} ${show(tensor.shape)}`;
    if (kind !== `${dtype} ${show(shape)}`) return [`${name}: ${kind}`];
    return deviations(await valuesOf(tensor), goldenValues(`${one.name}/${name}`), TOLERANCE[dtype], name);
  });
  return [...missing, ...(await Promise.all(differing)).flat()];
}

describe.each(PROVIDERS)("$name", (provider) => {
  let fa: Attention;
  beforeAll(async () => {
    fa = await open(provider);
  });
  afterAll(() => fa.dispose());

  test.each(SMALL)("$name as PyTorch computes it: $about", async (one) => {
    using mha = FlashMHA.fromSafetensors(fa, weightFile(one), one.options);
    expect(await deviationsOf(fa, one, mha)).toEqual([]);
  });

  test.each<[ModuleDType, string]>(
    (["float16", "bfloat16"] as const).flatMap((dtype) => SMALL.map(({ name }) => [dtype, name] as const)),
  )("a %s module rounds, and no more: %s", async (dtype, name) => {
    const one = goldenCase(name);
    using mha = FlashMHA.fromSafetensors(fa, weightFile(one), { ...one.options, dtype });
    expect(await deviationsOf(fa, one, mha)).toEqual([]);
  });

  test.each(["mha-flash-attn.safetensors", "mha-pytorch.safetensors"])("%s loads by its own names", async (file) => {
    const one = goldenCase("module");
    using mha = new FlashMHA(fa, one.options);
    mha.loadSafetensors(goldenFile(file));
    expect(await deviationsOf(fa, one, mha)).toEqual([]);
  });

  test("the two namings of the same weights give the same bits", async () => {
    const { options, shape } = goldenCase("module");
    const x = upload(fa, goldenValues("module/x"), [shape.B, shape.S, shape.E]);
    const [flashAttn, pytorch] = ["mha-flash-attn.safetensors", "mha-pytorch.safetensors"].map((file) =>
      FlashMHA.fromSafetensors(fa, goldenFile(file), options),
    );
    expect(await bitsOf(await flashAttn.forward(x))).toEqual(await bitsOf(await pytorch.forward(x)));
  });
});

// The issue's own case: x [8, 512, 512], 8 heads.
const big = goldenCase("big");

/** The case's inputs by the formula written beside it, checked against the numbers written beside it. */
function generate(): ReadonlyMap<string, StoredTensor> {
  const { key, tensors } = big.generated!;
  return new Map(
    tensors.map(({ name, stream, shape, factor, ...said }) => {
      const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
      const words = new Uint32Array(4);
      for (let n = 0; n < values.length; n++) {
        if (n % 4 === 0) philox4x32([n / 4, stream, 0, 0], key, 7, words);
        values[n] = (words[n % 4] >> 23) * 2 ** -8 * factor;
      }
      const sum = values.reduce((total, value) => total + value, 0);
      expect({ first: [...values.subarray(0, 6)], last: values.at(-1), sum }).toEqual(said);
      return [name, { dtype: "float32", shape, bytes: new Uint8Array(values.buffer) }];
    }),
  );
}
const inputs = generate();
const bigWeights = writeSafetensors(new Map(PARAMETERS.map((name) => [name, inputs.get(name)!])));

/** Batches [first, first + count) of x or dout. */
function batches(fa: Attention, name: string, first: number, count: number) {
  const { S, E } = big.shape;
  const values = typedArray("float32", inputs.get(name)!.bytes).subarray(first * S * E, (first + count) * S * E);
  return fa.tensor(values, { shape: [count, S, E] });
}

/** How the stored rows and row sums differ of a [B, S, E] result that holds the batches from `first`. */
function rowDeviations(got: Float64Array, name: "out" | "dx", first: number): string[] {
  const { S, E } = big.shape;
  const count = got.length / (S * E);
  const places = big.samples![`${name}.rows`] as readonly (readonly [number, number])[];
  const here = [...places.entries()].filter(([, [b]]) => b >= first && b < first + count);
  const rows = here.map(([, [b, s]]) => (b - first) * S + s);
  const wanted = rowsAt(
    goldenValues(`big/${name}.rows`),
    here.map(([n]) => n),
  );
  const sums = goldenValues(`big/${name}.sums`).slice(first * S, (first + count) * S);
  return [
    ...(rows.length === 0 ? [`${name}: no row is sampled in batches ${first} to ${first + count - 1}`] : []),
    ...deviations(rowsAt(got, rows), wanted, TOLERANCE.float32, `${name}, sampled rows`),
    ...deviations(rowSums(got), sums, TOLERANCE.float32, `${name}, row sums`),
  ];
}

/** Some of the rows of an array of rows of E. */
function rowsAt(values: Float64Array, rows: readonly number[]): Float64Array {
  const { E } = big.shape;
  return Float64Array.from(rows.flatMap((row) => [...values.subarray(row * E, (row + 1) * E)]));
}

function rowSums(values: Float64Array): Float64Array {
  const { E } = big.shape;
  return Float64Array.from({ length: values.length / E }, (_, row) =>
    values.subarray(row * E, (row + 1) * E).reduce((sum, value) => sum + value, 0),
  );
}

describe("x [8, 512, 512], 8 heads, as PyTorch computes it", () => {
  test("wasm: out, dx and the gradient of every parameter", { timeout: 120_000 }, async () => {
    await using fa = await open(PROVIDERS.find(({ name }) => name === "wasm")!);
    const mha = FlashMHA.fromSafetensors(fa, bigWeights, big.options);
    const { B } = big.shape;
    const { out, saved } = await mha.forwardTraining(batches(fa, "x", 0, B));
    expect(rowDeviations(await valuesOf(out), "out", 0)).toEqual([]);
    const { dx, gradients } = await mha.backward(saved, batches(fa, "dout", 0, B));
    expect(rowDeviations(await valuesOf(dx), "dx", 0)).toEqual([]);
    for (const name of ["Wqkv.weight", "out_proj.weight"] as const) {
      const got = await valuesOf(gradients[name]);
      const rows = rowsAt(got, big.samples![`grad.${name}.rows`] as readonly number[]);
      const [wantedRows, wantedSums] = [goldenValues(`big/grad.${name}.rows`), goldenValues(`big/grad.${name}.sums`)];
      expect(deviations(rows, wantedRows, TOLERANCE.float32, `grad.${name}, sampled rows`)).toEqual([]);
      expect(deviations(rowSums(got), wantedSums, TOLERANCE.float32, `grad.${name}, row sums`)).toEqual([]);
    }
    for (const name of ["Wqkv.bias", "out_proj.bias"] as const) {
      const got = await valuesOf(gradients[name]!);
      expect(deviations(got, goldenValues(`big/grad.${name}`), TOLERANCE.float32, `grad.${name}`)).toEqual([]);
    }
  });

  // Batches do not see each other, so one of them is held to the same rows at an eighth of the time.
  test("reference: out and dx of one batch", { timeout: 120_000 }, async () => {
    await using fa = await open(PROVIDERS.find(({ name }) => name === "reference")!);
    const mha = FlashMHA.fromSafetensors(fa, bigWeights, big.options);
    const { out, saved } = await mha.forwardTraining(batches(fa, "x", 5, 1));
    expect(rowDeviations(await valuesOf(out), "out", 5)).toEqual([]);
    const { dx } = await mha.backward(saved, batches(fa, "dout", 5, 1));
    expect(rowDeviations(await valuesOf(dx), "dx", 5)).toEqual([]);
  });
});
