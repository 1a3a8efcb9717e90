/**
 * The results file: what a run found out, on which machine, by which commit. Read and written by the terminal, the
 * README's numbers, and whatever draws them; validated whenever it is read.
 */
import { DTYPES, FaError, type CandidateReport, type FloatDType, type Roof } from "@fa/core";
import { GROUPS, PASSES, type CaseFacts } from "./cases.ts";
import { TIMERS, type Timing } from "./measure.ts";
import { BOUNDS, LACKS, stateOf, UNITS, type TargetOutcome } from "./target.ts";
import { bytesOfSizes, moduleBytes } from "./traffic.ts";
import type { Passed, Refuted } from "./verify.ts";

export const SCHEMA = "fa-bench";
/**
 * 2: `kind`; cases tell Hkv, Sq and Skv apart. 3: `contestOf`, `gpu`, `kernel`, rates and times of GPUs. 4: contests of CUDA,
 * whose `gpu` has `cuda` in place of `webgpu`. 5: `timer`, `warmUpCalls`, `inputSets`; `Dv` and `bytes` of cases; `bandwidth` and
 * `matrixRoof` of a run; `mayErr`.
 */
export const VERSION = 5;
/** Older versions that can be read: what they lack follows from what they have (`upgraded`). */
const READABLE: readonly unknown[] = [2, 3, 4, VERSION];

export interface Machine {
  /** What people call it. */
  readonly name: string;
  readonly cpu: string;
  readonly cores: number;
  /** "linux-x64" */
  readonly platform: string;
  /** "node 26.1.0" */
  readonly runtime: string;
}

/** What became of a case. Only a verified one has times. */
export type Outcome = CaseFacts &
  (
    | {
        readonly outcome: "measured";
        readonly verification: Passed;
        readonly timing: Timing;
        /** The most that tensors and workspace took on the device; null where the library does not tell. */
        readonly peakBytes: number | null;
        /** The kernel that ran, where there are several. */
        readonly kernel?: string | undefined;
      }
    | { readonly outcome: "wrong"; readonly verification: Refuted }
    | { readonly outcome: "failed" | "skipped"; readonly reason: string }
  );

export type Measured = Extract<Outcome, { outcome: "measured" }>;

interface AnyFile {
  readonly schema: typeof SCHEMA;
  readonly version: typeof VERSION;
  readonly machine: Machine;
  /** ISO 8601, UTC. */
  readonly date: string;
  /** Of the code that ran, with "-dirty" when files differed from it; null where there is no git. */
  readonly commit: string | null;
  /** False when the run was stopped before its last case. */
  readonly complete: boolean;
}

/** One back end over its cases: what `npm start` does. */
export interface RunFile extends AnyFile {
  readonly kind: "run";
  /** What the device's arithmetic can do at best, measured in the same run. */
  readonly roof: Roof;
  /** The same of its matrix units, where back ends use them and `roof` is not of them. */
  readonly matrixRoof?: Roof | undefined;
  /** What its memory moves at best; null where nothing measures it. */
  readonly bandwidth: Bandwidth | null;
  readonly backend: BackendFacts;
  /** Every back end that was tried, and why each was or was not taken. */
  readonly candidates: readonly CandidateReport[];
  readonly outcomes: readonly Outcome[];
}

export interface BackendFacts {
  readonly name: string;
  readonly device: string;
  /** Version, driver and what else its speed depends on, where it tells. */
  readonly identity?: string | undefined;
}

/** The rate of memory, measured. */
export interface Bandwidth {
  readonly gbs: number;
  /** What was measured: "reading 256 MiB". */
  readonly what: string;
}

/** Several libraries over the same cases, taking turns: what `--peers` and `--targets` do. */
export interface ContestFile extends AnyFile {
  readonly kind: "contest";
  /** What the device's arithmetic can do at best, measured in the same run; null where its gauge was found to be wrong. */
  readonly roof: Roof | null;
  /** Whose contest it is. */
  readonly contestOf: ContestOf;
  /** Of a contest of GPUs. */
  readonly gpu?: GpuFacts | undefined;
  readonly contestants: readonly ContestantReport[];
  readonly entries: readonly Entry[];
  /** Empty without `--targets`. */
  readonly targets: readonly TargetOutcome[];
}

