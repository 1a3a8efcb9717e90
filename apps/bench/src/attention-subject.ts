import {
  plan,
  typedArray,
  type Attention,
  type AttentionOptions,
  type FloatDType,
  type Tensor,
  type TensorSpec,
} from "@fa/core";
import type { AttentionCase } from "./cases.ts";
import { bytesOf } from "./numbers.ts";
import { resultsOf, valuesOf, type Results, type Subject } from "./subject.ts";
import { inputSetsOf } from "./traffic.ts";
import { numbersOf, truthOf, type CaseNumbers } from "./truth.ts";

/** Attention, or its backward alone, on the case's numbers. */
export async function placeAttention(fa: Attention, item: AttentionCase): Promise<Subject> {
  const data = numbersOf(item);
  const { capabilities, kernels } = fa.backend;
  const planned = plan(item.problem, capabilities, kernels);
  return {
    ...(await callsOf(fa, item, data)),
    kernel: planned.ok ? planned.kernel.id : undefined,
    async verify({ tensors }) {
      const numbers: Record<string, Float64Array> = {};
      for (const [name, tensor] of Object.entries(tensors)) numbers[name] = await valuesOf(tensor);
      return truthOf(item, data).check(numbers);
    },
  };
}

/** Uploads the inputs; a backward pass runs its forward here, once. */
export async function callOf(fa: Attention, item: AttentionCase, data: CaseNumbers): Promise<() => Promise<Results>> {
  return (await callsOf(fa, item, data)).call;
}

async function callsOf(fa: Attention, item: AttentionCase, data: CaseNumbers): Promise<Omit<Subject, "verify">> {
  const { inputs, options: specs, problem } = item;
  const { dtype } = problem;
  const maker = (values: Float64Array, shape: readonly number[], as: FloatDType = dtype): (() => Tensor) => {
    const elements = typedArray(as, bytesOf(as, values));
    return () => fa.tensor(elements, { shape, dtype: as });
  };
  const upload = (values: Float64Array, { shape, dtype: as }: TensorSpec): Tensor =>
    maker(values, shape, as as FloatDType)();
  const [q, k, v] = (["q", "k", "v"] as const).map((name) => maker(data[name], inputs[name].shape)) as [
    () => Tensor,
    () => Tensor,
    () => Tensor,
  ];
  const query = q();
  const keys: (readonly [Tensor, Tensor])[] = [[k(), v()]];
  const { bias, alibiSlopes, mask, sinks } = specs;
  const options: AttentionOptions = {
    ...specs,
    bias: bias && upload(data.bias!, bias),
    alibiSlopes: alibiSlopes && upload(data.alibiSlopes!, alibiSlopes),
    mask: mask && fa.tensor(data.mask!, mask),
    sinks: sinks && upload(data.sinks!, sinks),
  };
  let turn = 0;
  const inTurn = (): readonly [Tensor, Tensor] => keys[turn++ % keys.length];
  const withLse = { ...options, returnLse: true } as const;
  if (problem.op === "attention") {
    return {
      takeTurns() {
        const inputSets = inputSetsOf(item);
        while (keys.length < inputSets) keys.push([k(), v()]);
        return inputSets;
      },
      async call() {
        const { out, lse } = await fa.attention(query, ...inTurn(), withLse);
        return resultsOf({ out, lse });
      },
      record(encoder) {
        const { out, lse } = fa.encode(encoder, query, ...inTurn(), withLse);
        return resultsOf({ out, lse: lse! });
      },
    };
  }
  const [[key, value]] = keys;
  const { out, lse } = await fa.attention(query, key, value, withLse);
  const dout = upload(data.dout, out);
  return {
    async call() {
      const inputsOf = { q: query, k: key, v: value, out, lse, dout };
      const { dq, dk, dv, dbias, dsinks } = await fa.attentionBackward(inputsOf, options);
      dbias?.dispose();
      dsinks?.dispose();
      return resultsOf({ dq, dk, dv });
    },
  };
}
