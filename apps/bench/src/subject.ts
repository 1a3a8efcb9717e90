import { decode, encode, roundTo, typedArray, type Attention, type Tensor } from "@fa/core";
import type { AttentionCase, Case } from "./cases.ts";
import { elementsOf, generate, rounded } from "./numbers.ts";
import {
  attentionAtRows,
  halfBounds,
  rowsToCheck,
  takeRows,
  verdict,
  FLOAT32,
  type Bounds,
  type Verification,
} from "./verify.ts";
import { placeModule } from "./module-subject.ts";

/** A case whose inputs lie on a back end, ready to be called again and again. */
export interface Subject {
  /** Enqueues the work. The results are the caller's to free. */
  call(): Promise<Results>;
  /** Compares results with the truth. */
  verify(results: Results): Promise<Verification>;
}

export interface Results {
  readonly tensors: Readonly<Record<string, Tensor>>;
  dispose(): void;
}

export function place(fa: Attention, item: Case): Promise<Subject> {
  return item.kind === "attention" ? placeAttention(fa, item) : placeModule(fa, item.golden, item.facts.pass);
}

/** Of the inputs of attention. Twice as wide for q and k, so that the softmax has something to choose. */
const STREAMS = {
  q: { key: [0x62656e63, 0x68], stream: 0, factor: 2 },
  k: { key: [0x62656e63, 0x68], stream: 1, factor: 2 },
  v: { key: [0x62656e63, 0x68], stream: 2, factor: 1 },
} as const;

async function placeAttention(fa: Attention, { inputs, options, problem }: AttentionCase): Promise<Subject> {
  const { dtype, resultDType, Sq, Dv } = problem;
  const numbers = (name: "q" | "k" | "v"): Float64Array =>
    rounded(dtype, generate(elementsOf(inputs[name].shape), STREAMS[name]));
  const data = { q: numbers("q"), k: numbers("k"), v: numbers("v") };
  const upload = (name: "q" | "k" | "v"): Tensor =>
    fa.tensor(typedArray(dtype, encode(dtype, data[name])), { shape: inputs[name].shape, dtype });
  const [q, k, v] = [upload("q"), upload("k"), upload("v")];

  return {
    async call() {
      const { out, lse } = await fa.attention(q, k, v, { ...options, returnLse: true });
      return resultsOf({ out, lse });
    },
    async verify({ tensors }) {
      const rows = rowsToCheck(problem);
      const truth = attentionAtRows(problem, data, rows);
      const naive = dtype === "float32" ? undefined : attentionAtRows(problem, data, rows, (x) => roundTo(dtype, x));
      const bounds = (name: "out" | "lse"): Bounds =>
        dtype === "float32"
          ? FLOAT32
          : halfBounds(dtype, name === "out" ? resultDType : "float32", truth[name], naive![name]);
      const got = async (name: "out" | "lse", width: number): Promise<Float64Array> =>
        takeRows(await valuesOf(tensors[name]), Sq, width, rows);
      const which = rows.length === Sq ? "all rows" : `${rows.length} of ${Sq} rows a head`;
      return verdict(`float64 reference, ${which}`, [
        { tensor: "out", got: await got("out", Dv), truth: truth.out, bounds: bounds("out") },
        { tensor: "lse", got: await got("lse", 1), truth: truth.lse, bounds: bounds("lse") },
      ]);
    },
  };
}

export function resultsOf(tensors: Readonly<Record<string, Tensor>>): Results {
  return {
    tensors,
    dispose() {
      for (const tensor of Object.values(tensors)) tensor.dispose();
    },
  };
}

/** A tensor's numbers. */
export async function valuesOf(tensor: Tensor): Promise<Float64Array> {
  const { buffer, byteOffset, byteLength } = await tensor.data();
  return decode(tensor.dtype, new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength));
}
