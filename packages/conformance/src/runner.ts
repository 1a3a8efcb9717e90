import { createAttention, FaError, type AttentionOptionsOf, type BackendProvider, type FloatDType } from "@fa/core";
import { CASES, caseCheck } from "./cases.ts";
import { CASTS } from "./casts.ts";
import type { Check } from "./check.ts";
import { EDGES } from "./edges.ts";
import { GOLDEN } from "./files.ts";
import { attentionChecks, linearChecks, philoxChecks } from "./golden.ts";
import { onnxChecks } from "./onnx.ts";
import { propertyChecks } from "./properties.ts";
import { Subject } from "./subject.ts";

export interface ConformanceOptions {
  /** Only checks whose name contains this text. */
  readonly only?: string | undefined;
  /** Only checks of these capabilities. */
  readonly capabilities?: readonly string[] | undefined;
  /** Only this part of so many, counted from 1: side by side in as many processes, they are the whole. */
  readonly part?: { readonly number: number; readonly of: number } | undefined;
  /** Forced on every call that names none. */
  readonly blockSize?: AttentionOptionsOf<never>["blockSize"];
  /** Random problems a property. Default 12. */
  readonly runs?: number | undefined;
  /** Seed of the random problems. Default 1. */
  readonly seed?: number | undefined;
  /** Folders of other programs' cases, as URLs that end in a slash, to run as well. */
  readonly torch?: URL | undefined;
  readonly onnx?: URL | undefined;
  /** Called after each check. */
  readonly onResult?: ((result: CheckResult) => void) | undefined;
}

export interface CheckResult {
  readonly name: string;
  readonly capability: string;
  /** `refused`: the back end said FA_UNSUPPORTED, as it may. */
  readonly status: "passed" | "failed" | "refused";
  /** Why it failed or was refused. */
  readonly reason?: string | undefined;
  readonly ms: number;
}

export interface ConformanceReport {
  readonly backend: string;
  readonly device: string;
  readonly results: readonly CheckResult[];
  readonly passed: number;
  readonly failed: number;
  readonly refused: number;
}

/** Half types run the golden cases too: their inputs are exact in all. */
const GOLDEN_DTYPES: readonly FloatDType[] = ["float32", "float16", "bfloat16"];

/** Every check that the options ask for, in the order that they run. */
export async function conformanceChecks(options: ConformanceOptions = {}): Promise<Check[]> {
  const { only, capabilities, part = { number: 1, of: 1 }, runs = 12, seed = 1, torch, onnx } = options;
  const checks = [
    ...(await attentionChecks(GOLDEN, "golden", GOLDEN_DTYPES)),
    ...(await linearChecks()),
    ...(await philoxChecks()),
    ...(torch ? await attentionChecks(torch, "torch", GOLDEN_DTYPES) : []),
    ...(onnx ? await onnxChecks(onnx) : []),
    ...CASES.map(caseCheck),
    ...EDGES,
    ...CASTS,
    ...propertyChecks({ runs, seed }),
  ];
  const wanted = checks.filter(
    ({ name, capability }) =>
      (only === undefined || name.includes(only)) && (capabilities === undefined || capabilities.includes(capability)),
  );
  // Neighbours stay together: they use the same kernels.
  const bound = (number: number): number => Math.round((wanted.length * number) / part.of);
  return wanted.slice(bound(part.number - 1), bound(part.number));
}

/** Runs one check and says what became of it. Never throws. */
export async function runCheck(subject: Subject, check: Check): Promise<CheckResult> {
  const { name, capability } = check;
  const start = performance.now();
  const result = (status: CheckResult["status"], reason?: string): CheckResult => {
    return { name, capability, status, reason, ms: performance.now() - start };
  };
  try {
    await check.run(subject);
    return result("passed");
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return result(error instanceof FaError && error.code === "FA_UNSUPPORTED" ? "refused" : "failed", message);
  }
}

/**
 * Holds a back end to the contract. Needs nothing but its provider, so that anyone can run it on a back end of their own.
 * @throws FaError FA_UNAVAILABLE if the back end does not open here
 */
export async function conformance(
  provider: BackendProvider,
  options: ConformanceOptions = {},
): Promise<ConformanceReport> {
  const checks = await conformanceChecks(options);
  const fa = await createAttention({ backends: [provider] });
  const subject = new Subject(fa, options.blockSize);
  const results: CheckResult[] = [];
  try {
    for (const check of checks) {
      const result = await runCheck(subject, check);
      results.push(result);
      options.onResult?.(result);
    }
  } finally {
    await fa.dispose();
  }
  const count = (status: CheckResult["status"]): number => results.filter((result) => result.status === status).length;
  const { name: backend, device } = fa.backend;
  return { backend, device, results, passed: count("passed"), failed: count("failed"), refused: count("refused") };
}
