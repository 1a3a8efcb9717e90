import { encode, type Attention, type Tensor } from "@fa/core";
import { writeSafetensors } from "@fa/core/safetensors";
import { FlashMHA } from "@fa/nn";
import type { Pass } from "./cases.ts";
import { partOf, type GoldenModule } from "./golden.ts";
import { resultsOf, valuesOf, type Subject } from "./subject.ts";
import { sumBounds, verdict, type Comparison } from "./verify.ts";

/** FlashMHA with PyTorch's weights, on PyTorch's x. */
export async function placeModule(fa: Attention, golden: GoldenModule, pass: Pass): Promise<Subject> {
  const { B, S, E, options, inputs, answers, by } = golden;
  const activations = ["x", "dout"] as const;
  const [x, dout] = activations.map((name) =>
    fa.tensor(Float32Array.from(inputs.get(name)!.values), { shape: [B, S, E] }),
  ) as [Tensor, Tensor];
  const weights = [...inputs].filter(([name]) => name !== "x" && name !== "dout");
  const stored = weights.map(
    ([name, { shape, values }]) => [name, { dtype: "float32", shape, bytes: encode("float32", values) }] as const,
  );
  const mha = FlashMHA.fromSafetensors(fa, writeSafetensors(new Map(stored)), options);

  return {
    async call() {
      if (pass === "forward") return resultsOf({ out: await mha.forward(x) });
      const { out, saved } = await mha.forwardTraining(x);
      const { dx, gradients } = await mha.backward(saved, dout);
      const named = Object.entries(gradients).map(([name, tensor]) => [`grad.${name}`, tensor] as const);
      return resultsOf({ out, dx, ...Object.fromEntries(named) });
    },
    async verify({ tensors }) {
      const comparisons: Comparison[] = [];
      for (const [name, tensor] of Object.entries(tensors)) {
        const values = await valuesOf(tensor);
        const width = tensor.shape.at(-1)!;
        for (const answer of answers.filter((candidate) => candidate.tensor === name)) {
          comparisons.push({
            tensor: typeof answer.part === "string" ? `${name} ${answer.part}` : `${name} rows`,
            got: partOf(answer, values, width),
            truth: answer.values,
            bounds: sumBounds(answer.values),
          });
        }
      }
      return verdict(by, comparisons);
    },
  };
}
