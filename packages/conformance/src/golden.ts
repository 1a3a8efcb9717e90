import { roundTo, resultDType, philox4x32, dropoutMask, type FloatDType } from "@fa/core";
import { naiveAttention, naiveAttentionBackward } from "@fa/core/reference";
import { agree, hold, type Check } from "./check.ts";
import { GOLDEN, readCaseFile, type CaseFile } from "./files.ts";
import {
  dataOf,
  problemOf,
  numbersOf,
  type Backward,
  type Forward,
  type Numbers,
  type Options,
  type Subject,
} from "./subject.ts";

/** A case of `attention.json`: options as `attention` takes them, tensors by name in the safetensors beside it. */
interface AttentionCase {
  readonly name: string;
  readonly capability?: string;
  readonly options: Omit<Options, "dropout"> & {
    readonly dropout?: { readonly p: number; readonly seed: number | string; readonly offset?: number };
  };
  readonly tensors: readonly string[];
}

const OPERANDS = ["bias", "mask", "alibiSlopes", "sinks"] as const;
const GRADIENTS = ["dq", "dk", "dv", "dbias", "dsinks"] as const;

/**
 * Checks from a folder that holds `attention.json` and `attention.safetensors`, whose expected values some other program
 * computed in float64. In half types the same inputs are used (they are exact there) and the rule for halves holds.
 */
export async function attentionChecks(
  folder: URL,
  source: string,
  dtypes: readonly FloatDType[] = ["float32"],
): Promise<Check[]> {
  const file = await readCaseFile<AttentionCase>(folder, "attention");
  return dtypes.flatMap((dtype) =>
    file.cases.map((c) => ({
      name: `${dtype} ${source} ${c.name}`,
      capability: dtype === "float32" ? (c.capability ?? source) : dtype,
      run: (subject) => runAttention(subject, file, c, dtype),
    })),
  );
}

async function runAttention(
  subject: Subject,
  file: CaseFile<AttentionCase>,
  c: AttentionCase,
  dtype: FloatDType,
): Promise<void> {
  const tensor = (name: string): Numbers => ({ ...file.tensor(`${c.name}/${name}`), dtype: undefined });
  const inputs = { q: tensor("q"), k: tensor("k"), v: tensor("v") };
  const { dropout, ...plain } = c.options;
  const seed = typeof dropout?.seed === "string" ? BigInt(dropout.seed) : dropout?.seed;
  const options: Options = {
    ...plain,
    ...(dropout && { dropout: { ...dropout, seed: seed! } }),
    ...Object.fromEntries(OPERANDS.filter((name) => c.tensors.includes(name)).map((name) => [name, tensor(name)])),
  };
  const dout = c.tensors.includes("dout") ? tensor("dout") : undefined;
  const got: Forward & Partial<Backward> = dout
    ? await subject.backward(inputs, dout, options, dtype)
    : await subject.attention(inputs, options, dtype);

  // What naive attention in the same half type makes of it: the yardstick of its tolerance.
  const result = resultDType(dtype);
  const round = (x: number): number => roundTo(result, x);
  const problem = problemOf(inputs, options, dtype);
  const data = dataOf(inputs, options, dtype);
  const naive = result === "float32" ? undefined : naiveAttention(problem, data, round);
  agree("out", got.out, tensor("out").values, { dtype: result, naive: naive?.out });
  agree("lse", got.lse, tensor("lse").values, { scores: got.scores });
  if (!dout) return;
  const rounded = naive && naiveAttentionBackward(problem, data, Float64Array.from(dout.values), round);
  for (const name of GRADIENTS) {
    if (!c.tensors.includes(name)) continue;
    const kind = "gradient";
    agree(name, got[name], tensor(name).values, { kind, dtype: result, naive: rounded?.[name] });
  }
}

interface LinearCase {
  readonly name: string;
  readonly about: string;
  readonly options: { readonly bias: boolean; readonly splits: readonly number[] };
  readonly tensors: readonly string[];
}

/** y = x W^T + bias and its gradients, whole and split, against PyTorch. */
export async function linearChecks(folder: URL = GOLDEN): Promise<Check[]> {
  const file = await readCaseFile<LinearCase>(folder, "linear");
  return file.cases.map((c) => ({
    name: `linear: ${c.about}`,
    capability: "linear",
    run: (subject) => runLinear(subject, file, c),
  }));
}

