import {
  attentionProblem,
  decode,
  encode,
  roundTo,
  type Attention,
  type AttentionOptionsOf,
  type AttentionProblem,
  type DType,
  type FloatDType,
  type Tensor,
  type TensorData,
} from "@fa/core";
import type { AttentionData } from "@fa/core/reference";

/** An array of numbers with a shape: a tensor that no back end owns. */
export interface Numbers {
  readonly shape: readonly number[];
  readonly values: ArrayLike<number>;
  /** How it is stored on the back end; the dtype of the check unless given. */
  readonly dtype?: DType | undefined;
}

export type Options = AttentionOptionsOf<Numbers>;

export interface Inputs {
  readonly q: Numbers;
  readonly k: Numbers;
  readonly v: Numbers;
}

export interface Forward {
  readonly out: Float64Array;
  readonly lse: Float64Array;
  /** What the kernel rounded scores to: lse is no more exact than that. */
  readonly scores?: FloatDType | undefined;
}

export interface Backward extends Forward {
  readonly dq: Float64Array;
  readonly dk: Float64Array;
  readonly dv: Float64Array;
  readonly dbias?: Float64Array | undefined;
  readonly dsinks?: Float64Array | undefined;
}

/** A back end under test, spoken to in plain numbers through the public interface alone. Tensors go when the call ends. */
export class Subject {
  readonly fa: Attention;
  /** Tile sizes forced on every call that names none. */
  readonly blockSize: AttentionOptionsOf<never>["blockSize"];

  constructor(fa: Attention, blockSize?: AttentionOptionsOf<never>["blockSize"]) {
    this.fa = fa;
    this.blockSize = blockSize;
  }

  upload({ shape, values, dtype }: Numbers, fallback: FloatDType): Tensor {
    const storedAs = dtype ?? fallback;
    return this.fa.tensor(arrayOf(storedAs, values), { shape, dtype: storedAs });
  }

  async attention(inputs: Inputs, options: Options = {}, dtype: FloatDType = "float32"): Promise<Forward> {
    return this.#with(inputs, options, dtype, async (tensors, uploaded) => {
      const { q, k, v } = tensors;
      const { scores } = this.fa.plan(q, k, v, uploaded).kernel;
      return { ...(await taken({ ...(await this.fa.attention(q, k, v, { ...uploaded, returnLse: true })) })), scores };
    });
  }

  /** Forward, then backward for `dout`. */
  async backward(
    inputs: Inputs,
    dout: Numbers,
    options: Options = {},
    dtype: FloatDType = "float32",
  ): Promise<Backward> {
    return this.#with(inputs, options, dtype, async (tensors, uploaded) => {
      const { q, k, v } = tensors;
      const { out, lse } = await this.fa.attention(q, k, v, { ...uploaded, returnLse: true });
      using gradient = this.upload(dout, out.dtype as FloatDType);
      try {
        const gradients = await this.fa.attentionBackward({ q, k, v, out, lse, dout: gradient }, uploaded);
        const { scores } = this.fa.plan(q, k, v, uploaded).kernel;
        return { ...(await taken({ out, lse, ...gradients })), scores };
      } finally {
        out.dispose();
        lse.dispose();
      }
    });
  }

  async #with<R>(
    inputs: Inputs,
    options: Options,
    dtype: FloatDType,
    use: (tensors: Record<keyof Inputs, Tensor>, options: AttentionOptionsOf<Tensor>) => Promise<R>,
  ): Promise<R> {
    const made: Tensor[] = [];
    const upload = (numbers: Numbers, fallback: FloatDType): Tensor => {
      const tensor = this.upload(numbers, fallback);
      made.push(tensor);
      return tensor;
    };
    const { bias, mask, alibiSlopes, sinks, ...plain } = options;
    try {
      const tensors = { q: upload(inputs.q, dtype), k: upload(inputs.k, dtype), v: upload(inputs.v, dtype) };
      return await use(tensors, {
        ...(this.blockSize !== undefined && { blockSize: this.blockSize }),
        ...plain,
        ...(bias && { bias: upload(bias, "float32") }),
        ...(mask && { mask: upload({ ...mask, dtype: "bool" }, "float32") }),
        ...(alibiSlopes && { alibiSlopes: upload(alibiSlopes, "float32") }),
        ...(sinks && { sinks: upload(sinks, "float32") }),
      });
    } finally {
      for (const tensor of made) tensor.dispose();
    }
  }
}

/** Contents of result tensors, which are disposed. */
async function taken<Name extends string>(tensors: Readonly<Partial<Record<Name, Tensor | undefined>>>) {
  const numbers: Partial<Record<Name, Float64Array>> = {};
  for (const [name, tensor] of Object.entries(tensors) as [Name, Tensor | undefined][]) {
    if (!tensor) continue;
    numbers[name] = await numbersOf(tensor);
    tensor.dispose();
  }
  return numbers as Record<Name, Float64Array>;
}

/** Contents of a tensor as float64. */
export async function numbersOf(tensor: Tensor): Promise<Float64Array> {
  const data = await tensor.data();
  return decode(tensor.dtype, new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength));
}

/** The typed array that holds values rounded once to a dtype: raw bits for the half types and float8. */
export function arrayOf(dtype: DType, values: ArrayLike<number>): TensorData {
  const bytes = encode(dtype, values);
  if (dtype === "float32") return new Float32Array(bytes.buffer);
  if (dtype === "int32") return new Int32Array(bytes.buffer);
  return dtype === "float16" || dtype === "bfloat16" ? new Uint16Array(bytes.buffer) : bytes;
}

/** Values as the back end sees them: rounded to the dtype that they are stored in. */
export function stored({ values, dtype }: Numbers, fallback: FloatDType): Float64Array {
  const type = dtype ?? fallback;
  if (type === "int32" || type === "bool") return Float64Array.from(values);
  return Float64Array.from(values, (x) => roundTo(type, x));
}

/** The inputs of a call as the reference algorithms take them. */
export function dataOf({ q, k, v }: Inputs, options: Options, dtype: FloatDType): AttentionData {
  const { bias, mask, alibiSlopes, sinks } = options;
  return {
    q: stored(q, dtype),
    k: stored(k, dtype),
    v: stored(v, dtype),
    bias: bias && stored(bias, "float32"),
    mask: mask && Uint8Array.from(mask.values),
    alibiSlopes: alibiSlopes && stored(alibiSlopes, "float32"),
    sinks: sinks && stored(sinks, "float32"),
  };
}

/** The problem that core makes of the same call. */
export function problemOf(inputs: Inputs, options: Options, dtype: FloatDType): AttentionProblem {
  const spec = ({ shape, dtype: own }: Numbers, fallback: DType) => ({ shape, dtype: own ?? fallback });
  const { bias, mask, alibiSlopes, sinks, ...plain } = options;
  return attentionProblem(
    { q: spec(inputs.q, dtype), k: spec(inputs.k, dtype), v: spec(inputs.v, dtype) },
    {
      ...plain,
      bias: bias && spec(bias, "float32"),
      mask: mask && spec({ ...mask, dtype: "bool" }, "float32"),
      alibiSlopes: alibiSlopes && spec(alibiSlopes, "float32"),
      sinks: sinks && spec(sinks, "float32"),
    },
  );
}