export type ResultsFile = RunFile | ContestFile;

export const CONTESTS = ["wasm", "webgpu", "cuda"] as const;
/** The back end that is compared with other libraries. */
export type ContestOf = (typeof CONTESTS)[number];

/** A GPU, and the way to it. */
export interface GpuIdentity {
  /** "NVIDIA H100 80GB HBM3" */
  readonly adapter: string;
  /** What the driver calls itself. */
  readonly driver: string;
  /** Whose WebGPU it is, of a contest of WebGPU: "Dawn, npm webgpu 0.6.2". */
  readonly webgpu?: string | undefined;
  /** Its architecture, of a contest of CUDA: "sm_90". */
  readonly cuda?: string | undefined;
}

/** A GPU, and what it did at best in the same run. */
export interface GpuFacts extends GpuIdentity {
  /** Copying a buffer in the GPU's memory, bytes read and bytes written together, in GB/s; null as for the roof. */
  readonly copyGBs: number | null;
  /** Subgroup matrices in registers, float16 in, float32 out; null where there are none. */
  readonly matrixGflops: number | null;
}

/** Who could take part, and why not. */
export interface ContestantReport {
  /** "onnxruntime-web/2": the library and its threads. */
  readonly id: string;
  readonly name: string;
  readonly threads: number;
  /** Its version and device, or why it takes no part. */
  readonly what: string;
  readonly takesPart: boolean;
}

/** What became of a case with a contestant. */
export type Entry = Outcome & { readonly contestant: string };
export type MeasuredEntry = Extract<Entry, { outcome: "measured" }>;

/** The roof that a case of a run stands under: that of matrix units for half types, where they have one of their own. */
export function roofOf({ roof, matrixRoof }: Pick<RunFile, "roof" | "matrixRoof">, { dtype }: Outcome): Roof {
  return dtype === "float32" ? roof : (matrixRoof ?? roof);
}

/** GFLOP/s of a measured case. */
export function gflopsOf({ flops, timing }: Pick<Measured, "flops" | "timing">): number {
  return flops / timing.medianMs / 1e6;
}

export function isMeasured<T extends Outcome>(outcome: T): outcome is Extract<T, { outcome: "measured" }> {
  return outcome.outcome === "measured";
}

export function formatResults(file: ResultsFile): string {
  return `${JSON.stringify(file, null, 2)}\n`;
}

/**
 * Reads the text of a results file.
 * @param name what errors call it
 * @throws FaError FA_OPTION when it is cut short, of another version, or not as `ResultsFile` says
 */
export function parseResults(text: string, name: string): ResultsFile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw complaint(
      name,
      "must be a whole JSON file",
      (error as Error).message,
      "It was cut short or edited: run again.",
    );
  }
  const { schema, version } = (json ?? {}) as Partial<ResultsFile>;
  if (schema !== SCHEMA) {
    throw complaint(name, `must have schema "${SCHEMA}"`, JSON.stringify(schema), "Is it a file that --json wrote?");
  }
  if (!READABLE.includes(version)) {
    const fix =
      typeof version === "number" && version < VERSION
        ? "It is an older one: run again with --json."
        : "Read it with the version of the app that wrote it.";
    throw complaint(name, `must have version ${VERSION}`, JSON.stringify(version), fix);
  }
  if (version !== VERSION) json = upgraded(json as OlderFile);
  const problem = file("", json);
  if (problem) throw complaint(name, problem.rule, problem.got, "Run again with --json instead of editing it.");
  const read = json as ResultsFile;
  return read.kind === "run"
    ? { ...read, outcomes: read.outcomes.map(withNaN) }
    : { ...read, entries: read.entries.map(withNaN) };
}

/** A file of an older version, as far as anybody knows before it is checked. */
type OlderFile = Partial<RunFile> & Partial<ContestFile>;

/** What an older file lacks, from what it has; it is checked afterwards. A contest of version 2 was one of the wasm back end. */
function upgraded(older: OlderFile): unknown {
  const { kind, contestOf = "wasm", outcomes, entries } = older;
  const timer = kind === "contest" && contestOf !== "wasm" ? "chains" : "wall";
  const all = (list: unknown): unknown => (Array.isArray(list) ? list.map((one) => withFacts(one, timer)) : list);
  if (kind === "run") return { ...older, version: VERSION, bandwidth: null, outcomes: all(outcomes) };
  return { ...older, version: VERSION, contestOf, entries: all(entries) };
}

