/** PyTorch's multi-head attention: inputs, weights, and the answers that a module of ours must give. */
import { decode } from "@fa/core";
import { readSafetensors } from "@fa/core/safetensors";
import { elementsOf, generate } from "./numbers.ts";

/** What the bytes of a golden case file and of its data file are. Reading them is the platform's business. */
export interface GoldenFiles {
  readonly json: Uint8Array;
  readonly data: Uint8Array;
}

export interface GoldenModule {
  readonly name: string;
  /** Who computed the answers: "PyTorch 2.13.0 nn.MultiheadAttention, float64". */
  readonly by: string;
  readonly options: ModuleOptions;
  readonly B: number;
  readonly S: number;
  readonly E: number;
  /** x, dout and the weights, by flash-attn's names. */
  readonly inputs: ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float64Array }>;
  readonly answers: readonly Answer[];
}

export interface ModuleOptions {
  readonly embedDim: number;
  readonly numHeads: number;
  readonly numHeadsKv: number;
  readonly bias: boolean;
  readonly causal: boolean;
}

/** The expected values of a tensor seen as [rows, width]: all of them, some rows, or the sum of every row. */
export interface Answer {
  /** `out`, `dx` or `grad.` and the name of a weight. */
  readonly tensor: string;
  readonly part: "all" | "sums" | readonly number[];
  readonly values: Float64Array;
}

interface CaseEntry {
  readonly name: string;
  readonly by: string;
  readonly options: ModuleOptions;
  readonly shape: { readonly B: number; readonly S: number; readonly E: number };
  readonly tensors: readonly string[];
  readonly generated?: { readonly key: [number, number]; readonly tensors: readonly GeneratedEntry[] };
  readonly samples?: Readonly<Record<string, readonly (number | readonly [number, number])[]>>;
}

interface GeneratedEntry {
  readonly name: string;
  readonly stream: number;
  readonly shape: readonly number[];
  readonly factor: number;
  readonly sum: number;
}

/** One case of the golden module file. */
export function goldenModule({ json, data }: GoldenFiles, name: string): GoldenModule {
  const file = JSON.parse(new TextDecoder().decode(json)) as { torch: string; cases: CaseEntry[] };
  const entry = file.cases.find((candidate) => candidate.name === name);
  if (!entry) throw new Error(`golden/mha.json has no case ${name}`);
  const stored = readSafetensors(data, (tensor) => tensor.startsWith(`${name}/`));
  const { B, S, E } = entry.shape;
  const inputs = new Map(entry.generated?.tensors.map((tensor) => [tensor.name, generated(tensor, entry)]));
  const answers: Answer[] = [];
  for (const tensorName of entry.tensors) {
    const { shape, dtype, bytes } = stored.get(`${name}/${tensorName}`)!;
    const values = decode(dtype, bytes);
    const [, tensor, part] = /^(out|dx|grad\..*?)(?:\.(rows|sums))?$/.exec(tensorName) ?? [];
    if (tensor === undefined) inputs.set(tensorName, { shape, values });
    else if (part === "rows") answers.push({ tensor, part: entry.samples![tensorName].map(rowIndex(S)), values });
    else answers.push({ tensor, part: part === "sums" ? part : "all", values });
  }
  const by = `PyTorch ${file.torch} ${entry.by}, float64`;
  return { name, by, options: entry.options, B, S, E, inputs, answers };
}

/** Rows of [B, S, E] are stored as [b, s], those of weights as their number. */
function rowIndex(S: number): (at: number | readonly [number, number]) => number {
  return (at) => (typeof at === "number" ? at : at[0] * S + at[1]);
}

function generated({ name, shape, stream, factor, sum }: GeneratedEntry, { generated: by }: CaseEntry) {
  const values = generate(elementsOf(shape), { key: by!.key, stream, factor });
  // Exact: the elements are small multiples of one power of two.
  const got = values.reduce((total, value) => total + value, 0);
  if (got !== sum) throw new Error(`golden/mha.json: ${name} must add up to ${sum}; the generator gives ${got}`);
  return { shape, values };
}

/** The part of a tensor [rows, width] that an answer is about. */
export function partOf({ part, values }: Answer, tensor: Float64Array, width: number): Float64Array {
  if (part === "all") return tensor;
  if (part === "sums") {
    return values.map((_, row) => tensor.subarray(row * width, (row + 1) * width).reduce((sum, x) => sum + x, 0));
  }
  const rows = new Float64Array(part.length * width);
  part.forEach((row, n) => rows.set(tensor.subarray(row * width, (row + 1) * width), n * width));
  return rows;
}
