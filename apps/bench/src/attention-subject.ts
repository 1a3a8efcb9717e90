import { encode, typedArray, type Attention, type AttentionOptions, type FloatDType, type Tensor } from "@fa/core";
import type { AttentionCase } from "./cases.ts";
import { resultsOf, valuesOf, type Results, type Subject } from "./subject.ts";
import { numbersOf, truthOf, type CaseNumbers } from "./truth.ts";

/** Attention, or its backward alone, on the case's numbers. */
export async function placeAttention(fa: Attention, item: AttentionCase): Promise<Subject> {
  const data = numbersOf(item);
  const call = await callOf(fa, item, data);
  return {
    call,
    async verify({ tensors }) {
      const numbers: Record<string, Float64Array> = {};
      for (const [name, tensor] of Object.entries(tensors)) numbers[name] = await valuesOf(tensor);
      return truthOf(item, data).check(numbers);
    },
  };
}

/** Uploads the inputs; a backward pass runs its forward here, once. */
export async function callOf(
  fa: Attention,
  { inputs, options: specs, problem }: AttentionCase,
  data: CaseNumbers,
): Promise<() => Promise<Results>> {
  const { dtype } = problem;
  const upload = (values: Float64Array, shape: readonly number[], as: FloatDType = dtype): Tensor =>
    fa.tensor(typedArray(as, encode(as, values)), { shape, dtype: as });
  const [q, k, v] = (["q", "k", "v"] as const).map((name) => upload(data[name], inputs[name].shape)) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  const options: AttentionOptions = {
    ...specs,
    bias: specs.bias && upload(data.bias!, specs.bias.shape),
    alibiSlopes: specs.alibiSlopes && upload(data.alibiSlopes!, specs.alibiSlopes.shape, "float32"),
  };
  const forward = () => fa.attention(q, k, v, { ...options, returnLse: true });
  if (problem.op === "attention") {
    return async () => {
      const { out, lse } = await forward();
      return resultsOf({ out, lse });
    };
  }
  const { out, lse } = await forward();
  const dout = upload(data.dout, out.shape);
  return async () => {
    const { dq, dk, dv } = await fa.attentionBackward({ q, k, v, out, lse, dout }, options);
    return resultsOf({ dq, dk, dv });
  };
}
