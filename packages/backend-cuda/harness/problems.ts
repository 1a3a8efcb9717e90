/** Problems that reach every row of the kernel table, both variants of each kernel, and every way that a tile is loaded. */
import { type Attention, type AttentionOptions, type FloatDType, type Tensor } from "@fa/core";

export interface Sample {
  readonly name: string;
  readonly B: number;
  readonly H: number;
  readonly Hkv: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly Dv: number;
  readonly dtype: FloatDType;
  readonly options: Omit<AttentionOptions, "bias" | "mask" | "alibiSlopes" | "sinks">;
  /** Every option that carries a tensor. */
  readonly general: boolean;
}

const problem = (dtype: FloatDType, rest: Partial<Sample>): Sample => {
  const { D = 64, H = 2 } = rest;
  const whole = { B: 1, Hkv: H, Sq: 75, Skv: 150, Dv: D, options: {}, general: false, ...rest, D, H, dtype };
  const { B, Hkv, Sq, Skv, Dv, options, general } = whole;
  const words = `${dtype} B=${B} H=${H}/${Hkv} S=${Sq}x${Skv} D=${D}/${Dv}`;
  return { ...whole, name: `${words} ${JSON.stringify(options)}${general ? " general" : ""}` };
};

export const PROBLEMS: readonly Sample[] = (["float32", "float16", "bfloat16"] as const).flatMap((dtype) => [
  ...[64, 128, 256].flatMap((D) => [
    problem(dtype, { D, options: { causal: true } }),
    // Rows that are no multiple of 16 bytes.
    problem(dtype, { D: D - 5, H: 4, Hkv: 2, options: { layout: "bshd", window: [40, 7] } }),
    problem(dtype, { D, general: true, options: { softcap: 5, dropout: { p: 0.2, seed: 1 }, causal: true } }),
    // A tile that no kernel for sm_90a has.
    problem(dtype, { D, options: { causal: true, blockSize: 64 } }),
  ]),
  // What kernels for sm_90a take: the common options, full rows and ragged ones, and the others.
  ...[64, 96, 128, 192, 256].flatMap((D) => [
    problem(dtype, { D, H: 4, Hkv: 2, Sq: 300, Skv: 260 }),
    problem(dtype, { D: D - 8, Dv: D, Sq: 260, Skv: 300, options: { layout: "bshd", window: [40, 7] } }),
    problem(dtype, { D, Sq: 200, Skv: 200, options: { softcap: 5, dropout: { p: 0.2, seed: 1 }, causal: true } }),
  ]),
  // Decode: groups packed into rows, keys split, combined.
  ...[64, 128, 256].flatMap((D) => [
    problem(dtype, { H: 8, Hkv: 2, Sq: 1, Skv: 1700, D }),
    problem(dtype, { H: 4, Hkv: 2, Sq: 3, Skv: 300, D: D - 5, options: { layout: "bshd", window: [200, 0] } }),
    problem(dtype, { H: 6, Hkv: 2, Sq: 5, D, general: true, options: { softcap: 5, dropout: { p: 0.2, seed: 1 } } }),
  ]),
  // Too many rows for that kernel, too few for the device.
  problem(dtype, { H: 8, Hkv: 2, Sq: 16, Skv: 1700, D: 64 }),
]);

export const FLOAT8: Sample = problem("float8e4m3", { D: 64, options: { causal: true } });

/** Deterministic values between -1 and 1, in steps that every dtype but float8 holds. */
function values(elements: number, seed: number): Float32Array<ArrayBuffer> {
  const data = new Float32Array(elements);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let n = 0; n < elements; n++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[n] = ((state >>> 24) - 128) / 128;
  }
  return data;
}

/** A tensor of such values. */
export async function tensorOf(
  fa: Attention,
  shape: readonly number[],
  dtype: FloatDType,
  seed: number,
): Promise<Tensor> {
  const elements = shape.reduce((product, size) => product * size, 1);
  const full = fa.tensor(values(elements, seed), { shape });
  if (dtype === "float32") return full;
  const cast = await fa.cast(full, dtype);
  full.dispose();
  return cast;
}

export interface Made {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly options: AttentionOptions;
  readonly dispose: () => void;
}

export async function make(fa: Attention, p: Sample): Promise<Made> {
  const { B, H, Hkv, Sq, Skv, D, Dv, dtype } = p;
  const shape = (heads: number, rows: number, dim: number): number[] =>
    p.options.layout === "bshd" ? [B, rows, heads, dim] : [B, heads, rows, dim];
  const q = await tensorOf(fa, shape(H, Sq, D), dtype, 1);
  const k = await tensorOf(fa, shape(Hkv, Skv, D), dtype, 2);
  const v = await tensorOf(fa, shape(Hkv, Skv, Dv), dtype, 3);
  const extra: Record<string, Tensor> = {};
  if (p.general) {
    extra["bias"] = await tensorOf(fa, [1, H, Sq, Skv], "float32", 4);
    extra["alibiSlopes"] = fa.tensor(new Float32Array(H).fill(0.125), { shape: [H] });
    extra["sinks"] = fa.tensor(new Float32Array(H).fill(0.5), { shape: [H] });
    const mask = Uint8Array.from({ length: Sq * Skv }, (_, n) => (n % 7 === 3 ? 0 : 1));
    extra["mask"] = fa.tensor(mask, { shape: [1, 1, Sq, Skv] });
  }
  const all = [q, k, v, ...Object.values(extra)];
  const dispose = (): void => all.forEach((tensor) => tensor.dispose());
  return { q, k, v, options: { ...p.options, ...extra }, dispose };
}

/** Forward and backward once; the bytes of every result. */
export async function runOnce(fa: Attention, { q, k, v, options }: Made): Promise<Uint8Array[]> {
  const { out, lse } = await fa.attention(q, k, v, { ...options, returnLse: true });
  const { dq, dk, dv, dbias, dsinks } = await fa.attentionBackward({ q, k, v, out, lse, dout: out }, options);
  const all = [out, lse, dq, dk, dv, dbias, dsinks].filter((tensor) => tensor !== undefined);
  const bytes = await Promise.all(
    all.map(async (tensor) => {
      const data = (await tensor.data()) as Float32Array;
      return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    }),
  );
  for (const tensor of all) tensor.dispose();
  return bytes;
}
