import type { FloatDType } from "@fa/core";
import { compare, type Expected } from "./tolerance.ts";
import type { Subject } from "./subject.ts";

/** One promise of the contract, as something that runs. Its name is the specification. */
export interface Check {
  readonly name: string;
  /** The row of the report that it counts in: "causal", "dropout", "float16", ... */
  readonly capability: string;
  /** Throws if the promise does not hold. */
  readonly run: (subject: Subject) => Promise<void>;
}

/** A promise that did not hold. */
export class Mismatch extends Error {
  override readonly name: string = "Mismatch";
}

/** Throws a Mismatch unless the condition holds. */
export function hold(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Mismatch(what);
}

/** Throws a Mismatch unless a result agrees with what is expected, by the tolerances of its dtype. */
export function agree(
  name: string,
  got: ArrayLike<number> | undefined,
  truth: ArrayLike<number>,
  { kind = "value", dtype = "float32", naive, parts, scores }: Partial<Expected> & { readonly dtype?: FloatDType } = {},
): void {
  hold(got !== undefined, `${name}: missing`);
  const { ok, text } = compare(got, { truth, kind, dtype, naive, parts, scores });
  hold(ok, `${name}: ${text}`);
}

/** Throws a Mismatch unless two results are equal bit for bit (NaN equals NaN). */
export function same(name: string, a: ArrayLike<number>, b: ArrayLike<number>): void {
  hold(a.length === b.length, `${name}: ${a.length} elements instead of ${b.length}`);
  for (let n = 0; n < a.length; n++) {
    hold(Object.is(a[n], b[n]), `${name}: element ${n} is ${a[n]} once and ${b[n]} another time`);
  }
}