async function runLinear(subject: Subject, file: CaseFile<LinearCase>, c: LinearCase): Promise<void> {
  const { fa } = subject;
  const tensor = (name: string): Numbers => ({ ...file.tensor(`${c.name}/${name}`), dtype: undefined });
  using x = subject.upload(tensor("x"), "float32");
  using weight = subject.upload(tensor("weight"), "float32");
  using bias = c.options.bias ? subject.upload(tensor("bias"), "float32") : undefined;
  const { splits } = c.options;
  const results = await fa.linearSplit(x, weight, splits, { bias });
  for (const [n, part] of columns(tensor("y"), splits).entries()) {
    agree(`y${n}`, await numbersOf(results[n]), part.values);
    results[n].dispose();
  }
  if (splits.length === 1) {
    using y = await fa.linear(x, weight, { bias });
    agree("y", await numbersOf(y), tensor("y").values);
  }
  const dy = columns(tensor("dy"), splits).map((part) => subject.upload(part, "float32"));
  const gradients = await fa.linearBackward({ x, weight, dy });
  for (const name of ["dx", "dweight", "dbias"] as const) {
    if (c.tensors.includes(name)) {
      agree(name, await numbersOf(gradients[name]), tensor(name).values, { kind: "gradient" });
    }
    gradients[name].dispose();
  }
  for (const part of dy) part.dispose();
}

/** [..., N] cut into [..., width] pieces along its last dimension. */
function columns({ shape, values }: Numbers, widths: readonly number[]): Numbers[] {
  const N = shape.at(-1)!;
  let first = 0;
  return widths.map((width) => {
    const begin = first;
    first += width;
    const rows = N === 0 ? 0 : values.length / N;
    const part = new Float64Array(rows * width);
    for (let r = 0; r < rows; r++) for (let n = 0; n < width; n++) part[r * width + n] = values[r * N + begin + n]!;
    return { shape: [...shape.slice(0, -1), width], values: part };
  });
}

interface PhiloxCase {
  readonly name: string;
  readonly shape: { readonly B: number; readonly H: number; readonly Sq: number; readonly Skv: number };
  readonly dropout: { readonly p: number; readonly seed: number | string; readonly offset?: number };
}

/** The generator's known answers, and dropout masks read off a back end bit by bit. */
export async function philoxChecks(folder: URL = GOLDEN): Promise<Check[]> {
  const file = await readCaseFile<PhiloxCase>(folder, "philox");
  return file.cases.map((c) => ({
    name: `dropout drops the elements that Philox says: ${c.name}`,
    capability: "dropout",
    run: (subject) => runPhilox(subject, file, c),
  }));
}

async function runPhilox(subject: Subject, file: CaseFile<PhiloxCase>, c: PhiloxCase): Promise<void> {
  const { B, H, Sq, Skv } = c.shape;
  const keep = file.tensor(`${c.name}/keep`).values;
  const seed = typeof c.dropout.seed === "string" ? BigInt(c.dropout.seed) : c.dropout.seed;
  const zeros = (rows: number, dim: number): Numbers => {
    const shape = [B, H, rows, dim];
    return { shape, values: new Float64Array(B * H * rows * dim) };
  };
  // All scores equal and v the identity: out[i, j] is 1 / Skv / (1 - p) where kept, 0 where dropped.
  const identity = new Float64Array(B * H * Skv * Skv);
  for (let n = 0; n < B * H * Skv; n++) identity[n * Skv + (n % Skv)] = 1;
  const v = { shape: [B, H, Skv, Skv], values: identity };
  const { out } = await subject.attention(
    { q: zeros(Sq, 4), k: zeros(Skv, 4), v },
    { dropout: { ...c.dropout, seed } },
  );
  for (let n = 0; n < out.length; n++) {
    hold((out[n] !== 0) === (keep[n] !== 0), `element ${n} is ${out[n] ? "kept" : "dropped"}, Philox says otherwise`);
  }
}

/** Core's own generator against the known answers; no back end is needed. */
export async function checkPhiloxAnswers(folder: URL = GOLDEN): Promise<void> {
  interface Answer {
    readonly rounds: number;
    readonly counter: number[];
    readonly key: number[];
    readonly words: number[];
  }
  const file = await readCaseFile<PhiloxCase>(folder, "philox");
  for (const { rounds, counter, key, words } of file.field("answers") as Answer[]) {
    hold(philox4x32(counter, key, rounds).join() === words.join(), `philox4x32-${rounds} of ${counter.join()}`);
  }
  for (const c of file.cases) {
    const { H, Sq, Skv } = c.shape;
    const bits = BigInt(c.dropout.seed);
    const keep = file.tensor(`${c.name}/keep`).values;
    for (let n = 0; n < keep.length; n++) {
      const [batchHead, i, j] = [Math.floor(n / (Sq * Skv)), Math.floor(n / Skv) % Sq, n % Skv];
      const mask = dropoutMask(
        {
          p: c.dropout.p,
          seedLow: Number(bits & 0xffffffffn),
          seedHigh: Number(bits >> 32n),
          offset: c.dropout.offset ?? 0,
        },
        batchHead,
      );
      hold(mask(i, j) === (keep[n] !== 0), `${c.name}: element ${n}, H=${H}`);
    }
  }
}
