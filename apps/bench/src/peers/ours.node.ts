import { createAttention } from "@fa/core";
import { wasm } from "@fa/backend-wasm";
import { callOf } from "../attention-subject.ts";
import type { AttentionCase } from "../cases.ts";
import { valuesOf } from "../subject.ts";
import { numbersOf } from "../truth.ts";
import type { Player, PlayerSpec } from "./player.ts";

/** @throws Error when the back end does not compute on as many threads */
export async function openOurs({ threads, simd }: PlayerSpec): Promise<Player> {
  const options = { threads, ...(simd && { simd }) };
  const open = () => createAttention({ backends: [wasm(options)] });
  const fa = await open();
  const { device } = fa.backend;
  if (threads > 1 && device.includes("one thread")) throw new Error(`the back end computes on one thread (${device})`);
  await fa.dispose();
  return {
    what: device,
    async place(item, numbersOfIt) {
      const data = numbersOfIt();
      // An instance of its own, so that memory is the case's.
      const one = await open();
      const call = await callOf(one, item, data);
      return {
        async call() {
          const results = await call();
          await one.sync();
          return {
            async numbers() {
              const numbers: Record<string, Float32Array> = {};
              for (const [name, tensor] of Object.entries(results.tensors)) {
                numbers[name] = Float32Array.from(await valuesOf(tensor));
              }
              return numbers;
            },
            dispose: () => results.dispose(),
          };
        },
        free: () => one.dispose(),
        peakBytes: () => one.memory().peakBytes,
      };
    },
  };
}

/** Milliseconds from opening the back end, its modules loaded and its inputs at hand, to the end of the first call. */
export async function startUp(item: AttentionCase, threads?: number): Promise<number> {
  const { inputs } = item;
  const data = numbersOf(item);
  const [q, k, v] = [data.q, data.k, data.v].map((values) => Float32Array.from(values)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const start = performance.now();
  const fa = await createAttention({ backends: [wasm({ threads })] });
  const tensors = [fa.tensor(q, inputs.q), fa.tensor(k, inputs.k), fa.tensor(v, inputs.v)] as const;
  await fa.attention(...tensors);
  await fa.sync();
  const ms = performance.now() - start;
  await fa.dispose();
  return ms;
}