function withFacts(one: unknown, timer: Timing["timer"]): unknown {
  if (typeof one !== "object" || one === null) return one;
  const outcome = one as Partial<Measured>;
  const { group, pass, D, timing, verification } = outcome;
  const sizes = { ...outcome, Dv: D } as CaseFacts;
  const bytes =
    group === "module"
      ? moduleBytes(
          { embedDim: sizes.H * sizes.D, numHeads: sizes.H, numHeadsKv: sizes.Hkv },
          sizes.B * sizes.Sq,
          sizes.pass,
        )
      : bytesOfSizes({ ...sizes, backward: pass === "backward" });
  const [, mayErr] = /, (\d+) times the tolerance$/.exec(verification?.against ?? "") ?? [];
  return {
    ...outcome,
    Dv: D,
    bytes,
    ...(timing && { timing: { ...timing, timer } }),
    ...(mayErr !== undefined && { verification: { ...verification, mayErr: Number(mayErr) } }),
  };
}

/** JSON has no NaN: it is written as null, and only a wrong result may have it. */
function withNaN<T extends Outcome>(outcome: T): T {
  if (outcome.outcome !== "wrong") return outcome;
  const errors = Object.entries(outcome.verification).map(([name, value]) => [name, value ?? NaN] as const);
  return { ...outcome, verification: Object.fromEntries(errors) as unknown as Refuted };
}

function complaint(name: string, rule: string, got: string, fix: string): FaError {
  return new FaError("FA_OPTION", `${name}: the results file ${rule}; got ${got}. ${fix}`);
}

// ---- the schema, as checks that say where and what is wrong

interface Problem {
  readonly rule: string;
  readonly got: string;
}
type Check = (path: string, value: unknown) => Problem | undefined;

const must =
  (rule: string, holds: (value: unknown) => boolean): Check =>
  (path, value) =>
    holds(value) ? undefined : { rule: `must have ${rule} at ${path}`, got: JSON.stringify(value) ?? "nothing" };

const text = must("a text", (value) => typeof value === "string");
const flag = must("true or false", (value) => typeof value === "boolean");
const number = must("a number", (value) => typeof value === "number" && value >= 0);
const positive = must("a number above 0", (value) => typeof value === "number" && value > 0);
const count = must("a whole number", (value) => Number.isSafeInteger(value) && (value as number) >= 0);
const date = must("a date", (value) => typeof value === "string" && !Number.isNaN(Date.parse(value)));
const oneOf = (...values: readonly unknown[]): Check => must(`one of ${values.join(", ")}`, (v) => values.includes(v));
const optional =
  (check: Check): Check =>
  (path, value) =>
    value === undefined ? undefined : check(path, value);
const orNull =
  (check: Check): Check =>
  (path, value) =>
    value === null ? undefined : check(path, value);

const object =
  (fields: Readonly<Record<string, Check>>): Check =>
  (path, value) => {
    if (typeof value !== "object" || value === null) return must("an object", () => false)(path || "its top", value);
    for (const [name, check] of Object.entries(fields)) {
      const problem = check(path ? `${path}.${name}` : name, (value as Record<string, unknown>)[name]);
      if (problem) return problem;
    }
    return undefined;
  };

const list =
  (check: Check): Check =>
  (path, value) => {
    if (!Array.isArray(value)) return must("a list", () => false)(path, value);
    for (const [n, item] of value.entries()) {
      const problem = check(`${path}[${n}]`, item);
      if (problem) return problem;
    }
    return undefined;
  };

const facts = {
  id: text,
  title: text,
  group: oneOf(...GROUPS),
  pass: oneOf(...PASSES),
  dtype: oneOf(...DTYPES.filter((dtype): dtype is FloatDType => dtype !== "int32" && dtype !== "bool")),
  B: count,
  H: count,
  Hkv: count,
  Sq: count,
  Skv: count,
  D: count,
  Dv: count,
  causal: flag,
  flops: number,
  bytes: number,
  scoresBytes: number,
};

