/**
 * The results file: what a run found out, on which machine, by which commit. Read and written by the terminal, the
 * README's numbers, and whatever draws them; validated whenever it is read.
 */
import { DTYPES, FaError, type CandidateReport, type FloatDType, type Roof } from "@fa/core";
import { GROUPS, PASSES, type CaseFacts } from "./cases.ts";
import type { Timing } from "./measure.ts";
import type { Verification } from "./verify.ts";

export const SCHEMA = "fa-bench";
export const VERSION = 1;

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
        readonly verification: Verification;
        readonly timing: Timing;
        /** The most that tensors and workspace took on the device. */
        readonly peakBytes: number;
      }
    | { readonly outcome: "wrong"; readonly verification: Verification }
    | { readonly outcome: "failed" | "skipped"; readonly reason: string }
  );

export type Measured = Extract<Outcome, { outcome: "measured" }>;

export interface ResultsFile {
  readonly schema: typeof SCHEMA;
  readonly version: typeof VERSION;
  readonly machine: Machine;
  /** ISO 8601, UTC. */
  readonly date: string;
  /** Of the code that ran, with "-dirty" when files differed from it; null where there is no git. */
  readonly commit: string | null;
  readonly backend: { readonly name: string; readonly device: string };
  /** Every back end that was tried, and why each was or was not taken. */
  readonly candidates: readonly CandidateReport[];
  /** What the device's arithmetic can do at best, measured in the same run. */
  readonly roof: Roof;
  /** False when the run was stopped before its last case. */
  readonly complete: boolean;
  readonly outcomes: readonly Outcome[];
}

/** GFLOP/s of a measured case. */
export function gflopsOf({ flops, timing }: Measured): number {
  return flops / timing.medianMs / 1e6;
}

export function isMeasured(outcome: Outcome): outcome is Measured {
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
  if (version !== VERSION) {
    const fix = "Run again with --json, or read it with the version that wrote it.";
    throw complaint(name, `must have version ${VERSION}`, JSON.stringify(version), fix);
  }
  const problem = file("", json);
  if (problem) throw complaint(name, problem.rule, problem.got, "Run again with --json instead of editing it.");
  const { outcomes, ...rest } = json as ResultsFile;
  return { ...rest, outcomes: outcomes.map((one) => (one.outcome === "wrong" ? withNaN(one) : one)) };
}

/** JSON has no NaN: it is written as null, and only a wrong result may have it. */
function withNaN(wrong: Extract<Outcome, { outcome: "wrong" }>): Outcome {
  const errors = Object.entries(wrong.verification).map(([name, value]) => [name, value ?? NaN] as const);
  return { ...wrong, verification: Object.fromEntries(errors) as unknown as Verification };
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
  S: count,
  D: count,
  causal: flag,
  flops: number,
  scoresBytes: number,
};

const verification = (ok: boolean, error: Check): Check =>
  object({
    ok: oneOf(ok),
    against: text,
    maxError: error,
    meanSquareError: error,
    ofTolerance: error,
    worst: text,
  });

const timing = object({
  medianMs: positive,
  lowMs: positive,
  highMs: positive,
  firstMs: positive,
  samples: count,
  callsPerSample: count,
});

/** Only a measured case has times, and only with a verification that passed. */
const OUTCOMES: Readonly<Record<Outcome["outcome"], Check>> = {
  measured: object({ ...facts, verification: verification(true, number), timing, peakBytes: count }),
  wrong: object({ ...facts, verification: verification(false, orNull(number)) }),
  failed: object({ ...facts, reason: text }),
  skipped: object({ ...facts, reason: text }),
};

const outcome: Check = (path, value) => {
  const kind = (value as Partial<Outcome> | null)?.outcome;
  const unknown = oneOf(...Object.keys(OUTCOMES))(`${path}.outcome`, kind);
  return unknown ?? OUTCOMES[kind!](path, value);
};

const file = object({
  machine: object({ name: text, cpu: text, cores: count, platform: text, runtime: text }),
  date,
  commit: orNull(text),
  backend: object({ name: text, device: text }),
  candidates: list(object({ name: text, ok: flag, taken: flag, reason: text, device: optional(text) })),
  roof: object({ gflops: positive, what: text }),
  complete: flag,
  outcomes: list(outcome),
});
