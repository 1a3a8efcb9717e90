import { decode, type FloatDType } from "@fa/core";
import { readSafetensors, type StoredTensor } from "@fa/core/safetensors";
import { agree, type Check } from "./check.ts";
import { readFile } from "./files.ts";
import type { Numbers, Options, Subject } from "./subject.ts";

/** One node test of the ONNX project's `Attention`, as its attributes and the names of its tensors. */
interface OnnxCase {
  readonly name: string;
  readonly attributes: {
    readonly q_num_heads?: number;
    readonly kv_num_heads?: number;
    readonly is_causal?: number;
    readonly scale?: number;
    readonly softcap?: number;
  };
  readonly inputs: Readonly<Record<string, string>>;
  readonly outputs: Readonly<Record<string, string>>;
}

/**
 * The ONNX project's node tests of `Attention` (opset 23 and 24), translated to this interface: past keys are put before the new
 * ones; causal is j <= i + offset with the past's length, or nonpad_kv_seqlen - Sq, as offset; a float mask is a bias. The
 * intermediate `qk_matmul_output` that some of them ask for does not exist in a fused kernel and is not compared.
 */
export async function onnxChecks(folder: URL): Promise<Check[]> {
  const json = new TextDecoder().decode(await readFile(new URL("attention.json", folder)));
  const { cases } = JSON.parse(json) as { cases: OnnxCase[] };
  const file = await readFile(new URL("attention.safetensors", folder));
  const tensors = readSafetensors(file, (name) => !name.endsWith(LENGTHS));
  const lengths = readInt64(file, (name) => name.endsWith(LENGTHS));
  return cases.map((c) => ({ name: `onnx ${c.name}`, capability: "onnx", run: (s) => run(s, c, tensors, lengths) }));
}

const LENGTHS = "/nonpad_kv_seqlen";

async function run(
  subject: Subject,
  { attributes, inputs, outputs }: OnnxCase,
  tensors: ReadonlyMap<string, StoredTensor>,
  lengths: ReadonlyMap<string, readonly number[]>,
): Promise<void> {
  const input = (name: string): StoredTensor | undefined => tensors.get(inputs[name] ?? "");
  const { q_num_heads: H, kv_num_heads: Hkv } = attributes;
  const Q = input("Q")!;
  const dtype = Q.dtype as FloatDType;
  const q = heads(Q, H);
  const k = joined(input("past_key"), heads(input("K")!, Hkv));
  const v = joined(input("past_value"), heads(input("V")!, Hkv));
  const [B, , Sq] = q.shape as [number, number, number];
  const Skv = k.shape[2];
  const nonpad = lengths.get(inputs.nonpad_kv_seqlen ?? "");
  const past = input("past_key")?.shape[2] ?? 0;

  const given = input("attn_mask");
  // Causal is the option where every batch has the same offset and one of our alignments; elsewhere it is a mask.
  const causal = !attributes.is_causal || nonpad ? false : past === 0 ? "top-left" : "bottom-right";
  const byMask = nonpad !== undefined || (causal === "bottom-right" && past !== Skv - Sq);
  const visible = new Uint8Array(B * Sq * Skv).fill(1);
  for (let n = 0; n < visible.length; n++) {
    const [b, i, j] = [Math.floor(n / (Sq * Skv)), Math.floor(n / Skv) % Sq, n % Skv];
    const keys = nonpad?.[b] ?? Skv;
    const offset = nonpad ? keys - Sq : past;
    if (j >= keys || (attributes.is_causal && j > i + offset)) visible[n] = 0;
  }
  const isBool = given?.dtype === "bool";
  const padded = given && widen(given, Skv, isBool ? 0 : -Infinity);
  const hidden: Numbers = { shape: [B, 1, Sq, Skv], values: visible, dtype: "bool" };
  const { scale, softcap } = attributes;
  const options: Options = {
    scale,
    softcap,
    causal: byMask ? false : causal,
    ...((byMask || isBool) && { mask: isBool ? both(hidden, padded!) : hidden }),
    ...(padded && !isBool && { bias: { ...padded, dtype: undefined } }),
  };
  const { out } = await subject.attention({ q, k, v }, options, dtype);
  const Y = tensors.get(outputs.Y)!;
  const expected = heads(Y, H).values;
  // ONNX computes float16 cases in float16; two roundings of either kind may lie between the two answers.
  const loose = Array.from(expected, (y) => y * (1 + 2 ** -9));
  agree("Y", out, expected, { dtype, naive: loose });
}