const verification =
  (ok: boolean, error: Check): Check =>
  (path, value) => {
    const problem = object({
      ok: oneOf(ok),
      against: must("what it was compared with", (said) => typeof said === "string" && said !== ""),
      maxError: error,
      meanSquareError: error,
      ofTolerance: error,
      worst: text,
      mayErr: optional(positive),
    })(path, value);
    if (problem || !ok) return problem;
    // What is claimed must follow from what was found.
    const { ofTolerance, mayErr = 1 } = value as Passed;
    return must(`at most ${mayErr}`, () => ofTolerance <= mayErr)(`${path}.ofTolerance`, ofTolerance);
  };

const times = object({
  medianMs: positive,
  lowMs: positive,
  highMs: positive,
  firstMs: positive,
  samples: positive,
  callsPerSample: positive,
  timer: oneOf(...Object.keys(TIMERS)),
  warmUpCalls: optional(count),
  inputSets: optional(positive),
});

const timing: Check = (path, value) => {
  const problem = times(path, value);
  if (problem) return problem;
  const { lowMs, medianMs, highMs } = value as Timing;
  return must(`a number from ${lowMs} to ${highMs}, the quartiles,`, () => lowMs <= medianMs && medianMs <= highMs)(
    `${path}.medianMs`,
    medianMs,
  );
};

/** Only a measured case has times, and only with a verification that passed. */
const OUTCOMES: Readonly<Record<Outcome["outcome"], Readonly<Record<string, Check>>>> = {
  measured: {
    ...facts,
    verification: verification(true, number),
    timing,
    peakBytes: orNull(count),
    kernel: optional(text),
  },
  wrong: { ...facts, verification: verification(false, orNull(number)) },
  failed: { ...facts, reason: text },
  skipped: { ...facts, reason: text },
};

const outcome =
  (more: Readonly<Record<string, Check>> = {}): Check =>
  (path, value) => {
    const kind = (value as Partial<Outcome> | null)?.outcome;
    const unknown = oneOf(...Object.keys(OUTCOMES))(`${path}.outcome`, kind);
    return unknown ?? object({ ...OUTCOMES[kind!], ...more })(path, value);
  };

const reading: Check = (path, value) =>
  object({ case: text, ...(has(value, "value") ? { value: number } : { because: oneOf(...LACKS), reason: text }) })(
    path,
    value,
  );

const target: Check = (path, value) => {
  const problem = object({
    id: text,
    title: text,
    how: text,
    unit: oneOf(...UNITS),
    bound: oneOf(...BOUNDS),
    required: positive,
    readings: list(reading),
  })(path, value);
  // What is claimed must follow from what was read.
  return problem ?? object({ state: oneOf(stateOf(value as TargetOutcome)) })(path, value);
};

const any = {
  machine: object({ name: text, cpu: text, cores: count, platform: text, runtime: text }),
  date,
  commit: orNull(text),
  complete: flag,
};
const roof = object({ gflops: positive, what: text });

const FILES: Readonly<Record<ResultsFile["kind"], Check>> = {
  run: object({
    ...any,
    roof,
    matrixRoof: optional(roof),
    bandwidth: orNull(object({ gbs: positive, what: text })),
    backend: object({ name: text, device: text, identity: optional(text) }),
    candidates: list(
      object({ name: text, ok: flag, taken: flag, reason: text, device: optional(text), ms: optional(positive) }),
    ),
    outcomes: list(outcome()),
  }),
  contest: object({
    ...any,
    roof: orNull(roof),
    contestOf: oneOf(...CONTESTS),
    gpu: optional(
      object({
        adapter: text,
        driver: text,
        webgpu: optional(text),
        cuda: optional(text),
        copyGBs: orNull(positive),
        matrixGflops: orNull(positive),
      }),
    ),
    contestants: list(object({ id: text, name: text, threads: count, what: text, takesPart: flag })),
    entries: list(outcome({ contestant: text })),
    targets: list(target),
  }),
};

const file: Check = (path, value) => {
  const { kind } = value as Partial<ResultsFile>;
  return oneOf(...Object.keys(FILES))("kind", kind) ?? FILES[kind!](path, value);
};

function has(value: unknown, name: string): boolean {
  return typeof value === "object" && value !== null && name in value;
}
