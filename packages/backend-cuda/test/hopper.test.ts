/** The kernels for sm_90a, played on the CPU, beside the generic ones, which the conformance suite holds to the contract. */
import { createAttention, type Attention, type AttentionOptions, type Tensor } from "@fa/core";
import { describe, expect, test } from "vitest";
import { cuda } from "../src/index.ts";
import { emulatedAddon } from "../tools/build.ts";

const { path: addon } = await emulatedAddon();

async function onDevice(capability: number): Promise<Attention> {
  process.env["FA_EMULATED_CAPABILITY"] = `${capability}`;
  const fa = await createAttention({ backends: [cuda({ addon, poison: true })] });
  delete process.env["FA_EMULATED_CAPABILITY"];
  return fa;
}

/** Of q, k, v [B, H, S, D] with Hkv heads of k and v, and Dv columns of v. */
interface Sizes {
  readonly B?: number;
  readonly H: number;
  readonly Hkv?: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly Dv?: number;
}

/** The same numbers for each device; `taint` is put into one column of the last key's value. */
const values = ([B, H, S, D]: readonly number[], seed: number, taint?: number): Float32Array<ArrayBuffer> => {
  const data = Float32Array.from({ length: B * H * S * D }, (_, n) => 2 * Math.sin(seed + n * (n % 7) * 0.37));
  if (taint !== undefined) data[data.length - D] = taint;
  return data;
};

/** out and lse of one problem, as float32. */
async function answer(
  fa: Attention,
  { B = 1, H, Hkv = H, Sq, Skv, D, Dv = D }: Sizes,
  dtype: "float16" | "bfloat16",
  options: (fa: Attention) => AttentionOptions,
  taint?: number,
): Promise<{ kernel: string; out: Float32Array; lse: Float32Array }> {
  const make = async (shape: readonly number[], seed: number, spoilt?: number): Promise<Tensor> => {
    using float32 = fa.tensor(values(shape, seed, spoilt), { shape });
    return fa.cast(float32, dtype);
  };
  using q = await make([B, H, Sq, D], 1);
  using k = await make([B, Hkv, Skv, D], 2);
  using v = await make([B, Hkv, Skv, Dv], 3, taint);
  const chosen = options(fa);
  const { out: rounded, lse } = await fa.attention(q, k, v, { ...chosen, returnLse: true });
  using out = await fa.cast(rounded, "float32");
  rounded.dispose();
  const { kernel } = fa.plan(q, k, v, chosen);
  const read = { kernel: kernel.id, out: (await out.data()) as Float32Array, lse: (await lse.data()) as Float32Array };
  lse.dispose();
  return read;
}

const SIZES: Sizes[] = [
  { H: 2, Sq: 200, Skv: 217, D: 64 },
  { B: 2, H: 3, Sq: 65, Skv: 300, D: 96, Dv: 72 },
  { H: 4, Hkv: 2, Sq: 300, Skv: 300, D: 128 },
  { H: 1, Sq: 150, Skv: 40, D: 192 },
  { H: 2, Sq: 140, Skv: 170, D: 256, Dv: 232 },
  // Beyond 1024, so with other tiles.
  { H: 1, Sq: 300, Skv: 1100, D: 64 },
  { H: 1, Sq: 140, Skv: 1050, D: 256 },
];
const OPTIONS: [string, (fa: Attention) => AttentionOptions][] = [
  ["", () => ({})],
  ["causal", () => ({ causal: true })],
  ["a window", () => ({ window: [40, 7] })],
  ["softcap and dropout", () => ({ softcap: 3, dropout: { p: 0.2, seed: 5 } })],
];

describe.skipIf(addon === undefined)("the kernels for sm_90a", () => {
  test.each(SIZES)("give what the generic ones give: %j", async (sizes) => {
    const [generic, hopper] = [await onDevice(89), await onDevice(90)];
    for (const [n, [name, options]] of OPTIONS.entries()) {
      const dtype = n % 2 === 0 ? "bfloat16" : "float16";
      const expected = await answer(generic, sizes, dtype, options);
      // Both round p to the dtype before it is multiplied with v, and out once.
      const near = { bfloat16: 2 ** -7, float16: 2 ** -10 }[dtype];
      for (const order of ["", "reverse"]) {
        process.env["FA_EMULATE_ORDER"] = order;
        const got = await answer(hopper, sizes, dtype, options);
        delete process.env["FA_EMULATE_ORDER"];
        expect(got.kernel).toMatch(/^hopper/);
        expect(furthest(got.out, expected.out), `out, ${name} ${order}`).toBeLessThan(2 * near);
        expect(furthest(got.lse, expected.lse), `lse, ${name} ${order}`).toBeLessThan(1e-5);
      }
    }
    await Promise.all([generic.dispose(), hopper.dispose()]);
  });

  test("NaN in a value reaches the rows that see it, and no bit of another", async () => {
    const fa = await onDevice(90);
    const sizes = { H: 1, Sq: 200, Skv: 200, D: 64 };
    const causal = (): AttentionOptions => ({ causal: true });
    const clean = await answer(fa, sizes, "bfloat16", causal);
    for (const taint of [NaN, Infinity]) {
      const { out } = await answer(fa, sizes, "bfloat16", causal, taint);
      // The last row alone sees the last key.
      const seen = out.length - sizes.D;
      expect(out[seen]).toBeNaN();
      out[seen] = clean.out[seen];
      expect(out).toEqual(clean.out);
    }
    await fa.dispose();
  });
});

/** The largest distance, beside 1 or what is larger. */
function furthest(got: Float32Array, expected: Float32Array): number {
  expect(got.length).toBe(expected.length);
  return got.reduce((most, x, n) => {
    const y = expected[n];
    // Where both are the same infinity there is no distance.
    return x === y ? most : Math.max(most, Math.abs(x - y) / Math.max(1, Math.abs(y)), Number.isNaN(x - y) ? 9 : 0);
  }, 0);
}