/** [B, S, heads * D] to [B, heads, S, D]; rank 4 stays as it is. */
function heads({ shape, dtype, bytes }: StoredTensor, count: number | undefined): Numbers {
  const values = decode(dtype, bytes);
  if (shape.length === 4) return { shape, values };
  const [B, S, features] = shape as [number, number, number];
  const D = features / count!;
  const split = Float64Array.from(values, (_, n) => {
    const [b, h, s, d] = [
      Math.floor(n / (S * features)),
      Math.floor(n / (S * D)) % count!,
      Math.floor(n / D) % S,
      n % D,
    ];
    return values[(b * S + s) * features + h * D + d];
  });
  return { shape: [B, count!, S, D], values: split };
}

/** Past before present along the rows of [B, heads, S, D]. */
function joined(past: StoredTensor | undefined, present: Numbers): Numbers {
  if (!past) return present;
  const before = decode(past.dtype, past.bytes);
  const [B, H, S, D] = present.shape as [number, number, number, number];
  const P = past.shape[2];
  const values = new Float64Array(B * H * (P + S) * D);
  for (let n = 0; n < B * H; n++) {
    values.set(before.subarray(n * P * D, (n + 1) * P * D), n * (P + S) * D);
    values.set((present.values as Float64Array).subarray(n * S * D, (n + 1) * S * D), (n * (P + S) + P) * D);
  }
  return { shape: [B, H, P + S, D], values };
}

/** A mask with fewer keys than there are is padded with "not"; its rank is made 4. */
function widen({ shape, dtype, bytes }: StoredTensor, Skv: number, not: number): Numbers {
  const values = decode(dtype, bytes);
  const keys = shape.at(-1)!;
  const rows = values.length / keys;
  const wide = new Float64Array(rows * Skv).fill(not);
  for (let r = 0; r < rows; r++) wide.set(values.subarray(r * keys, (r + 1) * keys), r * Skv);
  return { shape: [...Array<number>(4 - shape.length).fill(1), ...shape.slice(0, -1), Skv], values: wide, dtype };
}

/** What both masks let through; the second broadcasts over [B, 1 or H, Sq, Skv]. */
function both(first: Numbers, second: Numbers): Numbers {
  const [B, , Sq, Skv] = first.shape as [number, number, number, number];
  const [b2, H, i2] = second.shape as [number, number, number];
  const values = new Uint8Array(B * H * Sq * Skv);
  for (let n = 0; n < values.length; n++) {
    const [b, h, i, j] = [
      Math.floor(n / (H * Sq * Skv)),
      Math.floor(n / (Sq * Skv)) % H,
      Math.floor(n / Skv) % Sq,
      n % Skv,
    ];
    const other = (((b2 === 1 ? 0 : b) * H + h) * i2 + (i2 === 1 ? 0 : i)) * Skv + j;
    values[n] = first.values[(b * Sq + i) * Skv + j] && second.values[other] ? 1 : 0;
  }
  return { shape: [B, H, Sq, Skv], values, dtype: "bool" };
}

/** 64-bit integers are no dtype of ours: read by hand. */
function readInt64(file: Uint8Array, filter: (name: string) => boolean): Map<string, number[]> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const headerBytes = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.slice(8, 8 + headerBytes))) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const found = new Map<string, number[]>();
  for (const [name, { data_offsets: offsets }] of Object.entries(header)) {
    if (!filter(name)) continue;
    const count = (offsets[1] - offsets[0]) / 8;
    found.set(
      name,
      Array.from({ length: count }, (_, n) => Number(view.getBigInt64(8 + headerBytes + offsets[0] + 8 * n, true))),
    );
  }
  return found;
}
