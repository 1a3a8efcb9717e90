import { encode, FaError, philox4x32, typedArray, type Attention, type Tensor } from "@fa/core";
import type { ResolvedConfig } from "./config.ts";

/** The weights of a module by flash-attn's names, or gradients of them. Biases are there when the module has them. */
export interface MHAParameters {
  /** Shape [E + 2 Hkv D, E]; rows of all query heads, then of all key heads, then of all value heads. */
  readonly "Wqkv.weight": Tensor;
  /** [E + 2 Hkv D] */
  readonly "Wqkv.bias"?: Tensor | undefined;
  /** [E, E] */
  readonly "out_proj.weight": Tensor;
  /** [E] */
  readonly "out_proj.bias"?: Tensor | undefined;
}

export type ParameterName = keyof MHAParameters;

/** Names and shapes of a module's parameters, in the order in which files hold them. */
export function parameterShapes(config: ResolvedConfig): (readonly [ParameterName, readonly number[]])[] {
  const { embedDim, numHeadsKv, headDim, bias } = config;
  const qkvDim = embedDim + 2 * numHeadsKv * headDim;
  const all = [
    ["Wqkv.weight", [qkvDim, embedDim]],
    ["Wqkv.bias", [qkvDim]],
    ["out_proj.weight", [embedDim, embedDim]],
    ["out_proj.bias", [embedDim]],
  ] as const;
  return all.filter(([name]) => bias || !name.endsWith(".bias"));
}

/** Tensors with the bytes that `bytesOf` gives for each parameter; if one cannot be had, none stays allocated. */
export function makeParameters(
  fa: Attention,
  config: ResolvedConfig,
  bytesOf: (name: ParameterName, shape: readonly number[], index: number) => Uint8Array<ArrayBuffer>,
): MHAParameters {
  const { dtype } = config;
  const made: [ParameterName, Tensor][] = [];
  try {
    for (const [index, [name, shape]] of parameterShapes(config).entries()) {
      made.push([name, fa.tensor(typedArray(dtype, bytesOf(name, shape, index)), { shape, dtype })]);
    }
  } catch (error) {
    for (const [, tensor] of made) tensor.dispose();
    throw error;
  }
  return parametersOf(made);
}

export function parametersOf(entries: readonly (readonly [ParameterName, Tensor])[]): MHAParameters {
  return Object.freeze(Object.fromEntries(entries)) as unknown as MHAParameters;
}

/** The tensors that `of` gives for each parameter. */
export function mapParameters(parameters: MHAParameters, of: (tensor: Tensor) => Tensor): MHAParameters {
  return parametersOf(entriesOf(parameters).map(([name, tensor]) => [name, of(tensor)]));
}

export function entriesOf(parameters: MHAParameters): [ParameterName, Tensor][] {
  return Object.entries(parameters) as [ParameterName, Tensor][];
}

/**
 * Weights and biases as torch.nn.Linear starts them: uniform in +-1 / sqrt(E).
 * @throws FaError FA_OUT_OF_MEMORY
 */
export function uniformParameters(fa: Attention, config: ResolvedConfig): MHAParameters {
  const bound = 1 / Math.sqrt(config.embedDim);
  return makeParameters(fa, config, (name, shape, index) => {
    const elements = shape.reduce((product, size) => product * size, 1);
    try {
      return encode(config.dtype, uniform(elements, bound, config.seed, index));
    } catch (cause) {
      const message = `FlashMHA(embedDim): weights must fit in host memory; got ${name} of ${elements} elements. Use a smaller module.`;
      throw new FaError("FA_OUT_OF_MEMORY", message, { cause });
    }
  });
}

/** Rounds of Philox for weights: dropout uses 7, so equal seeds share no draw. */
const UNIFORM_ROUNDS = 10;

/** Numbers uniform in (-bound, bound): element n is word n mod 4 of the counter (floor(n / 4), stream). */
function uniform(elements: number, bound: number, seed: number | bigint, stream: number): Float64Array {
  const values = new Float64Array(elements);
  const bits = BigInt(seed);
  const key = [Number(bits & 0xffffffffn), Number(bits >> 32n)];
  const words = new Uint32Array(4);
  for (let n = 0; n < elements; n++) {
    const group = Math.floor(n / 4);
    if (n % 4 === 0) philox4x32([group >>> 0, Math.floor(group / 2 ** 32), stream, 0], key, UNIFORM_ROUNDS, words);
    values[n] = bound * (((words[n % 4] + 0.5) / 2 ** 32) * 2 - 1);
  }
  return values;
}
